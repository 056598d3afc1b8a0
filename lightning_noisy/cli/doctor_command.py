"""``lightning-noisy doctor``: whether this machine is ready for a training."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.text import Text

from lightning_noisy.cli.parser import FIRST_COMMANDS, OneSentenceErrors
from lightning_noisy.first_look.checks import CHECKS, Line
from lightning_noisy.utils import PROGRAM

STYLES = {"OK": "green", "warning": "yellow", "problem": "bold red"}


class DoctorParser(OneSentenceErrors, ArgumentParser):
    """jsonargparse's parser, for which a user's mistake is one sentence."""


def run_doctor(arguments: Sequence[str]) -> None:
    """Tells what was found; a problem ends the program with status 1."""
    DoctorParser(prog=f"{PROGRAM} doctor", description=FIRST_COMMANDS["doctor"]).parse_args(list(arguments))
    if tell_checks(Console(), CHECKS):
        sys.exit(1)


def tell_checks(console: Console, checks: Mapping[str, Callable[[], Iterator[Line]]]) -> int:
    """Prints a line for each finding; returns how many problems there are.

    Args:
        console: Where to.
        checks: By what they look at. One that fails is a problem itself, and the others are made all the same.
    """
    counts = dict.fromkeys(STYLES, 0)
    for what, check in checks.items():
        try:
            lines = list(check())
        except Exception as error:  # a broken installation can fail anywhere
            remedy = "Install the packages anew, best in an empty environment."
            lines = [Line("problem", what, f"can't be looked at ({type(error).__name__}: {error})", remedy)]
        for line in lines:
            counts[line.level] += 1
            _tell(console, line)
    words = {"problem": "problem", "warning": "warning"}
    told = [f"{counts[level]} {word}{'s' * (counts[level] > 1)}" for level, word in words.items() if counts[level]]
    console.print(f"\n{' and '.join(told)}." if told else "\nAll is well.", highlight=False)
    return counts["problem"]


def _tell(console: Console, line: Line) -> None:
    text = Text(f"{line.level:<8}", style=STYLES[line.level])
    text.append(f"{line.name:<23}", style="bold").append(line.words, style="not bold default")
    console.print(text, soft_wrap=True)
    if line.remedy:
        console.print(Text(f"{'':<8}{'→ ' + line.remedy}", style="dim"), soft_wrap=True)
