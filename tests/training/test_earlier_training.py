"""A training that begins anew where another has been: what is there is moved aside, and nothing is lost."""

import os
import re
from datetime import datetime

import lightning.pytorch as L
import pytest
import torch

from lightning_noisy.cli.lightning_cli import main
from lightning_noisy.training.checkpoint_io import LastCheckpoint
from lightning_noisy.training.earlier_training import move_aside

from .small import QUIET, OwnModule, loader

WRITTEN = datetime(2026, 2, 1, 12, 30, 5).timestamp()


def fit(folder, ckpt_path=None, epochs=1, **options):
    options = {"max_epochs": epochs, **QUIET, "enable_checkpointing": True, "default_root_dir": folder, **options}
    trainer = L.Trainer(callbacks=[LastCheckpoint(dirpath=str(folder))], **options)
    trainer.fit(OwnModule(), loader(), ckpt_path=ckpt_path, weights_only=True)


def test_the_checkpoint_of_an_earlier_training_is_moved_aside_and_told(tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(tmp_path / "run")
    first = (tmp_path / "run" / "last.ckpt").read_bytes()
    os.utime(tmp_path / "run" / "last.ckpt", (WRITTEN, WRITTEN))
    with caplog.at_level("INFO", "lightning.pytorch.utilities.rank_zero"):
        fit(tmp_path / "run", epochs=2)
    told = "What an earlier training has left is kept in run/earlier-20260201-123005: last.ckpt"
    assert caplog.text.count(told) == 1
    assert (tmp_path / "run" / "earlier-20260201-123005" / "last.ckpt").read_bytes() == first
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["epoch"] == 1


@pytest.mark.filterwarnings("ignore:.*(no last checkpoint available|is not empty)")
def test_a_training_that_goes_on_moves_nothing(tmp_path):
    fit(tmp_path, "last")  # there is none yet
    fit(tmp_path, "last", epochs=2)
    fit(tmp_path, fast_dev_run=1)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 1
    fit(tmp_path)
    fit(tmp_path, "last", epochs=3)  # not the one that was moved aside
    assert len(list(tmp_path.iterdir())) == 2
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 2


def test_what_is_moved_aside_never_replaces_what_was_before(tmp_path):
    for content in ("first", "second", "third"):
        for name in ("metrics.csv", "config.yaml"):
            (tmp_path / name).write_text(content)
            os.utime(tmp_path / name, (WRITTEN, WRITTEN))
        move_aside(tmp_path / name for name in ("metrics.csv", "config.yaml", "clean_model"))
    move_aside([tmp_path / "metrics.csv"])  # nothing is there
    folders = [tmp_path / f"earlier-20260201-123005{number}" for number in ("", "-2", "-3")]
    assert sorted(tmp_path.iterdir()) == folders
    assert [(folder / "config.yaml").read_text() for folder in folders] == ["first", "second", "third"]


@pytest.mark.filterwarnings("ignore")
def test_a_second_fit_into_the_same_folder_keeps_all_files_of_the_first(photos, tmp_path):
    run = tmp_path / "run"
    options = ["--model.backbone=timm:test_resnet", "--model.pretrained=false", "--data.num_workers=0"]
    options += [f"--data.source={photos}", "--data.image_size=16", "--trainer.max_epochs=1"]
    options += [
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
    ]
    options += ["--trainer.logger=lightning_noisy.training.csv_log.NoisyCSVLogger"]
    options += [f"--trainer.logger.save_dir={run}", "--trainer.logger.name=", "--trainer.logger.version="]
    options += ["--trainer.callbacks=lightning_noisy.training.checkpoint_io.LastCheckpoint"]
    options += [f"--trainer.callbacks.dirpath={run}"]

    def files():
        return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}

    main(["fit", *options])
    first = files()
    main(["fit", *options, "--seed_everything=1"])
    second = files()
    kept = {re.sub(r"earlier-[0-9-]+/", "", name): content for name, content in second.items() if "earlier-" in name}
    made_again = {"data_scan.json", "hparams.yaml"}  # of the same data and model
    assert {name: first[name] for name in set(first) - made_again} == kept
    assert {name for name in second if "earlier-" not in name} == set(first)
    assert all(first[name] != second[name] for name in ("config.yaml", "last.ckpt", "clean_model/model.safetensors"))
    main(["fit", *options, "--trainer.max_epochs=2", "--ckpt_path=last"])
    assert {name for name in files() if "earlier-" in name} == {name for name in second if "earlier-" in name}
