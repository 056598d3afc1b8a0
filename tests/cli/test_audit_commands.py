"""``lightning-noisy audit`` and ``apply``, from a fit to the fit on cleaned labels."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet
import pytest
import torch
from rich.console import Console

from lightning_noisy import NoisyImageClassifier, NoisyImageDataModule
from lightning_noisy.audit.judging.by_model import audit_labels
from lightning_noisy.audit.label_audit import LabelAudit
from lightning_noisy.cli import audit_commands as commands
from lightning_noisy.cli.kept_config import kept_config
from lightning_noisy.cli.lightning_cli import console_script
from lightning_noisy.inference.parts import positions_done

from ..audit.made import audit_of, hashes
from ..audit.small import trainer, true_labels
from ..quick import python

FIT = ["fit", "--model.backbone=timm:test_resnet", "--model.pretrained=false", "--model.optimizer=AdamW"]
FIT += ["--model.optimizer.lr=0.005", "--data.image_size=32", "--data.batch_size=64", "--data.num_workers=0"]
FIT += ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.logger=false"]
FIT += ["--trainer.callbacks=lightning_noisy.training.checkpoint_io.LastCheckpoint"]
NOISY = ["--data.source=digits", "--data.noise=uniform:0.5"]


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["lightning-noisy", *map(str, arguments)])
    console_script()


def fit(monkeypatch, folder, *options, epochs=1):
    checkpoints = [f"--trainer.callbacks.dirpath={folder}", f"--run_files.directory={folder / 'files'}"]
    run(monkeypatch, *FIT, *checkpoints, f"--trainer.max_epochs={epochs}", *options)
    return folder / "last.ckpt"


def cpu(*options):
    return ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", *options]


def test_the_checkpoint_knows_the_data_and_the_page_the_table_and_the_csv_are_there(tmp_path, monkeypatch, capsys):
    checkpoint = fit(monkeypatch, tmp_path / "run", *NOISY)
    run(monkeypatch, "audit", f"--ckpt_path={checkpoint}", f"--output={tmp_path / 'audit'}", *cpu())
    found = sorted(path.name for path in (tmp_path / "audit").iterdir())
    assert found == ["audit.parquet", "issues.csv", "posterior_histogram.png", "report.html", "summary.json"]
    audit = LabelAudit(tmp_path / "audit")
    splits = NoisyImageDataModule("digits", noise="uniform:0.5").splits
    assert set(audit.table["id"].to_pylist()) == {*splits["train"].ids.to_pylist(), *splits["val"].ids.to_pylist()}
    said = capsys.readouterr().out
    assert f"of {len(audit.table)} labels are wrong" in said
    loaded = NoisyImageClassifier.load_from_checkpoint(checkpoint)
    data = NoisyImageDataModule("digits", noise="uniform:0.5", image_size=32, batch_size=64, num_workers=0)
    by_python = audit_labels(loaded, data, trainer=trainer())
    assert by_python.summary.audit_id == audit.summary.audit_id
    assert by_python.table.equals(audit.table)
    assert "Next" not in said, "nobody should relabel by a network that can't tell the classes apart"
    # The same again finds all done; the page is made again.
    run(monkeypatch, "audit", f"--ckpt_path={checkpoint}", f"--output={tmp_path / 'audit'}", *cpu("--report=false"))


def test_the_config_of_the_fit_tells_of_the_data_too_and_options_win(tmp_path, monkeypatch):
    checkpoint = fit(monkeypatch, tmp_path / "run", *NOISY)
    config = tmp_path / "config.yaml"
    config.write_text("data: {class_path: lightning_noisy.NoisyImageDataModule, init_args: {source: nowhere}}\n")
    options = ["--data.init_args.source=digits", "--data.init_args.image_size=32", "--data.init_args.val_fraction=0"]
    run(
        monkeypatch, "audit", f"--config={config}", f"--ckpt_path={checkpoint}", f"--output={tmp_path / 'audit'}",
        "--report=false", *options, *cpu(),
    )  # fmt: skip
    assert set(LabelAudit(tmp_path / "audit").table["split"].to_pylist()) == {"train"}


def test_mistakes_are_one_sentence(tmp_path, monkeypatch, capsys):
    def sentence(*arguments):
        with pytest.raises(SystemExit) as stopped:
            run(monkeypatch, *arguments)
        said = str(stopped.value.code) if isinstance(stopped.value.code, str) else capsys.readouterr().err
        assert said.startswith("lightning-noisy: error: ") and "\n" not in said.strip()
        return said

    assert "does not exist" in sentence("audit", "--ckpt_path=none.ckpt", "--output=a", "--data.source=digits")
    checkpoint = fit(monkeypatch, tmp_path / "run", *NOISY)
    assert "`source`" in sentence("audit", f"--ckpt_path={checkpoint}", "--output=a", "--data.source=nowhere")
    none = ["--output=a", "--report_images=0"]
    assert "`report_images`" in sentence("audit", f"--ckpt_path={checkpoint}", *none)
    config = tmp_path / "config.yaml"
    config.write_text("a: 1")
    assert "`config`" in sentence("audit", f"--config={config}", f"--ckpt_path={checkpoint}", "--output=a")
    assert "a finished audit" in sentence("apply", "--audit=a", "--policy=drop", "--output=b.parquet")
    run(monkeypatch, "audit", f"--ckpt_path={checkpoint}", "--output=audit", "--report=false", *cpu())
    assert "`policy`" in sentence("apply", "--audit=audit", "--policy=burn", "--output=b.parquet")
    assert not (tmp_path / "a").exists() and not (tmp_path / "b.parquet").exists()


BACKBONE = ["--backbone=timm:test_resnet", "--pretrained=false", "--data.image_size=32", "--data.num_workers=0"]


@pytest.mark.filterwarnings("ignore:The backbone has random weights")
def test_an_audit_needs_no_checkpoint_and_features_are_made_once(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    run(monkeypatch, "features", *BACKBONE, *NOISY, f"--output={tmp_path / 'features'}", *cpu())
    assert "1,797 images" in capsys.readouterr().out
    before = hashes(tmp_path / "features")
    torch.manual_seed(0)  # the backbone has random weights, and must have the same
    options = [*NOISY, f"--features={tmp_path / 'features'}", f"--output={tmp_path / 'audit'}"]
    run(monkeypatch, "audit", *BACKBONE, *options, *cpu())
    said = capsys.readouterr().out
    audit = LabelAudit(tmp_path / "audit")
    assert f"of {len(audit.table)} labels are wrong" in said
    assert sorted(path.name for path in audit.directory.iterdir()) == [
        "audit.parquet", "issues.csv", "posterior_histogram.png", "report.html", "summary.json"
    ]  # fmt: skip
    assert hashes(tmp_path / "features") == before
    run(monkeypatch, "apply", f"--audit={audit.directory}", "--policy=drop", f"--output={tmp_path / 'b.parquet'}")
    assert NoisyImageDataModule(str(tmp_path / "b.parquet")).num_classes == 10


def test_what_an_audit_needs_is_told(monkeypatch, capsys):
    def sentence(*arguments):
        with pytest.raises(SystemExit) as stopped:
            run(monkeypatch, *arguments)
        return stopped.value.code if isinstance(stopped.value.code, str) else capsys.readouterr().err

    data = ["--output=a", "--data.source=digits"]
    assert "`ckpt_path`" in sentence("audit", *data) and "got neither" in sentence("audit", *data)
    assert "timm:local-dir" in sentence("audit", *data, "--backbone=resnet10t")
    assert "`folds` to be at least 2" in sentence("audit", *data, "--backbone=timm:x", "--folds=1")


def test_what_a_checkpoint_keeps_of_the_call_has_no_logger():
    called = {"trainer": {"logger": {"class_path": "W", "init_args": {"key": "secret"}}, "callbacks": None}}
    kept = kept_config({**called, "model": {"a": 1}, "data": {"b": 2}, "seed_everything": 0})
    assert "secret" not in json.dumps(kept)
    names = ("lightning_noisy.x.LastCheckpoint", "lightning.pytorch.callbacks.EMAWeightAveraging", "mine.Slack")
    callbacks = [{"class_path": name} for name in (*names, "lightning.pytorch.callbacks.LearningRateMonitor")]
    assert kept_config({"trainer": {"callbacks": callbacks}, "model": {}, "data": {}})["trainer"] == {
        "callbacks": [{"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging"}]
    }


@pytest.mark.slow
def test_cleaned_labels_make_a_better_network_and_the_users_files_stay(tmp_path, monkeypatch):
    photos, test_photos = _digits_as_files(tmp_path)
    before = hashes(tmp_path / "photos")
    data = [f"--data.source={photos}", f"--data.test_source={test_photos}", "--data.augmentation={no_aug: true}"]
    checkpoint = fit(monkeypatch, tmp_path / "first", *data, epochs=8)
    run(monkeypatch, "audit", f"--ckpt_path={checkpoint}", f"--output={tmp_path / 'audit'}", *cpu())
    audit = LabelAudit(tmp_path / "audit")
    manifest = tmp_path / "manifest.parquet"
    decisions = tmp_path / "decisions.json"
    first = audit.table.slice(0, 1).to_pylist()[0]
    entries = [{"id": first["id"], "decision": "drop"}]
    decisions.write_text(json.dumps({"format": 1, "audit_id": audit.summary.audit_id, "decisions": entries}))
    run(
        monkeypatch, "apply", f"--audit={tmp_path / 'audit'}", "--policy=relabel", f"--decisions={decisions}",
        f"--output={manifest}",
    )  # fmt: skip
    cleaned = NoisyImageDataModule(str(manifest))
    assert first["id"] not in pyarrow.parquet.read_table(manifest)["id"].to_pylist()
    names = cleaned.splits["train"].ids.to_pylist()
    wrong_after = (cleaned.splits["train"].noisy_labels != _truth(names)).mean()
    given = audit.table["given_label"].to_numpy()
    wrong_before = (given != _truth(audit.table["id"].to_pylist())).mean()
    assert wrong_after < 0.5 * wrong_before
    again = [f"--data.source={manifest}", *data[1:], "--model.noise=null"]
    plain = fit(monkeypatch, tmp_path / "plain", *data, "--model.noise=null", epochs=8)
    better = fit(monkeypatch, tmp_path / "second", *again, epochs=8)
    test = NoisyImageDataModule(str(photos), test_source=str(test_photos), image_size=32, clean_splits=["test"])
    accuracies = [
        trainer().test(NoisyImageClassifier.load_from_checkpoint(path), test, verbose=False)[0]["test/accuracy_clean"]
        for path in (plain, better)
    ]
    assert accuracies[1] > accuracies[0] + 0.05
    assert hashes(tmp_path / "photos") == before


@pytest.mark.slow
def test_folds_are_trained_as_the_fit_was(tmp_path, monkeypatch):
    checkpoint = fit(monkeypatch, tmp_path / "run", *NOISY, "--data.augmentation={no_aug: true}", epochs=6)
    options = ["--folds=3", "--report=false", *cpu()]
    run(monkeypatch, "audit", f"--ckpt_path={checkpoint}", f"--output={tmp_path / 'audit'}", *options)
    audit = LabelAudit(tmp_path / "audit")
    assert audit.summary.folds == 3
    wrong = audit.table["given_label"].to_numpy() != true_labels(audit.table["id"].to_pylist())
    half = len(wrong) // 2
    assert wrong[:half].mean() > 2 * wrong[half:].mean()
    found = sorted(path.name for path in audit.directory.iterdir())
    assert found == ["audit.parquet", "issues.csv", "posterior_histogram.png", "summary.json"]


@pytest.mark.slow
def test_two_processes_look_at_each_image_once(tmp_path, monkeypatch):
    checkpoint = fit(monkeypatch, tmp_path / "run", *NOISY)
    one, two = ["--report=false", *cpu()], ["--report=false", *cpu("--trainer.devices=2", "--trainer.strategy=ddp")]
    script = tmp_path / "script.py"
    script.write_text("from lightning_noisy.cli import console_script\nconsole_script()\n", encoding="utf-8")
    for name, options in {"one": one, "two": two}.items():
        command = [sys.executable, str(script), "audit", f"--ckpt_path={checkpoint}", f"--output={tmp_path / name}"]
        subprocess.run([*command, "--data.init_args.max_train_images=1003", *options], check=True, cwd=tmp_path)
    tables = [LabelAudit(tmp_path / name).table.sort_by("id") for name in ("one", "two")]
    assert len(tables[0]) % 2 == 1
    for name in ("id", "split", "row", "given_label", "suggested_label", "is_issue"):
        assert tables[0][name].equals(tables[1][name])


@pytest.mark.slow
def test_a_killed_audit_goes_on_where_it_was(tmp_path, monkeypatch):
    checkpoint = fit(monkeypatch, tmp_path / "run", *NOISY)
    script = tmp_path / "script.py"
    script.write_text(SLOW_AUDIT, encoding="utf-8")
    command = [str(script), "audit", f"--ckpt_path={checkpoint}", f"--output={tmp_path / 'audit'}"]
    command += ["--report=false", *cpu()]
    process = subprocess.Popen([sys.executable, *command], env={**os.environ, "PAUSE": "0.2"}, cwd=tmp_path)
    folder = tmp_path / "audit" / "unfinished"
    deadline = time.monotonic() + 120
    while len(list(folder.glob("rows-*.parquet"))) < 3 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = positions_done(tmp_path / "audit", 1300)
    assert 0 < done.sum() < 1300
    assert not (tmp_path / "audit" / "summary.json").exists()
    again = {**os.environ, "PAUSE": "0"}
    finished = subprocess.run([python(), *command], env=again, cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert f"looked at {1300 - done.sum() + 497}" in finished.stdout, "the test images are looked at last"
    run(monkeypatch, "audit", f"--ckpt_path={checkpoint}", f"--output={tmp_path / 'whole'}", "--report=false", *cpu())
    tables = [LabelAudit(tmp_path / name).table.sort_by("id") for name in ("audit", "whole")]
    assert tables[0]["suggested_label"].equals(tables[1]["suggested_label"])


SLOW_AUDIT = """
import os, time
from lightning_noisy.inference import parts
from lightning_noisy.cli.lightning_cli import console_script

parts.ROWS_IN_PART = 100
add, looked_at = parts.PartWriter.add, 0


def slow(writer, columns):
    global looked_at
    looked_at += len(columns["position"])
    add(writer, columns)
    time.sleep(float(os.environ["PAUSE"]))


parts.PartWriter.add = slow
console_script()
print("looked at", looked_at)
"""


def _digits_as_files(folder):
    """Folders of classes with a third of the training labels wrong; the number in a file's name tells the digit."""
    splits = NoisyImageDataModule("digits", noise="uniform:0.5", val_fraction=0.0).splits
    for split, name in (("train", "photos"), ("test", "test_photos")):
        images = splits[split]
        for row in range(len(images)):
            label = images.class_names[images.noisy_labels[row]]
            path = folder / name / label / f"{images.ids[row].as_py().split('/')[1]}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            images.read(row).save(path)
    return folder / "photos", folder / "test_photos"


def _truth(names):
    return true_labels([f"digits/{name.rpartition('/')[2].removesuffix('.png')}" for name in names])


def test_what_to_type_next_is_told(tmp_path):
    audit = audit_of(tmp_path / "my audit", NoisyImageDataModule("digits", noise="uniform:0.5"))
    console = Console(file=io.StringIO(), width=40)
    commands._tell_next(console, audit, has_page=True)
    assert console.file.getvalue() == (
        f"\nNext: decide in {tmp_path}/my audit/report.html, and write a table with corrected labels\n"
        f"  lightning-noisy apply --audit '{tmp_path}/my audit' --policy relabel --output cleaned.parquet\n"
    )


@pytest.mark.filterwarnings("ignore")
def test_what_is_broken_is_listed_beside_the_audit(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (photos / "ant" / "00.png").write_bytes(b"<html>404</html>")
    data = [f"--data.source={photos}", "--data.on_broken=skip"]
    run(monkeypatch, "audit", *BACKBONE, *data, "--output=audit", "--report=false", *cpu())
    assert "00.png" in (tmp_path / "audit" / "broken_images.csv").read_text(encoding="utf-8")
    assert not (tmp_path / "broken_images.csv").exists()
    run(monkeypatch, "features", *BACKBONE, *data, "--output=features", *cpu())
    assert (tmp_path / "features" / "broken_images.csv").is_file()
