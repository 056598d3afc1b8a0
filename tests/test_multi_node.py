"""More than one machine: two network namespaces as two hosts under torchrun, and tasks as SLURM starts them."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from .photos import write_photos
from .training.loggers.wandb_file import read_config, read_run, run_files

pytestmark = pytest.mark.slow

RECIPES = Path(__file__).parents[1] / "recipes"
LIMIT = 180  # seconds
HOSTS = {"a": "10.213.7.1", "b": "10.213.7.2"}
TINY = ["--model.backbone=timm:test_resnet", "--model.pretrained=false", "--data.image_size=32", "--data.num_workers=0"]
TINY += ["--data.batch_size=4", "--trainer.accelerator=cpu", "--trainer.precision=32-true", "--trainer.max_epochs=4"]
TINY += ["--trainer.enable_progress_bar=false", "--model.noise.warmup_epochs=1", "--run_files.directory=out"]

PROGRAM = """
import os, time
from lightning_noisy import NoisyImageClassifier
from lightning_noisy.cli.lightning_cli import console_script

step = NoisyImageClassifier.training_step


def with_a_pause(self, batch, batch_idx):
    time.sleep(float(os.environ.get("PAUSE", 0)))
    print(f"step {self.global_step} of process {os.getpid()}", flush=True)
    return step(self, batch, batch_idx)


NoisyImageClassifier.training_step = with_a_pause
console_script()
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def hosts():
    """Two network namespaces with a cable between them."""
    names = {host: f"ln{os.getpid()}{host}" for host in HOSTS}
    commands = [["ip", "netns", "add", name] for name in names.values()]
    cable = [f"lv{os.getpid()}{host}" for host in HOSTS]
    commands += [["ip", "link", "add", cable[0], "type", "veth", "peer", "name", cable[1]]]
    for (host, name), end in zip(names.items(), cable, strict=True):
        commands += [["ip", "link", "set", end, "netns", name], ["ip", "-n", name, "link", "set", end, "name", "wire"]]
        commands += [["ip", "-n", name, "addr", "add", f"{HOSTS[host]}/24", "dev", "wire"]]
        commands += [["ip", "-n", name, "link", "set", device, "up"] for device in ("lo", "wire")]
    try:
        for command in commands:
            subprocess.run(command, check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        for name in names.values():
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        pytest.skip(f"network namespaces need root and iproute2: {error}")
    yield names
    for name in names.values():
        subprocess.run(["ip", "netns", "del", name], check=True)


def environment(folder, **more):
    """The tests' own `lightning-noisy`, which can be slowed down, comes first in the path."""
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    program = folder / "bin" / "lightning-noisy"
    program.write_text(f"#!{sys.executable}\n{PROGRAM}", encoding="utf-8")
    program.chmod(0o755)
    path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {
        **os.environ,
        "PATH": path,
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "offline",
        **{name: str(value) for name, value in more.items()},
    }


def start(host, hosts, folder, photos, pause):
    settings = {"HEAD": HOSTS["a"], "NODES": 2, "PROCESSES": 1, "PORT": 29511, "GLOO_SOCKET_IFNAME": "wire"}
    settings |= {"RDZV_CONF": f"is_host={int(host == 'a')}", "LOCAL_ADDR": HOSTS[host], "PAUSE": pause}
    options = ["--config", str(RECIPES / "resnet50_ddp.yaml"), f"--data.source={photos}", *TINY]
    return subprocess.Popen(
        ["ip", "netns", "exec", hosts[host], str(RECIPES / "multi_node_torchrun.sh"), *options],
        cwd=folder,
        env=environment(folder, **settings),
        stdout=(folder / f"{host}.txt").open("w"),
        stderr=subprocess.STDOUT,
    )


def train_on_both(hosts, folder, photos, kill_at=None):
    """What host b said; with ``kill_at`` its worker is killed at that step."""
    folder.mkdir()
    machines = {host: start(host, hosts, folder, photos, pause=0.05 if kill_at else 0) for host in HOSTS}
    try:
        for _ in range(LIMIT * 20):
            found = re.findall(r"step (\d+) of process (\d+)", (folder / "b.txt").read_text())
            if kill_at and found and int(found[-1][0]) >= kill_at:
                os.kill(int(found[-1][1]), signal.SIGKILL)
                kill_at = None
            if all(machine.poll() is not None for machine in machines.values()):
                break
            time.sleep(0.05)
    finally:
        for machine in machines.values():
            machine.terminate()
    said = {host: (folder / f"{host}.txt").read_text() for host in HOSTS}
    status = {host: machine.wait() for host, machine in machines.items()}
    assert set(status.values()) == {0}, (status, {host: text[-3000:] for host, text in said.items()})
    return said["b"]


def steps_of(said):
    """Of each process in its turn, the steps that it has begun."""
    steps = {}
    for step, process in re.findall(r"step (\d+) of process (\d+)", said):
        steps.setdefault(process, []).append(int(step))
    return list(steps.values())


def test_two_hosts_train_together_and_one_that_is_killed_comes_back(hosts, photos, tmp_path):
    train_on_both(hosts, tmp_path / "whole", photos)
    said = train_on_both(hosts, tmp_path / "killed", photos, kill_at=11)
    before, *_, after = steps_of(said)
    assert 0 < after[0] <= before[-1] + 1, "it went on from a checkpoint"
    whole, killed = (
        load_file(tmp_path / name / "out" / "clean_model" / "model.safetensors") for name in ("whole", "killed")
    )
    for name, value in whole.items():
        assert torch.equal(killed[name], value), name
    saved = torch.load(tmp_path / "killed/runs/resnet50_ddp/checkpoints/last.ckpt", weights_only=True)
    assert saved["noisy_run"]["processes"] == 2


FAKE_SRUN = """#!/usr/bin/env bash
[[ $1 == --output=* && $2 == --open-mode=append ]] || exit 1
output=${1#--output=}; output=${output/\\%j/$SLURM_JOB_ID}; shift 2
for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task "$@" >> "${output/\\%t/$task}" 2>&1 & done
wait -n && wait -n
"""


def test_the_slurm_script_starts_its_tasks_as_one_training(photos, tmp_path):
    slurm = {"SLURM_JOB_ID": 7, "SLURM_JOB_NAME": "lightning-noisy", "SLURM_NTASKS": 2, "SLURM_NTASKS_PER_NODE": 2}
    slurm |= {"SLURM_NNODES": 1, "SLURM_NODEID": 0, "SLURM_NODELIST": "localhost", "SLURM_JOB_NODELIST": "localhost"}
    env = environment(tmp_path, **slurm)
    (tmp_path / "bin" / "srun").write_text(FAKE_SRUN)
    (tmp_path / "bin" / "srun").chmod(0o755)
    options = ["--config", str(RECIPES / "resnet50_ddp.yaml"), f"--data.source={photos}", *TINY]
    command = ["bash", str(RECIPES / "multi_node.slurm"), *options]
    (tmp_path / "runs").mkdir()  # as sbatch makes it for its own log
    ran = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=180)
    assert ran.returncode == 0, ran.stderr[-3000:]
    saved = torch.load(tmp_path / "runs/resnet50_ddp/checkpoints/last.ckpt", weights_only=True)
    assert saved["noisy_run"]["processes"] == 2
    assert (tmp_path / "out" / "clean_model" / "model.safetensors").is_file()
    (wandb_file,) = run_files(tmp_path / "runs" / "resnet50_ddp")
    assert read_config(wandb_file)["recipe"] == "multi_node+resnet50_ddp"
    for task in (0, 1):
        assert "step 0 of process" in (tmp_path / "runs" / f"slurm-7-rank_{task}.log").read_text(encoding="utf-8")


def test_on_one_machine_the_script_shows_its_first_process_alone(photos, tmp_path):
    settings = {"HEAD": "localhost", "NODES": 1, "PROCESSES": 2, "PORT": 29512, "LOGS": tmp_path / "logs"}
    options = ["--config", str(RECIPES / "resnet50_ddp.yaml"), f"--data.source={photos}", *TINY]
    command, env = [str(RECIPES / "multi_node_torchrun.sh"), *options], environment(tmp_path, **settings)
    ran = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=180)
    assert ran.returncode == 0, ran.stderr[-3000:]
    (wandb_file,) = run_files(tmp_path / "runs" / "resnet50_ddp")
    assert read_run(wandb_file).display_name.startswith("multi_node_torchrun+resnet50_ddp-")
    (other,) = (tmp_path / "logs").rglob("stdout.log")
    assert steps_of(ran.stdout) == steps_of(other.read_text(encoding="utf-8")), "each has one of the two"


def test_the_script_asks_for_the_first_machine(tmp_path):
    env = {name: value for name, value in os.environ.items() if name != "HEAD"}
    ran = subprocess.run(
        [str(RECIPES / "multi_node_torchrun.sh")], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode != 0 and "Expected HEAD to be the name" in ran.stderr
