"""Pictures for people: transition matrices as heatmaps."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

NUMBERS_UP_TO = 12
"""Up to this many classes each cell carries its number."""
NAMES_UP_TO = 120
"""Up to this many classes each row and column carries its class's name."""


def draw_transition_matrices(
    path: str | Path, matrices: Mapping[str, Tensor], class_names: Sequence[str], title: str = ""
) -> None:
    """Writes the picture of :func:`transition_matrices_figure` as a PNG file at ``path``."""
    transition_matrices_figure(matrices, class_names, title).savefig(path)


def transition_matrices_pixels(
    matrices: Mapping[str, Tensor], class_names: Sequence[str], title: str = ""
) -> np.ndarray:
    """(H, W, 3) uint8, the picture of :func:`transition_matrices_figure`."""
    canvas = FigureCanvasAgg(transition_matrices_figure(matrices, class_names, title))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def transition_matrices_figure(matrices: Mapping[str, Tensor], class_names: Sequence[str], title: str = "") -> Figure:
    """One picture with a heatmap for each matrix, side by side, on one colour scale.

    Args:
        matrices: A heading for each (K, K) matrix, ``T[i, j] = P(noisy=j | clean=i)``.
        class_names: The K names for both axes.
        title: A line above all of them.
    """
    num_classes = len(class_names)
    side = min(max(3.6, 0.12 * num_classes + 2.0), 14.0)
    heading_size = 6 + 1.1 * side
    scale = PowerNorm(0.5, vmin=0.0, vmax=1.0)  # so that a small flip rate is not black
    figure = Figure(figsize=(side * len(matrices) + 0.8, side + 0.7), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axes, (heading, matrix) in zip(all_axes, matrices.items(), strict=True):
        image = axes.imshow(matrix.numpy(), norm=scale, cmap="viridis", interpolation="nearest")
        axes.set_title(heading, fontsize=heading_size)
        axes.set_xlabel("noisy label", fontsize=heading_size)
        axes.set_ylabel("clean class", fontsize=heading_size)
        _label_ticks(axes, class_names)
        if num_classes <= NUMBERS_UP_TO:
            _write_numbers(axes, matrix)
    bar = figure.colorbar(image, ax=list(all_axes), shrink=0.8, pad=0.01)
    bar.set_label("P(noisy | clean)", fontsize=heading_size)
    if title:
        figure.suptitle(_plain(title), fontsize=heading_size + 1)
    return figure


def _label_ticks(axes: Axes, class_names: Sequence[str]) -> None:
    num_classes = len(class_names)
    if num_classes > NAMES_UP_TO:
        return
    size = 8 if num_classes <= 30 else 6
    names = [_plain(name if len(name) <= 18 else name[:17] + "…") for name in class_names]
    longest = max(len(name) for name in names)
    axes.set_xticks(range(num_classes), names, fontsize=size, rotation=90 if longest > 2 else 0)
    axes.set_yticks(range(num_classes), names, fontsize=size)


def _write_numbers(axes: Axes, matrix: Tensor) -> None:
    for row, values in enumerate(matrix.tolist()):
        for column, value in enumerate(values):
            text = f"{value:.2f}".removeprefix("0") if value < 0.995 else "1"
            axes.text(
                column, row, text, ha="center", va="center", fontsize=6, color="black" if value > 0.4 else "white"
            )


def _plain(text: str) -> str:
    """A dollar sign would start a formula."""
    return text.replace("$", r"\$")
