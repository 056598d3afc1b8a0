"""What the shell calls first: the list of commands at once, and the heavy imports only for the command that is run."""

import difflib
import sys

from rich.console import Console
from rich.table import Table

from lightning_noisy._version import __version__
from lightning_noisy.cli.parser import (
    AUDIT_COMMANDS,
    FIRST_COMMANDS,
    FIT_COMMANDS,
    HUB_COMMANDS,
    mistakes_in_one_sentence,
)
from lightning_noisy.cli.upstream_messages import silence_upstream_messages
from lightning_noisy.utils import PROGRAM

COMMANDS = {**FIRST_COMMANDS, **FIT_COMMANDS, **AUDIT_COMMANDS, **HUB_COMMANDS}
FIRST = (f"{PROGRAM} init photos/", f"{PROGRAM} fit --config config.yaml")


def console_script() -> None:
    """Lists the commands, or runs one."""
    first = sys.argv[1] if len(sys.argv) > 1 else ""
    if first in ("", "-h", "--help", "help"):
        show_commands(Console())
    elif first in ("-V", "--version"):
        print(f"{PROGRAM} {__version__}")
    elif first in FIRST_COMMANDS:
        _before_a_fit(first)
    elif first in ("apply", "push"):
        _without_lightning(first)
    elif first in COMMANDS or first.startswith("-"):  # options of LightningCLI may come before its command
        from lightning_noisy.cli.lightning_cli import console_script as run

        run()
    else:
        near = difflib.get_close_matches(first, COMMANDS, n=1)
        hint = f" Did you mean `{near[0]}`?" if near else ""
        print(f"{PROGRAM}: error: Expected a command, but got {first!r}.{hint}", file=sys.stderr)
        show_commands(Console(stderr=True))
        sys.exit(2)


def _before_a_fit(command: str) -> None:
    """Those that look at data and machine."""
    silence_upstream_messages()
    with mistakes_in_one_sentence():
        if command == "init":
            from lightning_noisy.cli.init_command import run_init

            run_init(sys.argv[2:])
        else:
            from lightning_noisy.cli.doctor_command import run_doctor

            run_doctor(sys.argv[2:])


def _without_lightning(command: str) -> None:
    """Those that copy what lies on the disk; a checkpoint that is pushed is exported first, by all that it takes."""
    from lightning_noisy.hub.commit import PushError

    silence_upstream_messages()
    with mistakes_in_one_sentence(PushError):
        if command == "apply":
            from lightning_noisy.cli.apply_command import run_apply

            run_apply(sys.argv[2:])
        else:
            from lightning_noisy.cli.export_commands import run

            run(sys.argv[1:])


def show_commands(console: Console) -> None:
    """Prints all commands with a line each, and what to type first."""
    console.print("Fine-tune an image classifier on partly wrong labels and keep a clean model.\n")
    table = Table.grid(padding=(0, 2))
    for name, line in COMMANDS.items():
        table.add_row(f"[bold]{name}[/bold]", line)
    console.print(table)
    console.print("\nTo begin with, where photos/ holds a folder for each class:\n", soft_wrap=True)
    for line in FIRST:
        console.print(f"    {line}", soft_wrap=True, highlight=False)
    console.print()
    console.print(f"`{PROGRAM} COMMAND --help` tells a command's options.", highlight=False)
