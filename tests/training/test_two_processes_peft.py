"""PEFT adapters in two processes on a CPU (gloo): DDP, and weights that are shared out."""

import subprocess

import pytest
import torch

from lightning_noisy.export.checkpoints import load_checkpoint
from lightning_noisy.hub import export_clean

from ..quick import python

pytestmark = pytest.mark.slow

TRAIN = """
import sys
import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning_noisy import NoisyImageClassifier, NoisyImageDataModule
from lightning_noisy.training.sharding import ShardedStrategy

photos, strategy, directory, *resumed = sys.argv[1:]
devices = 1 if strategy == "auto" else 2
L.seed_everything(0)
data = NoisyImageDataModule(
    photos, image_size=16, batch_size=10 // devices, num_workers=0, val_fraction=0.15, max_train_images=30,
    noise="pair:0.3", augmentation={"no_aug": True},
)
model = NoisyImageClassifier(
    "timm:test_vit", 3, pretrained=False, image_size=16, backbone_kwargs={"patch_size": 4}, adapter={"r": 2},
    noise={"warmup_epochs": 1}, lr_scheduler=None,
    optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}},
)
trainer = L.Trainer(
    max_epochs=3, accelerator="cpu", devices=devices, strategy=ShardedStrategy() if strategy == "sharded" else strategy,
    logger=False, enable_progress_bar=False, num_sanity_val_steps=0, default_root_dir=directory,
    callbacks=[ModelCheckpoint(directory, filename="{epoch}", save_top_k=-1)],
)
trainer.fit(model, data, ckpt_path=resumed[0] if resumed else None)
trainer.save_checkpoint(f"{directory}/end.ckpt")
"""


def train(photos, strategy, directory, *resumed):
    command = [python(), "-c", TRAIN, str(photos), strategy, str(directory), *map(str, resumed)]
    if strategy != "auto":  # Lightning starts the others by the same command, which must be a file
        directory.mkdir()
        (directory / "script.py").write_text(TRAIN, encoding="utf-8")
        command[1:3] = [str(directory / "script.py")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return torch.load(directory / "end.ckpt", weights_only=True)


@pytest.mark.parametrize("strategy", ["ddp", "sharded"])
def test_two_processes_train_an_adapter_as_one_and_resume(strategy, photos, tmp_path):
    one = train(photos, "auto", tmp_path / "one")
    two = train(photos, strategy, tmp_path / "two")
    again = train(photos, strategy, tmp_path / "again", tmp_path / "two" / "epoch=1.ckpt")
    assert one["state_dict"].keys() == two["state_dict"].keys() == again["state_dict"].keys()
    for name, value in two["state_dict"].items():
        assert torch.equal(again["state_dict"][name], value), name
        torch.testing.assert_close(one["state_dict"][name], value, rtol=1e-3, atol=1e-5, msg=name)
    assert not torch.equal(two["state_dict"]["noise_layer.weight"], torch.eye(3))
    first, second = (load_checkpoint(tmp_path / name / "end.ckpt") for name in ("one", "two"))
    assert first.record.adapter == second.record.adapter and first.record.adapter["rank"] == 2
    assert first.record.label_counts == second.record.label_counts
    folder = export_clean(tmp_path / "two" / "end.ckpt", tmp_path / "kept", "mit", adapter="keep", base_model="me/base")
    assert (folder / "adapter_model.safetensors").is_file()
