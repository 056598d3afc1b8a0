"""Two processes on one machine, as the command line starts them: one terminal, files, and what goes wrong."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

RECIPES = Path(__file__).parents[2] / "recipes"
PROGRAM = """
import os, sys
from lightning_noisy import NoisyImageClassifier
from lightning_noisy.cli.lightning_cli import console_script

step = NoisyImageClassifier.training_step
rank = os.environ.get("LOCAL_RANK", "0")


def talk(self, batch, batch_idx):
    print(f"process {self.global_rank} at step {self.global_step}")
    os.system(f"echo from outside of Python by {self.global_rank}")
    if os.environ.get("FAILS") == rank and self.global_step == 1:
        raise KeyError("a fault of one process")
    return step(self, batch, batch_idx)


NoisyImageClassifier.training_step = talk
console_script()
"""
TINY = ["--model.backbone=timm:test_resnet", "--model.pretrained=false", "--model.image_size=32"]
TINY += ["--data.num_workers=0", "--data.batch_size=8", "--model.noise.warmup_epochs=1", "--trainer.accelerator=cpu"]
TINY += ["--trainer.max_epochs=2", "--trainer.enable_progress_bar=false", "--trainer.default_root_dir=runs"]
TWO = ["--trainer.strategy=ddp", "--trainer.devices=2"]


def start(photos, folder, *options, **environment):
    (folder / "script.py").write_text(PROGRAM, encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "script.py", "fit", f"--data.source={photos}", *TINY, *options],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def fit(photos, folder, *options, **environment):
    process = start(photos, folder, *options, **environment)
    said, _ = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, said)


def still_running(photos):
    shown = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return str(photos) in shown


@pytest.fixture
def taken_port():
    with socket.socket() as server:
        server.bind(("", 0))
        server.listen()
        yield str(server.getsockname()[1])


def test_the_terminal_shows_the_first_process_and_a_file_the_other(photos, tmp_path):
    ran = fit(photos, tmp_path, *TWO)
    assert ran.returncode == 0, ran.stdout[-3000:]
    file = (tmp_path / "runs" / "logs" / "rank_1.log").read_text(encoding="utf-8")
    for said, other, own in ((ran.stdout, 1, 0), (file, 0, 1)):
        assert f"process {own} at step 3" in said and f"outside of Python by {own}" in said
        assert f"process {other} at" not in said and f"outside of Python by {other}" not in said
    assert "The output of the other processes goes to runs/logs/rank_*.log" in ran.stdout


def test_what_ends_another_process_is_in_its_file_which_the_terminal_names(photos, tmp_path):
    ran = fit(photos, tmp_path, *TWO, FAILS="1")
    assert ran.returncode != 0
    (named,) = re.findall(r"Process 1 has failed, its last messages are in (.*)", ran.stdout)
    file = Path(named).read_text(encoding="utf-8")
    assert "Traceback" in file and "KeyError: 'a fault of one process'" in file
    assert "a fault of one process" not in ran.stdout


def test_a_port_in_use_is_one_sentence_and_leaves_no_process_behind(photos, tmp_path, taken_port):
    ran = fit(photos, tmp_path, *TWO, MASTER_PORT=taken_port)
    assert ran.returncode == 1 and "Traceback" not in ran.stdout
    last = ran.stdout.strip().splitlines()[-1]
    assert last.startswith("lightning-noisy: error: Expected the port") and f"port {taken_port} is in use" in last
    assert not still_running(photos), "the second process has been ended"


def test_when_the_first_process_is_killed_the_other_does_not_wait_for_it(photos, tmp_path):
    process = start(photos, tmp_path, *TWO)
    file = tmp_path / "runs" / "logs" / "rank_1.log"
    for _ in range(300):
        if file.is_file():
            break
        time.sleep(0.1)
    process.kill()
    process.wait()
    for _ in range(100):
        if not still_running(photos):
            break
        time.sleep(0.2)
    assert not still_running(photos), file.read_text(encoding="utf-8")


def test_the_script_for_several_machines_says_that_its_port_is_in_use(tmp_path, taken_port):
    ran = subprocess.run(
        [RECIPES / "multi_node_torchrun.sh"],
        env={**os.environ, "HEAD": "127.0.0.1", "PORT": taken_port},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ran.returncode == 1
    said = f"Expected PORT to be a free port of the first machine, but {taken_port} is in use. Name another one."
    assert ran.stderr.strip() == said
