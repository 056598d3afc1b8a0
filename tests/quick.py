"""Programs that need not import anything, for tests in which the start of an interpreter is not what is tested."""

import os
import sys
import time
from pathlib import Path

RESIDENT = "LIGHTNING_NOISY_TESTS_RESIDENT"
"""The variable that names the folder of tests/resident.py; it runs where several workers share it."""


def python() -> str:
    """In place of ``sys.executable``; that itself where one worker runs alone."""
    return str(_programs() / "python")


def plain_python() -> str:
    """The same without this package: what others have who load what it writes."""
    return str(_programs() / "plain-python") if RESIDENT in os.environ else sys.executable


def path() -> str:
    """A PATH on which ``lightning-noisy`` is the quick one."""
    return f"{_programs()}:{os.environ['PATH']}"


def _programs() -> Path:
    if RESIDENT not in os.environ:
        return Path(sys.executable).parent
    folder = Path(os.environ[RESIDENT])
    for _ in range(1200):
        if (folder / "python").is_file() and (folder / "plain-python").is_file():
            return folder
        time.sleep(0.1)
    raise TimeoutError("tests/resident.py has not started")
