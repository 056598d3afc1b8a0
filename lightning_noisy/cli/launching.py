"""Several processes of one machine that Lightning starts itself: one terminal, a file for each of the others.

torchrun and SLURM start and watch their processes by their own means.
"""

import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch.distributed import DistNetworkError

LOGS_VARIABLE = "LIGHTNING_NOISY_LOGS"
"""The variable by which the first process tells the others where to write,"""
FIRST_VARIABLE = "LIGHTNING_NOISY_FIRST_PROCESS"
"""and the one that tells its number: one that is killed early may be gone when the others ask for their parent."""


@contextmanager
def other_processes(trainer: Any) -> Iterator[None]:
    """Around a run of the trainer in the first process: says where the others write, and ends them after an error.

    Lightning leaves them waiting for the first one.
    """
    launcher = trainer.strategy.launcher
    if getattr(launcher, "procs", None) is None or trainer.num_devices < 2:
        yield
        return
    if "LOCAL_RANK" not in os.environ:
        folder = Path(trainer.default_root_dir) / "logs"
        os.environ[LOGS_VARIABLE] = str(folder.absolute())
        os.environ[FIRST_VARIABLE] = str(os.getpid())
        rank_zero_info(f"The output of the other processes goes to {folder / 'rank_*.log'}.")
    try:
        yield
    except Exception:
        for process in launcher.procs:
            process.kill()  # one that waits for another hears nothing less
        raise


@contextmanager
def redirect_rank_output() -> Iterator[None]:
    """In one of the other processes: all its output goes to its file; a failure is told on the terminal too."""
    rank = int(os.environ.get("LOCAL_RANK", 0))
    if not os.environ.get(LOGS_VARIABLE) or rank == 0:
        yield
        return
    node = int(os.environ.get("NODE_RANK", 0))
    path = Path(os.environ[LOGS_VARIABLE]) / (f"node_{node}_rank_{rank}.log" if node else f"rank_{rank}.log")
    terminal = _redirect_output(path)
    first = int(os.environ.get(FIRST_VARIABLE) or os.getppid())
    threading.Thread(target=_end_with_the_first, args=(first,), daemon=True).start()
    try:
        yield
    except BaseException as error:
        is_quiet = isinstance(error, SystemExit) and error.code in (None, 0)
        if not is_quiet:
            if isinstance(error, Exception):
                traceback.print_exc()
            os.write(terminal, f"Process {rank} has failed, its last messages are in {path}\n".encode())
        raise


def launching_sentence(error: Exception) -> str | None:
    """What to do where torch or Lightning only say what went wrong at the start; ``None`` for other errors."""
    said = " ".join(str(error).split())
    if "No supported gpu" in said or "CUDAAccelerator` can not run" in said:
        return (
            "Expected argument `trainer.accelerator` to be one that this machine has, but got a GPU and torch "
            f"{torch.__version__} finds none. Take `--trainer.accelerator auto`, or look at `nvidia-smi` and at which "
            "torch is installed."
        )
    if "strategy `fsdp` requires a GPU" in said:
        return (
            "Expected argument `trainer.strategy` to be one that a CPU can run, but got 'fsdp', which needs GPUs. "
            "`lightning_noisy.training.sharding.ShardedStrategy` (recipes/vit_fsdp.yaml) shards on a CPU too."
        )
    if "EADDRINUSE" in said:
        return (
            f"Expected the port by which the processes meet to be free, but {_port(said)} is in use. Name another one, "
            "as in `MASTER_PORT=29512`; on one machine Lightning finds one itself where none is set."
        )
    if isinstance(error, DistNetworkError):
        return f"The processes of the training can't reach each other ({said}). Check MASTER_ADDR and MASTER_PORT."
    return None


def _port(said: str) -> str:
    found = re.search(r"port: (\d+)", said)
    return f"port {found[1]}" if found else "it"


def _end_with_the_first(first: int) -> None:
    """Ends a process that waits to meet a first one which is gone: it would wait for half an hour."""
    while not torch.distributed.is_initialized():  # from then on torch notices
        if os.getppid() != first:
            print("The first process is gone.", flush=True)
            os._exit(1)
        time.sleep(1)


def _redirect_output(path: Path) -> int:
    """Everything, that of libraries in C too; returns the file descriptor of the terminal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    terminal = os.dup(2)
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}, process {os.getpid()}\n")
        file.flush()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    return terminal
