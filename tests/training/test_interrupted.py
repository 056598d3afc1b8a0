"""Real processes that are killed: the same command again ends with the weights of a run that was left alone."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ..photos import write_photos
from ..quick import python

pytestmark = pytest.mark.slow

RECIPE = Path(__file__).parents[2] / "recipes" / "imagefolder.yaml"
EPOCHS = 5
STEPS_PER_EPOCH = 4
SCRIPT = """
import os, resource, signal, sys, time
from lightning_noisy import NoisyImageClassifier
from lightning_noisy.cli.lightning_cli import console_script

step = NoisyImageClassifier.training_step
pause = float(os.environ.get("PAUSE", 0))


def with_a_pause(self, batch, batch_idx):
    time.sleep(pause)
    print("step", self.global_step, flush=True)
    if self.global_step == 9 and (how := os.environ.get("BREAK_WRITE")):
        # The next checkpoint breaks off after 100 kB: the process is killed, or has no room.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if how == "kill" else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    return step(self, batch, batch_idx)


NoisyImageClassifier.training_step = with_a_pause
console_script()
"""


def command(photos, *options):
    tiny = ["--model.backbone=timm:test_resnet", "--model.pretrained=false", "--model.noise.warmup_epochs=2"]
    tiny += ["--data.image_size=32", "--data.batch_size=8", "--data.num_workers=0", "--trainer.accelerator=cpu"]
    tiny += [f"--trainer.max_epochs={EPOCHS}", "--trainer.enable_progress_bar=false", "--run_files.directory=out"]
    tiny += ["--model.noise.dropout=0.3", "--model.lr_warmup_steps=3", "--trainer.log_every_n_steps=1"]
    return ["script.py", "fit", f"--config={RECIPE}", f"--data.source={photos}", *tiny, *options]


def start(folder, photos, *options, pause=0.0, break_write="", interpreter=sys.executable):
    folder.mkdir(exist_ok=True)
    (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    return subprocess.Popen(
        [interpreter, *command(photos, *options)],
        cwd=folder,
        env={**os.environ, "PAUSE": str(pause), "BREAK_WRITE": break_write, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(folder, photos, *options):
    """Runs the command to its end; what is not killed need not wait for the imports."""
    process = start(folder, photos, *options, interpreter=python())
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said[-3000:]
    return said


def steps_of(said):
    return [int(line.split()[1]) for line in said.splitlines() if line.startswith("step ")]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def undisturbed(photos, tmp_path_factory):
    """The folder of the run that nobody interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    finish(folder, photos)
    return folder


def check_same(folder, undisturbed, of_the_rest_of_an_epoch=frozenset()):
    """The clean weights and every logged number, each once, are those of the run that nobody interrupts."""
    found, expected = (load_file(run / "out" / "clean_model" / "model.safetensors") for run in (folder, undisturbed))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    found, expected = logged(folder), logged(undisturbed)
    assert [cell[:2] for cell in found] == [cell[:2] for cell in expected], "no step is lost, none is there twice"
    different = {(step, name) for step, name, _ in set(found) ^ set(expected)}
    assert different <= of_the_rest_of_an_epoch


def logged(run):
    """``(step, name, value)`` of all that the newest log holds, but for the speed."""
    newest = max(run.rglob("metrics.csv"), key=lambda path: path.stat().st_mtime_ns)
    with open(newest, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    cells = [(int(row["step"]), name, value) for row in rows for name, value in row.items() if value]
    return sorted(cell for cell in cells if cell[1] not in ("images_per_second", "step", "epoch"))


def wait_for_step(process, step):
    for line in process.stdout:
        if line.startswith("step ") and int(line.split()[1]) >= step:
            return
    raise AssertionError(f"the run ended before step {step}")


@pytest.mark.parametrize("step", [2, 7, 14])
def test_killed_without_a_warning_it_goes_on_from_the_last_whole_checkpoint(step, photos, tmp_path, undisturbed):
    run = tmp_path / "killed"
    process = start(run, photos, "--ckpt_path=last", pause=0.05)
    wait_for_step(process, step)
    time.sleep(random.uniform(0, 0.15))
    process.send_signal(signal.SIGKILL)
    process.wait()
    last = run / "runs" / "imagefolder" / "checkpoints" / "last.ckpt"
    kept = torch.load(last, weights_only=True)["global_step"] if last.is_file() else 0
    assert kept >= step - STEPS_PER_EPOCH + 1
    said = finish(run, photos, "--ckpt_path=last")
    assert steps_of(said)[0] == kept
    check_same(run, undisturbed)


def test_asked_to_end_it_saves_first(photos, tmp_path, undisturbed):
    run = tmp_path / "asked"
    process = start(run, photos, pause=0.05)
    wait_for_step(process, 9)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, said[-3000:]
    assert "ended by SIGTERM" in said and "--ckpt_path last" in said
    saved = torch.load(run / "runs" / "imagefolder" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] >= 9, "in the middle of an epoch"
    said = finish(run, photos, "--ckpt_path=last")
    assert steps_of(said)[0] == saved["global_step"], "not a step is made twice"
    step = STEPS_PER_EPOCH * (saved["global_step"] // STEPS_PER_EPOCH + 1) - 1
    of_the_epoch = ("train/loss_clean", "train/accuracy_noisy", "noise/estimated_rate")
    check_same(run, undisturbed, {(step, name) for name in of_the_epoch})


@pytest.mark.parametrize("how", ["kill", "full disk"])
def test_a_checkpoint_that_is_half_written_is_not_taken_for_a_good_one(how, photos, tmp_path, undisturbed):
    run, checkpoints = tmp_path / "broken", tmp_path / "broken" / "runs" / "imagefolder" / "checkpoints"
    process = start(run, photos, break_write=how)
    said, _ = process.communicate(timeout=120)
    halves = list(checkpoints.glob(".*.part"))
    if how == "kill":
        assert process.returncode == -signal.SIGXFSZ
        assert [half.stat().st_size for half in halves] == [100_000]
    else:
        assert process.returncode == 1 and halves == []
        error = said.strip().splitlines()[-1]
        assert error.startswith("lightning-noisy: error: There is no room") and "--ckpt_path last" in error
    kept = torch.load(checkpoints / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 8
    said = finish(run, photos, "--ckpt_path=last")
    assert steps_of(said)[0] == 8
    assert not list(checkpoints.glob(".*.part")), "what the killed process had left is cleared"
    check_same(run, undisturbed)
