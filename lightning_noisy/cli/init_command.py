"""``lightning-noisy init``: looks at the data, chooses a recipe, writes it, and says what to type next."""

import re
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

import numpy as np
from jsonargparse import ArgumentParser
from rich.console import Console

from lightning_noisy.cli.parser import FIRST_COMMANDS, OneSentenceErrors
from lightning_noisy.data.findings import show_findings
from lightning_noisy.data.image_stores import is_utf8
from lightning_noisy.data.readers.base import Columns
from lightning_noisy.first_look.choosing import BACKBONE, Choice, choose
from lightning_noisy.first_look.looking import FirstLook, look_first
from lightning_noisy.first_look.machine import Machine, look_at_machine
from lightning_noisy.first_look.recipe import recipe_comments, recipe_config, recipe_text
from lightning_noisy.utils import PROGRAM
from lightning_noisy.utils.text import printable_path

UNEVEN = 10
"""Images of the largest class for each of the smallest one, from which on it is told."""


class InitParser(OneSentenceErrors, ArgumentParser):
    """jsonargparse's parser, for which a user's mistake is one sentence."""


def run_init(arguments: Sequence[str]) -> None:
    """Parses the arguments behind ``init``, and does it."""
    parser = InitParser(prog=f"{PROGRAM} init", description=FIRST_COMMANDS["init"])
    add = parser.add_argument
    add("source", type=str, help="A folder with a folder for each class, a table (.csv, .tsv, .jsonl, .parquet), ...")
    add("--output", type=str, default="config.yaml", help="The recipe.")
    add("--overwrite", action="store_true", help="Replace a recipe that is there.")
    add("--label_column", type=str, help="Of a table; guessed by the usual names.")
    add("--image_column", type=str, help="Of a table; guessed by the usual names.")
    add("--clean_label_column", type=str, help="Of a table: checked labels, for the evaluation.")
    options = parser.parse_args(list(arguments))
    columns = Columns(options.image_column, options.label_column, options.clean_label_column)
    try:
        write_recipe(options.source, Path(options.output).expanduser(), columns, options.overwrite, Console())
    except OSError as error:
        raise ValueError(
            f"Expected data that can be read and a recipe that can be written, but got: {error}."
        ) from error


def write_recipe(source: str, output: Path, columns: Columns, overwrite: bool, console: Console) -> None:
    """Looks, tells, chooses and writes.

    Args:
        source: The data.
        output: The file.
        columns: Of a table.
        overwrite: Whether to replace a file that is there.
        console: For what is told.

    Raises:
        ValueError: If the data can't be read, or ``output`` is there already or can't be written.
    """
    _check_output(output, overwrite)
    if not is_utf8(source):
        raise ValueError(
            f"Expected argument `source` to be a path in UTF-8, which a recipe can hold, but got "
            f"{printable_path(source)!r}. Rename the folder."
        )
    look, machine = look_first(source, columns, console), look_at_machine()
    choice = choose(look, machine)
    show_findings(look.findings, console, None)
    for sentence in [*look.warnings, *_sentences(look, machine), choice.why]:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    folder = f"runs/{re.sub(r'[^A-Za-z0-9._-]+', '_', Path(source).stem).strip('._') or 'run'}"
    config = recipe_config(look, choice, columns, folder)
    text = recipe_text(config, recipe_comments(look, choice), _heading(output, look, choice))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    _tell_next(console, output, folder)


def _check_output(output: Path, overwrite: bool) -> None:
    """At once: nobody wants to wait for a look whose recipe can't be written."""
    if output.suffix.lower() not in (".yaml", ".yml"):
        raise ValueError(f"Expected argument `output` to be a file ending in .yaml, but got {str(output)!r}.")
    if output.is_dir() or (output.exists() and not overwrite):
        remedy = "Name another file." if output.is_dir() else "Name another one, or replace it by `--overwrite`."
        raise ValueError(f"Expected argument `output` to be a new file, but {str(output)!r} is there. {remedy}")


def _sentences(look: FirstLook, machine: Machine) -> list[str]:
    sentences = []
    if look.opened < look.images and look.splits["train"].store.needs_scan:
        sentences.append(
            f"Opened were {look.opened:,} of {look.images:,} images, drawn at random; a fit opens all of them first."
        )
    if len(look.sides):
        middle, least, most = (reduce(look.sides, axis=0) for reduce in (np.median, np.min, np.max))
        sentences.append(
            f"Sizes: {middle[0]:.0f} × {middle[1]:.0f} pixels (median), sides from {least.min():.0f} to "
            f"{most.max():.0f}."
        )
    counts, names = look.class_counts, look.splits["train"].class_names
    if counts.max() >= UNEVEN * counts.min():
        sentences.append(
            f"Uneven: {names[counts.argmax()]!r} has {counts.max():,} images, {names[counts.argmin()]!r} "
            f"{counts.min():,}. Images of rare labels weigh more in the training."
        )
    if look.copies:
        images = f"{look.copies:,} images have" if look.copies > 1 else "1 image has"
        pictures = f"{look.in_two_splits:,} pictures lie" if look.in_two_splits > 1 else "1 picture lies"
        across = f", {pictures} in several splits" if look.in_two_splits else ""
        sentences.append(
            f"Copies: {images} the same bytes as another one{across}. `{PROGRAM} audit` and `apply` keep one of each."
        )
    gpus = ", ".join(f"{gpu.name} ({gpu.memory / 1e9:.0f} GB)" for gpu in machine.gpus) or "no GPU"
    sentences.append(f"Machine: {gpus}, {machine.cpu_cores} CPU cores, {machine.memory / 1e9:.0f} GB of memory.")
    return sentences


def _heading(output: Path, look: FirstLook, choice: Choice) -> list[str]:
    names = look.splits["train"].class_names
    return [
        f"{look.findings.images['train']:,} training images of {len(names):,} classes. {choice.why}",
        "Needs: the Hub for the pretrained weights, the first time.",
        "Resume: the same command with --ckpt_path last.",
        f"  {PROGRAM} fit --config {quote(str(output))}",
    ]


def _tell_next(console: Console, output: Path, folder: str) -> None:
    config = quote(str(output))
    audit = f"{PROGRAM} audit --config {config} --backbone {BACKBONE} --output {folder}/audit"
    for line in (
        f"\nThe recipe is in {output}. Next, which labels are wrong, before any training:",
        f"  {audit}",
        "and the training:",
        f"  {PROGRAM} fit --config {config}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
