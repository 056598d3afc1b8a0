"""What this machine computes with."""

import os
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Args:
        name: As its maker calls it.
        memory: All of its memory, in bytes.
        has_bfloat16: Whether it computes in bfloat16 itself.
    """

    name: str
    memory: int
    has_bfloat16: bool = True


@dataclass(frozen=True)
class Machine:
    """What a training can use.

    Args:
        gpus: Those that torch can use.
        cpu_cores: Those that this process may use.
        memory: In bytes; 0 where the system does not tell.
        has_mps: Whether it is a Mac whose GPU torch can use.
    """

    gpus: list[Gpu] = field(default_factory=list)
    cpu_cores: int = 1
    memory: int = 0
    has_mps: bool = False


def look_at_machine() -> Machine:
    """Asks torch and the system."""
    import torch

    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = torch.cuda.get_device_properties(index)
        has_bfloat16 = torch.version.hip is not None or device.major >= 8
        gpus.append(Gpu(device.name, device.total_memory, has_bfloat16))
    return Machine(gpus, cpu_cores(), memory(), torch.backends.mps.is_available())


def cpu_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> int:
    """The machine's memory in bytes; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no such call, others not these names
        return 0
