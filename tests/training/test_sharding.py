"""Weights that are shared out over two processes of a CPU (gloo): the same training as one process makes."""

import subprocess

import lightning.pytorch as L
import pytest
import timm
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn

from lightning_noisy import NoisyImageClassifier
from lightning_noisy.export.checkpoints import load_checkpoint
from lightning_noisy.hub import export_clean
from lightning_noisy.training.sharding import ShardedStrategy

from ..photos import write_photos
from ..quick import python
from .small import QUIET, OwnModule, loader

TRAIN = """
import os
import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.distributed.tensor import DTensor
from lightning_noisy import NoisyImageClassifier, NoisyImageDataModule
from lightning_noisy.training.callbacks.run_files import RunFiles
from lightning_noisy.training.sharding import ShardedStrategy

PASSING = ("train/loss", "images_per_second")  # of one process; of the moment


def train(devices, directory, ckpt_path=None):
    L.seed_everything(0)
    data = NoisyImageDataModule(
        "photos", image_size=16, batch_size=10 // devices, num_workers=0, val_fraction=0.15, max_train_images=30,
        noise="pair:0.3", test_source="photos", augmentation={"no_aug": True},
    )
    torch.manual_seed(5 if ckpt_path else int(os.environ.get("LOCAL_RANK", 0)))  # only rank zero's weights count
    model = NoisyImageClassifier(
        "timm:test_vit", 3, pretrained=False, image_size=16, backbone_kwargs={"patch_size": 4},
        noise={"warmup_epochs": 1, "dropout": 0.0, "lr_scale": 20}, layer_decay=0.9, trainable_blocks=4,
        optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 0.2, "momentum": 0.9, "weight_decay": 0.01}},
    )
    keep = ModelCheckpoint(f"{directory}/kept", filename="{epoch}", save_top_k=-1)
    trainer = L.Trainer(
        max_epochs=3, accelerator="cpu", devices=devices, strategy=ShardedStrategy() if devices > 1 else "auto",
        logger=False, enable_progress_bar=False, num_sanity_val_steps=0, gradient_clip_val=0.3,
        callbacks=[keep, RunFiles(f"{directory}/files")], default_root_dir=directory, enable_model_summary=False,
    )
    trainer.fit(model, data, ckpt_path=ckpt_path)
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items() if name not in PASSING}
    metrics |= trainer.test(model, data, verbose=False)[0]
    trainer.save_checkpoint(f"{directory}/end.ckpt")
    sharded = [(name, p) for name, p in model.named_parameters() if isinstance(p, DTensor)]
    shared_out = [name for name, p in sharded if p.to_local().numel() < p.numel()]
    torch.save({"metrics": metrics, "shared_out": shared_out}, f"{directory}/rank{trainer.global_rank}.pt")
"""
MAIN = """
import sys

train(2, "by_2")
train(2, "from_1_by_2", "by_1/kept/epoch=1.ckpt")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where one process and two have trained."""
    folder = tmp_path_factory.mktemp("sharded")
    write_photos(folder / "photos")
    train_alone(folder, "by_1")
    (folder / "script.py").write_text(TRAIN + MAIN, encoding="utf-8")
    command = [python(), "script.py"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return folder


def train_alone(folder, directory, ckpt_path=None):
    names = {}
    exec(TRAIN, names)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        names["train"](1, directory, ckpt_path)


def same(folder, directory, expected="by_1", file="end.ckpt"):
    """Weights and optimizer of two checkpoints, by the places of the parameters in the groups."""
    found, wanted = (torch.load(folder / name / file, weights_only=True) for name in (directory, expected))
    assert found["state_dict"].keys() == wanted["state_dict"].keys()
    for name, value in wanted["state_dict"].items():
        torch.testing.assert_close(found["state_dict"][name], value, rtol=1e-4, atol=1e-5, msg=name)
    momenta = [list(momenta_of(checkpoint["optimizer_states"][0])) for checkpoint in (found, wanted)]
    assert len(momenta[0]) > 10
    for one, other in zip(*momenta, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    return found


def momenta_of(state):
    for group in state["param_groups"]:
        yield from (state["state"][number]["momentum_buffer"] for number in group["params"])


@pytest.mark.slow
def test_two_processes_train_and_measure_as_one_with_the_doubled_batch(folder):
    checkpoint = same(folder, "by_2")
    start = torch.load(folder / "by_2" / "kept" / "epoch=0.ckpt", weights_only=True)["state_dict"]["noise_layer.weight"]
    assert torch.equal(start, torch.eye(3)), "the warm-up leaves the noise layer alone"
    assert (checkpoint["state_dict"]["noise_layer.weight"] - start).abs().max() > 0.005
    ranks = ("by_1/rank0.pt", "by_2/rank0.pt", "by_2/rank1.pt")
    one, first, second = (torch.load(folder / name, weights_only=True) for name in ranks)
    assert first["metrics"] == pytest.approx(one["metrics"], rel=1e-4)
    assert {"val/loss_noisy", "test/accuracy_clean", "noise/trace", "train/loss_clean"} <= set(first["metrics"])
    assert not one["shared_out"]
    assert {"noise_layer.weight", "backbone.head.weight", "backbone.blocks.0.attn.qkv.weight"} <= set(
        first["shared_out"]
    )
    assert first["metrics"] == second["metrics"]


@pytest.mark.slow
def test_a_checkpoint_goes_on_with_another_number_of_processes(folder):
    same(folder, "from_1_by_2")
    train_alone(folder, "from_2_by_1", "by_2/kept/epoch=1.ckpt")
    same(folder, "from_2_by_1")


@pytest.mark.slow
def test_the_clean_model_and_its_export_are_whole(folder):
    state = torch.load(folder / "by_2" / "end.ckpt", weights_only=True)["state_dict"]
    left = timm.create_model(f"local-dir:{folder / 'by_2' / 'files' / 'clean_model'}", pretrained=True)
    export_clean(folder / "by_2" / "end.ckpt", folder / "exported", license="mit")
    exported = timm.create_model(f"local-dir:{folder / 'exported'}", pretrained=True)
    for name, value in left.state_dict().items():
        assert torch.equal(value, state[f"backbone.{name}"]), name
        assert torch.equal(value, exported.state_dict()[name]), name
    assert load_checkpoint(folder / "by_2" / "end.ckpt").record.processes == 2
    for name in ("transition_matrix.csv", "label_counts.csv"):
        one, two = ((folder / by / "files" / name).read_text(encoding="utf-8") for by in ("by_1", "by_2"))
        assert numbers(two) == pytest.approx(numbers(one), rel=1e-4)


def numbers(table):
    return [float(cell) for row in table.splitlines()[1:] for cell in row.split(",")[1:]]


class OwnWeight(OwnModule):
    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(1))


def batch_norms():
    return NoisyImageClassifier("timm:test_resnet", 3, pretrained=False, image_size=32)


REFUSED = {
    "an average of the weights": (OwnModule, [EMAWeightAveraging()], "EMAWeightAveraging.*`ddp`"),
    "batch norms": (batch_norms, [], "without batch norm.*'backbone.conv1.1'"),
    "a weight of its own": (OwnWeight, [], "OwnWeight, but got temperature in itself"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_cannot_be_sharded_ends_in_one_sentence(case, single_process):
    build, callbacks, message = REFUSED[case]
    trainer = L.Trainer(max_epochs=1, strategy=ShardedStrategy(), devices=1, callbacks=callbacks, **QUIET)
    with pytest.raises(ValueError, match=message):
        trainer.fit(build(), loader())


def test_one_process_and_a_module_of_ones_own(single_process):
    losses = []
    for strategy in ("auto", ShardedStrategy()):
        torch.manual_seed(0)
        module = OwnModule({"num_classes": 3, "warmup_epochs": 1})
        trainer = L.Trainer(max_epochs=3, strategy=strategy, devices=1, use_distributed_sampler=False, **QUIET)
        trainer.fit(module, loader())
        losses.append([loss for _, loss in module.losses])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    with pytest.raises(ValueError, match="sharded over processes"):
        export_clean(module, "out", license="mit")


def test_several_processes_do_not_predict():
    trainer = L.Trainer(strategy=ShardedStrategy(), devices=2, **QUIET)
    trainer.strategy._launcher = None
    with pytest.raises(ValueError, match="one process to predict"):
        trainer.predict(batch_norms(), loader())
