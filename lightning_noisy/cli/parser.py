"""A user's mistake on the command line ends in one sentence rather than in pages of usage."""

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from lightning_noisy.utils import PROGRAM

FIRST_COMMANDS = {
    "init": "Look at a folder or a table of images and write a recipe that fits them and this machine.",
    "doctor": "Tell whether this machine is ready: versions, devices, accounts, disk.",
}
FIT_COMMANDS = {
    "fit": "Train through the noise layer; what remains are a clean model, the noise and the metrics of the run.",
    "validate": "Measure a checkpoint on the held-out images.",
    "test": "Measure a checkpoint on the test images.",
    "predict": "Write what a checkpoint predicts for every training image.",
}
AUDIT_COMMANDS = {
    "audit": "Find the training labels that are wrong and what they should be: a table, a CSV, a page to review.",
    "features": "Run a frozen backbone over all images once and keep what it sees, for audits and probes.",
    "apply": "Write a manifest with cleaned labels from an audit and the decisions of its review.",
}
HUB_COMMANDS = {
    "noise": "Tell how many training labels are wrong, in which classes, and which are confused; as CSV and PNG too.",
    "export": "Write the clean model of a checkpoint into a folder that plain timm or transformers loads.",
    "push": "Push the clean model of a checkpoint, or a folder that `export` wrote, to the Hub in one commit.",
}
DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class OneSentenceErrors:
    """Put before a parser of jsonargparse among the base classes."""

    exit_on_error: bool

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Says what is wrong and ends with status 2."""
        parser: Any = super()
        if not self.exit_on_error or is_debugging():
            parser.error(message, ex)
        parser.exit(2, f"{PROGRAM}: error: {one_sentence(message)}\n")
        raise AssertionError("`exit` does not return")


@contextmanager
def mistakes_in_one_sentence(
    *kinds: type[Exception], explain: Callable[[Exception], str | None] | None = None
) -> Iterator[None]:
    """Around a command: a mistake in the data or the options ends the program with its sentence, without a traceback.

    Args:
        kinds: Errors that are a user's beside :class:`ValueError` and :class:`ModuleNotFoundError`.
        explain: Says more than an error does; ``None`` where it can't.
    """
    mistakes: tuple[type[Exception], ...] = (ValueError, ModuleNotFoundError, *kinds)
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_IS_FULL or is_debugging():
            raise
        sys.exit(
            f"{PROGRAM}: error: There is no room to write ({error}). What was written before is whole: make room and "
            "go on by the same command, a `fit` with `--ckpt_path last`."
        )
    except mistakes as error:
        if is_debugging():
            raise
        sys.exit(f"{PROGRAM}: error: {(explain and explain(error)) or one_sentence(str(error))}")


def one_sentence(message: str) -> str:
    """What went wrong, out of jsonargparse's list of all types that a value did not fit."""
    entries: list[str] = []
    for line in (line.strip() for line in message.splitlines()):
        if line.startswith("Given value"):
            break
        if line.startswith("- "):
            entries.append(line[2:])
        elif entries:
            entries[-1] += f" {line}"
    told = [entry for entry in entries if not entry.startswith(("Expected a <class", "Does not validate"))]
    key = re.match(r'Parser key "[^"]+":', message)
    sentence = told[0] if told else " ".join(message.split())
    if len(told) > 1 and "Does not validate" in sentence:
        sentence = sentence.partition("Does not validate")[0] + told[1]
    return f"{key.group()} {sentence}" if key and told else sentence


def is_debugging() -> bool:
    """Whether the user asked for tracebacks, by jsonargparse's own switch."""
    return "JSONARGPARSE_DEBUG" in os.environ
