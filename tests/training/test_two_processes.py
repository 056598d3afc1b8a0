"""Two processes on a CPU (gloo): the noise layer in DDP, warm-up included."""

import os
import subprocess

import numpy as np
import pytest
import torch

from lightning_noisy.features import read_features

from ..quick import python
from .loggers.wandb_file import read_history, run_files

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
import lightning.pytorch as L
import torch
from lightning_noisy import NoisyImageClassifier, NoisyImageDataModule
from lightning_noisy.training.callbacks.run_files import RunFiles
from lightning_noisy.training.loggers.wandb_logger import NoisyWandbLogger

class Seen(NoisyImageClassifier):
    losses = []
    def noisy_loss(self, clean_logits, noisy_labels):
        losses = torch.nn.functional.cross_entropy(clean_logits.detach(), noisy_labels, reduction="none")
        self.losses += [(self.current_epoch, loss) for loss in losses.tolist()]
        return super().noisy_loss(clean_logits, noisy_labels)

photos, output = sys.argv[1:]
L.seed_everything(0)
data = NoisyImageDataModule(photos, image_size=16, batch_size=6, num_workers=0, val_fraction=0.1)
model = Seen(
    "timm:test_vit", 3, pretrained=False, image_size=16, backbone_kwargs={"patch_size": 4}, noise={"warmup_epochs": 1}
)
trainer = L.Trainer(
    max_epochs=3, accelerator="cpu", devices=2, strategy="ddp", enable_progress_bar=False,
    logger=NoisyWandbLogger(save_dir=output), default_root_dir=output, callbacks=[RunFiles(output)],
)
trainer.fit(model, data)
torch.save(
    {"state": model.state_dict(), "counted": model.epoch_counts.latest.label_counts, "seed": torch.initial_seed(),
     "losses": model.losses},
    f"{output}/rank{trainer.global_rank}.pt",
)
"""


COMPARE = """
import os
import sys
import time
import lightning.pytorch as L
import torch
from lightning_noisy import NoisyImageClassifier, NoisyImageDataModule
from lightning_noisy.features import extract
from lightning_noisy.inference.predicting import EveryImage
from lightning_noisy.features.frozen_features import FrozenFeatures

photos, output, devices = sys.argv[1], sys.argv[2], int(sys.argv[3])

class SecondIsLate(EveryImage):
    def setup(self, stage):
        if os.environ.get("LOCAL_RANK") == "1":
            time.sleep(2)
        super().setup(stage)

extract.EveryImage = SecondIsLate
L.seed_everything(0)
data = NoisyImageDataModule(
    photos, image_size=16, batch_size=10 // devices, num_workers=0, val_fraction=0.15, max_train_images=30,
    noise="pair:0.3", test_source=photos, augmentation={"no_aug": True},
)
model = NoisyImageClassifier(
    "timm:test_vit", 3, pretrained=False, image_size=16, backbone_kwargs={"patch_size": 4},
    noise={"warmup_epochs": 1, "dropout": 0.0}, optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5}},
)
trainer = L.Trainer(
    max_epochs=3, accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", logger=False,
    enable_progress_bar=False, enable_checkpointing=False, num_sanity_val_steps=0,
)
trainer.fit(model, data)
metrics = {name: value.item() for name, value in trainer.callback_metrics.items() if "val" in name or "noise" in name}
metrics |= trainer.test(model, data, verbose=False)[0]
predicted = trainer.predict(model, data)
ids = [name for batch in predicted for name in batch["ids"]]
L.seed_everything(0)
probe = NoisyImageClassifier(
    "timm:test_vit", 3, pretrained=False, image_size=16, backbone_kwargs={"patch_size": 4}, trainable_blocks=0,
    noise={"dropout": 0.0}, optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5}},
)
seen = FrozenFeatures(f"{output}/features-{devices}")
L.Trainer(
    max_epochs=2, accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", logger=False,
    enable_progress_bar=False, enable_checkpointing=False, num_sanity_val_steps=0, callbacks=[seen],
).fit(probe, data)
found = {"state": model.state_dict(), "metrics": metrics, "ids": ids, "probe": probe.state_dict()}
torch.save(found, f"{output}/{devices}-{trainer.global_rank}.pt")
"""


def test_two_processes_train_and_measure_as_one_with_the_doubled_batch(photos, tmp_path):
    (tmp_path / "script.py").write_text(COMPARE, encoding="utf-8")
    for devices in (1, 2):
        command = [python(), "script.py", str(photos), str(tmp_path), str(devices)]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert ran.returncode == 0, ran.stderr[-2000:]
    one, first, second = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1"))
    for name, value in one["state"].items():
        torch.testing.assert_close(first["state"][name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert not torch.equal(one["state"]["noise_layer.weight"], torch.eye(3))
    assert first["metrics"] == second["metrics"]
    assert first["metrics"] == pytest.approx(one["metrics"], rel=1e-4)
    assert {"val/loss_noisy", "val/accuracy_clean", "test/accuracy_clean", "noise/trace"} <= set(one["metrics"])
    assert sorted(first["ids"] + second["ids"]) == sorted(one["ids"]), "no image twice, none left out"
    for name, value in one["probe"].items():
        torch.testing.assert_close(first["probe"][name], value, rtol=1e-3, atol=1e-4, msg=name)
    tables = [read_features(tmp_path / f"features-{devices}") for devices in (1, 2)]
    assert tables[0].ids.equals(tables[1].ids)
    torch.testing.assert_close(tables[0].values, tables[1].values, rtol=1e-2, atol=1e-3)


def test_both_processes_end_with_the_same_weights_and_count_all_labels(photos, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    output = tmp_path / "output"
    output.mkdir()
    ran = subprocess.run(
        [python(), "script.py", str(photos), str(output)],
        cwd=tmp_path,
        env={**os.environ, "WANDB_MODE": "offline", "WANDB_DATA_DIR": str(tmp_path / "wandb_home")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    first, second = (torch.load(output / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, value in first["state"].items():
        if not name.startswith("accuracies"):
            assert torch.equal(value, second["state"][name]), name
    assert not torch.equal(first["state"]["noise_layer.weight"], torch.eye(3))
    assert first["counted"].sum() == second["counted"].sum() == 34  # 33 training images, one twice to share evenly
    assert first["seed"] != second["seed"]
    assert (output / "clean_model" / "model.safetensors").is_file()
    (path,) = run_files(output)  # one run for both
    logged = [row["train/loss_clean"] for row in read_history(path) if "train/loss_clean" in row]
    losses = np.array([*first["losses"], *second["losses"]])
    assert logged == pytest.approx([losses[losses[:, 0] == epoch, 1].mean() for epoch in range(3)], rel=1e-5)
