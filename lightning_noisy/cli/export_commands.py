"""``lightning-noisy export``, ``lightning-noisy push`` and ``lightning-noisy noise``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from lightning_noisy.cli.parser import HUB_COMMANDS, OneSentenceErrors
from lightning_noisy.hub.push import PushReport, push_clean
from lightning_noisy.utils import PROGRAM

ADAPTER_HELP = "Of a model with a PEFT adapter: merge it into the weights, or keep it alone beside its base's name."


class Parser(OneSentenceErrors, ArgumentParser):
    """jsonargparse's parser, for which a user's mistake is one sentence."""


def run(arguments: Sequence[str]) -> None:
    """Parses the arguments, whose first is one of ``HUB_COMMANDS``, and does it."""
    command, *rest = arguments
    options = _parser(command).parse_args(rest).as_dict()
    options.pop("config", None)
    model = options.pop("ckpt_path")
    console = Console()
    if command == "export":
        from lightning_noisy.export.export import export_clean

        directory = export_clean(model, options.pop("output"), **options)
        _show_files(console, f"Written to {directory}", _sizes(directory))
    elif command == "noise":
        _noise(console, model, options["output"], options["most_pairs"])
    else:
        _show_push(console, push_clean(model, **options))


def _parser(command: str) -> Parser:
    parser = Parser(prog=f"{PROGRAM} {command}", description=HUB_COMMANDS[command])
    add = parser.add_argument
    add("--config", action="config", help="A YAML file with these options.")
    add("--ckpt_path", type=str, required=True, help="A checkpoint: a file, a folder, or FSDP shards.")
    if command == "noise":
        add("--output", type=str, help="A folder for the matrices, classes.csv, pairs.csv and noise.png.")
        add("--most_pairs", type=int, default=10, help="How many of the most confused pairs to name.")
        return parser
    if command == "export":
        add("--output", type=str, required=True, help="The folder to write to.")
        add("--adapter", type=Literal["merge", "keep"], default="merge", help=ADAPTER_HELP)
        add("--overwrite", action="store_true", help="Replace files in a folder that is not empty.")
        add("--repo_id", type=str, help="Where it will lie on the Hub, for the code on the card.")
    else:
        add("--repo_id", type=str, required=True, help="The repository, such as me/clean-birds.")
        add("--private", action="store_true", help="Make a new repository private.")
        add("--revision", type=str, help="The branch; main by default.")
        add("--create_pr", action="store_true", help="Open a pull request instead.")
        add("--commit_message", type=str, help="The title of the commit.")
        add("--overwrite_card", action="store_true", help="Replace a README that is in the repository already.")
        add("--dry_run", action="store_true", help="Show files, sizes and the card, and send nothing.")
    add("--license", type=str, help="The licence of the weights, such as apache-2.0. Has no default.")
    add("--model_name", type=str, help="The title of the card.")
    add("--description", type=str, help="The first sentences of the card.")
    add("--base_model", type=str, help="The repository it was fine-tuned from, if the training does not know it.")
    add("--datasets", type=list[str], help="The repositories of its data, if the training does not know them.")
    add("--metrics", type=dict[str, float], help="More metrics for the card, such as {test/accuracy_clean: 0.88}.")
    return parser


def _noise(console: Console, ckpt_path: str, output: str | None, most_pairs: int) -> None:
    from lightning_noisy.export.noise_report import noise_of_checkpoint, show_noise, write_noise

    estimate, class_names = noise_of_checkpoint(ckpt_path, most_pairs)
    show_noise(console, estimate)
    if output is None:
        console.print("--output DIR writes all of it as CSV, and the transition matrix as a picture.", highlight=False)
    else:
        files = write_noise(output, estimate, class_names)
        _show_files(console, f"Written to {output}", {path.name: path.stat().st_size for path in files})


def _sizes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(directory.iterdir()) if path.is_file()}


def _show_files(console: Console, title: str, files: dict[str, int]) -> None:
    console.print(title, markup=False, highlight=False, soft_wrap=True)
    table = Table()
    table.add_column("file")
    table.add_column("size", justify="right")
    for name, size in files.items():
        table.add_row(escape(name), decimal(size))
    table.add_section()
    table.add_row(f"{len(files)} files", decimal(sum(files.values())))
    console.print(table)


def _show_push(console: Console, report: PushReport) -> None:
    if report.url is None:
        _show_files(console, f"Nothing was sent. A push to {report.repo_id} would be one commit of:", report.files)
        if report.card is not None:
            console.rule("README.md")
            console.print(report.card, markup=False, highlight=False, soft_wrap=True)
        return
    _show_files(console, f"Pushed to {report.repo_id}", report.files)
    if report.card is None:
        console.print("The repository has kept its own README.md; --overwrite_card replaces it.")
    console.print(report.url, markup=False, soft_wrap=True)
