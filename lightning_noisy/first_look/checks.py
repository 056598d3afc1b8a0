"""What ``lightning-noisy doctor`` looks at: each check tells lines with what to do, none asks the network."""

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from lightning_noisy._version import __version__
from lightning_noisy.first_look.machine import look_at_machine

DISTRIBUTION = "lightning-noisy"
SHOWN_PACKAGES = ("torch", "torchvision", "lightning", "timm", "transformers", "datasets", "wandb", "peft")
"""Those whose versions are told in any case; of the others only what does not fit."""
LITTLE_SHARED_MEMORY = 1e9
"""Docker's own is 64 MB; a worker hands over some batches of 40 MB at a time."""
LITTLE_DISK = 5e9
"""Weights of a few networks and the checkpoints of a few runs."""


@dataclass(frozen=True)
class Line:
    """One line of the doctor's.

    Args:
        level: How bad it is.
        name: What was looked at.
        words: What was found.
        remedy: What to do about it.
    """

    level: Literal["OK", "warning", "problem"]
    name: str
    words: str
    remedy: str = ""


def check_packages() -> Iterator[Line]:
    """Their versions, beside those that this package requires."""
    yield Line("OK", "python", platform.python_version())
    try:
        lines = metadata.requires(DISTRIBUTION) or []
        yield Line("OK", DISTRIBUTION, __version__)
    except metadata.PackageNotFoundError:
        lines = []
        remedy = f"Install it (`pip install {DISTRIBUTION}`, in its own folder `pip install -e .`)."
        yield Line("warning", DISTRIBUTION, f"{__version__}, not installed: what it requires is not known", remedy)
    required = [requirement for requirement in map(Requirement, lines) if _is_for_everybody(requirement)]
    optional = [requirement for requirement in map(Requirement, lines) if requirement.name == "peft"]
    wanted = {requirement.name: requirement for requirement in [*optional, *required]}
    for name in (*SHOWN_PACKAGES, *sorted(set(wanted) - set(SHOWN_PACKAGES))):
        is_required = any(requirement.name == name for requirement in required)
        line = _package(name, wanted.get(name), is_required)
        if line is not None and (name in SHOWN_PACKAGES or line.level != "OK"):
            yield line


def _is_for_everybody(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def _package(name: str, requirement: Requirement | None, is_required: bool) -> Line | None:
    specifier = "" if requirement is None else str(requirement.specifier)
    remedy = f"pip install --upgrade '{name}{specifier}'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Line("problem", name, f"missing, {specifier} is needed", remedy) if is_required else None
    if requirement is not None and not requirement.specifier.contains(version, prereleases=True):
        return Line("problem", name, f"{version}, but {specifier} is needed", remedy)
    return Line("OK", name, version)


def check_torchvision() -> Iterator[Line]:
    """Whether torchvision was built for this torch: it is only seen when its own operators are called."""
    name = "torch with torchvision"
    try:
        import torch
        from torchvision.ops import nms

        nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    except Exception as error:  # missing libraries, missing operators, wrong versions: all kinds of errors
        remedy = "pip install --upgrade --force-reinstall torch torchvision"
        yield Line("problem", name, f"do not fit together ({_in_one_line(error)})", remedy)
    else:
        yield Line("OK", name, "fit together")


def check_devices() -> Iterator[Line]:
    """GPUs, by a small computation on each; the cores, the memory, and what workers of a loader share."""
    import torch

    machine = look_at_machine()
    for index, gpu in enumerate(machine.gpus):
        yield _gpu(index, gpu.name, gpu.memory)
    if machine.has_mps:
        yield Line("OK", "GPU", "of a Mac (MPS), which shares the machine's memory")
    if not machine.gpus and not machine.has_mps:
        yield _no_gpu(torch, has_nvidia=shutil.which("nvidia-smi") is not None or Path("/dev/nvidia0").exists())
    memory = f", {_size(machine.memory)} of memory" if machine.memory else ""
    yield Line("OK", "CPU", f"{machine.cpu_cores} cores{memory}")
    if Path("/dev/shm").is_dir():
        yield shared_memory(shutil.disk_usage("/dev/shm").total)


def _gpu(index: int, name: str, memory: int) -> Line:
    import torch

    try:
        free, _ = torch.cuda.mem_get_info(index)
        torch.ones(2, device=f"cuda:{index}").sum().item()
    except Exception as error:  # torch raises many kinds for a GPU that is full, too old or broken
        remedy = "Look at `nvidia-smi` for who uses it, or leave it out by `CUDA_VISIBLE_DEVICES`."
        return Line("problem", f"GPU {index}", f"{name} does not compute ({_in_one_line(error)})", remedy)
    return Line("OK", f"GPU {index}", f"{name}, {_size(memory)} of memory, {_size(free)} free")


def _no_gpu(torch: Any, has_nvidia: bool) -> Line:
    if not has_nvidia:
        return Line("OK", "GPU", "none: `lightning-noisy init` chooses a recipe for the CPU")
    if torch.version.cuda is None:
        words, remedy = "torch was built without CUDA", "Install torch by the line that https://pytorch.org tells."
    else:
        words = f"the driver can't be used by torch, which was built for CUDA {torch.version.cuda}"
        remedy = "Look at the driver by `nvidia-smi`: update it, or install a torch for its CUDA (https://pytorch.org)."
    return Line("warning", "GPU", f"there is one of NVIDIA, but {words}", remedy)


def shared_memory(total: int) -> Line:
    """What workers of a loader hand their batches over in.

    Args:
        total: Bytes.
    """
    remedy = "Start the container with `--shm-size 8g`, or train with `--data.num_workers 0`."
    if total < LITTLE_SHARED_MEMORY:
        return Line("warning", "shared memory", f"{_size(total)}: workers that read images may be killed", remedy)
    return Line("OK", "shared memory", f"{_size(total)} for workers that read images")


def check_accounts() -> Iterator[Line]:
    """Whether W&B and the Hub know who you are; no key is shown."""
    from huggingface_hub import constants, get_token

    from lightning_noisy.training.loggers.wandb_runs import has_key

    mode = os.environ.get("WANDB_MODE", "")
    if mode in ("offline", "dryrun", "disabled"):
        what = "nothing is logged there" if mode == "disabled" else "runs are kept in files, `wandb sync` sends them"
        yield Line("OK", "W&B", f"WANDB_MODE is {mode}: {what}")
    elif has_key():
        yield Line("OK", "W&B", "a key is there")
    else:
        yield Line("OK", "W&B", "no key: runs are kept in files", "To send them, `wandb login`.")
    if get_token():
        yield Line("OK", "Hugging Face Hub", "a token is there")
    else:
        yield Line("OK", "Hugging Face Hub", "no token: public models can be loaded", "To push one, `hf auth login`.")
    if constants.HF_HUB_OFFLINE:
        words = "HF_HUB_OFFLINE is set: only weights that are in the cache can be loaded"
        yield Line("warning", "Hugging Face Hub", words, "To load others, `unset HF_HUB_OFFLINE`.")


def check_disk() -> Iterator[Line]:
    """Whether there is room where weights, looks at images and runs are kept."""
    import torch
    from huggingface_hub import constants

    own = os.environ.get("LIGHTNING_NOISY_CACHE", Path.home() / ".cache" / "lightning_noisy")
    places = {"cache of the Hub": constants.HF_HUB_CACHE, "cache of torch": torch.hub.get_dir(), "own cache": own}
    for name, place in {**places, "this folder": Path.cwd()}.items():
        yield disk(name, Path(place).expanduser())


def disk(name: str, place: Path) -> Line:
    """Whether a folder, which need not be there yet, can be written to and has room."""
    there = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())
    if not os.access(there, os.W_OK):
        variable = {"cache of the Hub": "HF_HOME", "cache of torch": "TORCH_HOME", "own cache": "LIGHTNING_NOISY_CACHE"}
        remedy = f"Name another folder by {variable[name]}." if name in variable else "Change to another folder."
        return Line("problem", name, f"{place} can't be written to", remedy)
    free = shutil.disk_usage(there).free
    if free < LITTLE_DISK:
        return Line("warning", name, f"{place}, {_size(free)} free", "Make room: weights and checkpoints are large.")
    return Line("OK", name, f"{place}, {_size(free)} free")


def _size(count: float) -> str:
    return (
        f"{count / 1e9:,.0f} GB"
        if count >= 10e9
        else f"{count / 1e9:.1f} GB"
        if count >= 1e9
        else f"{count / 1e6:.0f} MB"
    )


def _in_one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


CHECKS: dict[str, Callable[[], Iterator[Line]]] = {
    "Packages": check_packages,
    "torch": check_torchvision,
    "Devices": check_devices,
    "Accounts": check_accounts,
    "Disk": check_disk,
}
"""All of them, in the order in which they are told."""
