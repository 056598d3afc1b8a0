"""The estimated noise of a training for people: in words on the terminal, as CSV files, and as a picture."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lightning_noisy.export.checkpoints import load_checkpoint
from lightning_noisy.export.noise_estimate import (
    ClassNoise,
    ConfusedPair,
    NoiseEstimate,
    estimate_noise,
)
from lightning_noisy.matrix_files import write_matrices
from lightning_noisy.utils.text import spreadsheet_cell

SHOWN_CLASSES = 20


def noise_of_checkpoint(path: str | Path, most_pairs: int = 10) -> tuple[NoiseEstimate, list[str]]:
    """What a checkpoint knows of the noise in its training labels, and the class names.

    Args:
        path: A checkpoint of Lightning, or a folder of the transformers Trainer.
        most_pairs: How many of the most confused pairs to name.

    Raises:
        ValueError: If there is no such checkpoint, or it was trained without a noise layer.
    """
    if most_pairs < 0:
        raise ValueError(f"Expected argument `most_pairs` to be an integer of at least 0, but got {most_pairs}.")
    trained = load_checkpoint(path)
    estimate = estimate_noise(trained.noise_layer, trained.record.label_counts, trained.class_names, most_pairs)
    if estimate is None:
        raise ValueError(
            f"Expected `ckpt_path` to be a training with a noise layer, but {str(path)!r} has none: plain cross-"
            "entropy memorises wrong labels and says nothing about them. Train with `model.noise`, or name another."
        )
    return estimate, trained.class_names


def show_noise(console: Console, estimate: NoiseEstimate) -> None:
    """Prints the error rate, the classes and the most confused pairs."""
    about = f"About {estimate.rate:.1%} of the training labels are wrong"
    source = "the share with which the network disagrees in its last epoch"
    if not estimate.is_counted:
        source = "by the layer's own matrix, which expects more noise than there is: the checkpoint holds no counts"
    console.print(f"{about} ({source}).", markup=False, highlight=False, soft_wrap=True)
    console.print(_class_table(estimate.classes))
    if estimate.pairs:
        console.print(_pair_table(estimate.pairs))


def write_noise(directory: str | Path, estimate: NoiseEstimate, class_names: Sequence[str]) -> list[Path]:
    """Writes the matrices, ``classes.csv``, ``pairs.csv`` and ``noise.png`` into a folder.

    The matrices have the names of a run's and an export's: ``transition_matrix.csv`` is what the noise layer holds,
    ``label_counts.csv`` what the last epoch counted, each row as shares, the better estimate; where nothing was counted
    it is not there. Rows are the true class: ``--data.noise=matrix:…`` and ``NoiseConfig(transition_matrix=…)`` read
    both. A name that a spreadsheet would take for a formula gets an apostrophe in the two other tables.

    Returns:
        The files.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    files = [directory / name for name in ("classes.csv", "pairs.csv")]
    classes = [(noise.name, noise.labels, noise.wrong, noise.lost) for noise in estimate.classes]
    _write_rows(files[0], ("class", "labels", "share_of_labels_wrong", "share_of_class_mislabelled"), classes)
    pairs = [(pair.clean, pair.noisy, pair.share, pair.count) for pair in estimate.pairs]
    _write_rows(files[1], ("true_class", "given_label", "share_of_true_class", "images"), pairs)
    title = f"about {estimate.rate:.1%} of the training labels are wrong"
    *matrices, picture = write_matrices(directory, estimate.matrices, class_names, title, "noise.png")
    return [*matrices, *files, picture]


def _class_table(classes: Sequence[ClassNoise]) -> Table:
    hidden = len(classes) - SHOWN_CLASSES
    table = Table(title="Noisiest labels first", title_justify="left")
    table.caption = f"{hidden} more classes are not shown; --output writes all of them" if hidden > 0 else None
    table.add_column("label", overflow="fold")
    for heading in ("images with it", "of these wrong", "of the class mislabelled"):
        table.add_column(heading, justify="right")
    for noise in classes[:SHOWN_CLASSES]:
        labels = "" if noise.labels is None else str(noise.labels)
        wrong = "" if noise.wrong is None else f"{noise.wrong:.1%}"
        lost = "never predicted" if noise.lost is None else f"{noise.lost:.1%}"
        table.add_row(escape(noise.name), labels, wrong, lost)
    return table


def _pair_table(pairs: Sequence[ConfusedPair]) -> Table:
    table = Table(title="Most confused", title_justify="left")
    for heading in ("is really", "but is labelled"):
        table.add_column(heading, overflow="fold")
    for heading in ("of the class", "images"):
        table.add_column(heading, justify="right")
    for pair in pairs:
        images = "" if pair.count is None else str(pair.count)
        table.add_row(escape(pair.clean), escape(pair.noisy), f"{pair.share:.1%}", images)
    return table


def _write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([_cell(value) for value in row] for row in rows)


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}"
    return spreadsheet_cell(value)
