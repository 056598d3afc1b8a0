"""Transition matrices as heatmaps; of many classes those that are most confused, and the pairs as bars."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from lightning_noisy.pictures.confusions import block_of, confused_pairs, worst_block
from lightning_noisy.pictures.style import BLACK, ORANGE, as_text, new_figure, pixels

NUMBERS_UP_TO = 12
"""Up to this many classes each cell carries its number."""
WHOLE_UP_TO = 50
"""Up to this many classes all of a matrix is shown; of more a block and pairs, for the whole is a grey square."""
BLOCK_CLASSES = 20
MOST_PAIRS = 20
LONGEST_NAME = 18
TRUE = "true"
"""The heading of the matrix that is no estimate."""


def draw_transition_matrices(
    path: str | Path, matrices: Mapping[str, Tensor], class_names: Sequence[str], title: str = ""
) -> None:
    """Writes the picture of :func:`transition_matrices_figure` as a PNG file at ``path``."""
    transition_matrices_figure(matrices, class_names, title).savefig(path)


def transition_matrices_pixels(
    matrices: Mapping[str, Tensor], class_names: Sequence[str], title: str = ""
) -> np.ndarray:
    """(H, W, 3) uint8, the picture of :func:`transition_matrices_figure`."""
    return pixels(transition_matrices_figure(matrices, class_names, title))


def transition_matrices_figure(matrices: Mapping[str, Tensor], class_names: Sequence[str], title: str = "") -> Figure:
    """One picture with a heatmap for each matrix, side by side, on one colour scale.

    Of more than 50 classes each heatmap shows the same 20, which are most confused by the last matrix that is an
    estimate; beside them are bars for its most confused pairs, with marks for what is true of them where that is known.

    Args:
        matrices: A heading for each (K, K) matrix, ``T[i, j] = P(noisy=j | clean=i)``; the true one's is ``"true"``.
        class_names: The K names for both axes.
        title: A line above all of them.
    """
    is_whole = len(class_names) <= WHOLE_UP_TO
    estimate = list({h: m for h, m in matrices.items() if h != TRUE}.values() or matrices.values())[-1]
    classes = list(range(len(class_names))) if is_whole else worst_block(estimate, BLOCK_CLASSES)
    names = [as_text(class_names[label], LONGEST_NAME) for label in classes]
    side = min(max(3.6, 0.12 * len(classes) + 2.0), 8.0)
    size = 6 + 1.1 * side
    panels = len(matrices) + (not is_whole)
    figure = new_figure(side * panels + 0.8, side + (0.7 if side < 8 else 1.4))  # names below take room
    all_axes = list(figure.subplots(1, panels, squeeze=False)[0])
    scale = PowerNorm(0.5, vmin=0.0, vmax=1.0)  # so that a small flip rate is not black
    for axes, (heading, matrix) in zip(all_axes, matrices.items(), strict=False):
        image = axes.imshow(block_of(matrix, classes).numpy(), norm=scale, cmap="viridis", interpolation="nearest")
        axes.set_title(heading, fontsize=size)
        axes.set_xlabel("noisy label", fontsize=size)
        axes.set_ylabel("clean class", fontsize=size)
        _label_ticks(axes, names)
        if len(classes) <= NUMBERS_UP_TO:
            _write_numbers(axes, matrix)
    bar = figure.colorbar(image, ax=all_axes[: len(matrices)], shrink=0.8, pad=0.01)
    bar.set_label("P(noisy | clean)", fontsize=size)
    if not is_whole:
        _draw_pairs(all_axes[-1], estimate, matrices.get(TRUE), class_names, size)
        title = f"{title + ': t' if title else 'T'}he {len(classes)} most confused of {len(class_names):,} classes"
    if title:
        figure.suptitle(as_text(title), fontsize=size + 1)
    return figure


def _draw_pairs(axes: Axes, estimate: Tensor, truth: Tensor | None, class_names: Sequence[str], size: float) -> None:
    """The largest bar on top."""
    pairs = confused_pairs(estimate, MOST_PAIRS)
    places = range(len(pairs))
    axes.barh(places, [float(estimate[pair]) for pair in pairs], color=ORANGE, label="estimated")
    if truth is not None:
        axes.plot([float(truth[pair]) for pair in pairs], places, "D", color=BLACK, markersize=4, label=TRUE)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2, frameon=False)  # hides no bar
    names = [[as_text(class_names[label], LONGEST_NAME) for label in pair] for pair in pairs]
    axes.set_yticks(places, [f"{clean} → {noisy}" for clean, noisy in names], fontsize=7)
    axes.invert_yaxis()
    axes.set_title("most confused pairs", fontsize=size)
    axes.set_ylabel("clean class → noisy label", fontsize=size)
    axes.set_xlabel("share of the class (%)", fontsize=size)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    axes.grid(alpha=0.3, axis="x")
    axes.set_axisbelow(True)


def _label_ticks(axes: Axes, names: Sequence[str]) -> None:
    size = 8 if len(names) <= 30 else 6
    longest = max(len(name) for name in names)
    axes.set_xticks(range(len(names)), names, fontsize=size, rotation=90 if longest > 2 else 0)
    axes.set_yticks(range(len(names)), names, fontsize=size)


def _write_numbers(axes: Axes, matrix: Tensor) -> None:
    for row, values in enumerate(matrix.tolist()):
        for column, value in enumerate(values):
            text = f"{value:.2f}".removeprefix("0") if value < 0.995 else "1"
            axes.text(
                column, row, text, ha="center", va="center", fontsize=6, color="black" if value > 0.4 else "white"
            )
