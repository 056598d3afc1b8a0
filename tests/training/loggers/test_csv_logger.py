"""The CSV log of a training that goes on."""

import lightning.pytorch as L
import pytest

from lightning_noisy.training.loggers.csv_logger import NoisyCSVLogger, read_rows

from ..small import QUIET, OwnModule, loader


def fit(logger, epochs, ckpt_path=None, save=None):
    trainer = L.Trainer(max_epochs=epochs, **{**QUIET, "logger": logger, "log_every_n_steps": 1})
    trainer.fit(OwnModule(), loader(), ckpt_path=ckpt_path)
    if save:
        trainer.save_checkpoint(save)
    return read_rows(logger.metrics_file)


def cells(rows):
    return [(int(row["step"]), name) for row in rows for name, value in row.items() if value and name != "step"]


@pytest.mark.parametrize("version", [None, ""])
def test_a_later_start_takes_over_the_rows_before_its_checkpoint(version, tmp_path):
    def logger():
        return NoisyCSVLogger(tmp_path, name="", version=version)

    fit(logger(), 1, save=tmp_path / "1.ckpt")
    longer = fit(logger(), 3, tmp_path / "1.ckpt", save=tmp_path / "3.ckpt")
    assert [int(row["step"]) for row in longer if row["noise/trace"]] == [3, 7, 11]
    again = fit(logger(), 3, tmp_path / "1.ckpt")
    assert sorted(cells(again)) == sorted(cells(longer)) and len(set(cells(again))) == len(cells(again))
    first = fit(logger(), 1)
    assert {step for step, _ in cells(first)} == {3}, "a training from the start begins a file"
    assert len(list(tmp_path.rglob("metrics.csv"))) == (2 if version == "" else 4)
    if version == "":
        kept = next(tmp_path.glob("earlier-*/metrics.csv"))
        assert cells(read_rows(kept)) == cells(again), "the file of the training before is moved aside"


def test_a_row_that_a_kill_has_cut_off_is_left_out(tmp_path):
    (tmp_path / "metrics.csv").write_text("loss,step\n0.5,0\n0.25,1\n0.12")
    assert read_rows(tmp_path / "metrics.csv") == [{"loss": "0.5", "step": "0"}, {"loss": "0.25", "step": "1"}]


def test_a_first_part_that_is_gone_is_told(tmp_path):
    with pytest.warns(UserWarning, match="begins with step 3.*nowhere.csv"):
        NoisyCSVLogger(tmp_path).go_on("nowhere.csv", 3)


def test_rows_behind_the_checkpoint_are_logged_anew(tmp_path):
    (tmp_path / "first.csv").write_text("loss,step\n0.5,0\n0.25,1\n0.125,2\n")
    logger = NoisyCSVLogger(tmp_path)
    logger.go_on(str(tmp_path / "first.csv"), 2)
    logger.log_metrics({"loss": 0.0625}, 2)
    logger.save()
    assert [(row["step"], row["loss"]) for row in read_rows(logger.metrics_file)] == [
        ("0", "0.5"),
        ("1", "0.25"),
        ("2", "0.0625"),
    ]
