"""How sure an audit is of the given labels."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lightning_noisy.pictures.style import BLUE, ORANGE, as_text, new_figure


def draw_posterior_histogram(path: str | Path, kept: np.ndarray, flagged: np.ndarray, title: str = "") -> None:
    """Writes the picture of :func:`posterior_histogram_figure` as a PNG file."""
    posterior_histogram_figure(kept, flagged, title).savefig(path)


def posterior_histogram_figure(kept: np.ndarray, flagged: np.ndarray, title: str = "") -> Figure:
    """How many given labels are how probable: those that are flagged as wrong on top of the others.

    Args:
        kept: (B,) images in each of B bins of the same width from 0 to 1, whose labels are not flagged.
        flagged: (B,) the same of those that are.
        title: A line above.
    """
    figure = new_figure(6.4, 3.8)
    axes = figure.subplots()
    edges = np.linspace(0, 1, len(kept) + 1)
    for start, counts, colour, name in ((0, kept, BLUE, "kept"), (kept, flagged, ORANGE, "flagged as wrong")):
        label = f"{name} ({int(counts.sum()):,})"
        axes.bar(edges[:-1], counts, np.diff(edges), start, align="edge", color=colour, label=label, linewidth=0)
    # A few wrong labels beside many right ones are seen only on a logarithmic scale, which is even up to one image.
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(0, 2 * max((kept + flagged).max(), 1))
    axes.set_xlim(0, 1)
    axes.set_xlabel("probability that the given label is right")
    axes.set_ylabel("images (logarithmic)")
    axes.grid(alpha=0.3, axis="y")
    axes.set_axisbelow(True)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, frameon=False)  # hides no bar
    axes.set_title(as_text(title))
    return figure
