"""Trainings on a stream: on the command line, gone on with in mid-epoch, and on two processes."""

import os
import subprocess
from pathlib import Path

import pytest
import torch

from lightning_noisy import NoisyImageClassifier
from lightning_noisy.cli.lightning_cli import main

from ..quick import python
from ..streaming.shard_files import write_parquet, write_tars

RECIPE = Path(__file__).parents[2] / "recipes" / "streaming_web.yaml"
SIZES = (9, 4, 14, 6)
STEPS_PER_EPOCH = 5


def fit(shards, folder, workers, *options):
    last = f"{{class_path: lightning_noisy.training.checkpoint_io.LastCheckpoint, init_args: {{dirpath: {folder}/ckpt, "
    return main(
        [
            "fit",
            f"--config={RECIPE}",
            f"--data.source={shards}",
            f"--trainer.default_root_dir={folder}",
            f"--trainer.callbacks={last}every_n_train_steps: 1}}}}",
            f"--data.num_workers={workers}",
            "--data.batch_size=8",
            "--data.buffer_size=5",
            "--data.image_size=32",
            "--model.backbone=timm:test_resnet",
            "--model.pretrained=false",
            "--model.noise={warmup_epochs: 1, dropout: 0.3}",
            "--model.lr_warmup_steps=3",
            "--trainer.max_epochs=3",
            "--trainer.accelerator=cpu",
            "--trainer.logger=false",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            f"--run_files.directory={folder}/out",
            *options,
        ]
    )


@pytest.mark.parametrize(
    ("write", "workers", "step"),
    [
        (write_parquet, 0, 7),
        pytest.param(write_tars, 2, 8, marks=pytest.mark.slow),
        pytest.param(write_parquet, 2, 14, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_breaks_off_ends_with_the_weights_of_one_that_does_not(write, workers, step, tmp_path, monkeypatch):
    shards = write(tmp_path / "shards", SIZES)
    whole = fit(shards, tmp_path / "whole", workers)
    assert whole.trainer.global_step == 3 * STEPS_PER_EPOCH

    original = NoisyImageClassifier.training_step

    def breaking(self, batch, batch_idx):
        if self.global_step == step:
            raise RuntimeError("the power is gone")
        return original(self, batch, batch_idx)

    monkeypatch.setattr(NoisyImageClassifier, "training_step", breaking)
    with pytest.raises(RuntimeError, match="the power is gone"):
        fit(shards, tmp_path / "broken", workers)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    saved = torch.load(tmp_path / "broken" / "ckpt" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == step
    resumed = fit(shards, tmp_path / "broken", workers, "--ckpt_path=last")
    assert resumed.trainer.global_step == whole.trainer.global_step
    expected = whole.model.state_dict()
    for name, value in resumed.model.state_dict().items():
        if not name.startswith("accuracies"):
            assert torch.equal(value, expected[name]), name


TWO_PROCESSES = """
import sys
import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning_noisy import NoisyImageClassifier, StreamingImageDataModule

shards, val, output = sys.argv[1:]

class Seen(NoisyImageClassifier):
    def training_step(self, batch, batch_idx):
        known = (batch.noisy_labels != -1).tolist()
        self.seen.append((self.current_epoch, [name for name, own in zip(batch.ids, known) if own]))
        return super().training_step(batch, batch_idx)

def run(ckpt_path=None):
    L.seed_everything(0)
    data = StreamingImageDataModule(
        shards, image_size=32, batch_size=4, buffer_size=5, num_workers=2, val_source=val
    )
    model = Seen("timm:test_resnet", 3, pretrained=False, noise={"warmup_epochs": 1})
    model.seen = []
    keep = ModelCheckpoint(output, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = L.Trainer(
        max_epochs=3, accelerator="cpu", devices=2, strategy="ddp", enable_progress_bar=False, logger=False,
        callbacks=[keep] if ckpt_path is None else [], enable_checkpointing=ckpt_path is None,
    )
    trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer, model

trainer, model = run()
_, resumed = run(f"{output}/step=7.ckpt")
torch.save(
    {"seen": model.seen, "resumed": resumed.seen, "state": model.state_dict(),
     "counted": model.epoch_counts.latest.label_counts,
     "resumed_state": resumed.state_dict(), "accuracy": trainer.callback_metrics["val/accuracy_noisy"].item()},
    f"{output}/rank{trainer.global_rank}.pt",
)
"""


@pytest.mark.slow
def test_two_processes_read_every_image_once_and_make_as_many_steps(tmp_path):
    sizes = [14, 2, 6, 3]  # 14 and 11 images: 4 steps of one process, 3 of the other
    shards, val = write_parquet(tmp_path / "shards", sizes), write_tars(tmp_path / "val", [7], _named)
    (tmp_path / "script.py").write_text(TWO_PROCESSES, encoding="utf-8")
    ran = subprocess.run(
        [python(), "script.py", str(shards), str(val), str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    names = sorted(f"{shard:03}.parquet#{row}" for shard, size in enumerate(sizes) for row in range(size))
    orders = set()
    for epoch in range(3):
        read = [[ids for its_epoch, ids in rank["seen"] if its_epoch == epoch] for rank in ranks]
        assert len(read[0]) == len(read[1])
        assert sorted(name for steps in read for ids in steps for name in ids) == names
        orders.add(str(read))
    assert len(orders) == 3
    for rank in ranks:
        assert rank["resumed"] == rank["seen"][7:], "each process goes on at its own place"
        for name, value in rank["state"].items():
            if not name.startswith("accuracies"):
                assert torch.equal(rank["resumed_state"][name], value), name
        assert rank["counted"].sum() == sum(sizes)
        assert rank["accuracy"] == ranks[0]["accuracy"]
    assert round(ranks[0]["accuracy"] * 7, 3) % 1 == 0, "the seven images of the other process's shard are counted once"


def _named(number, kind):
    return {"label.txt": ("ant", "bee", "cat")[kind]}
