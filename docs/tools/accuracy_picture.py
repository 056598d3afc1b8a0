"""Draws the README's picture: clean test accuracy against the share of wrong labels, from the benchmark's results.

python docs/tools/accuracy_picture.py    (docs/accuracy_against_noise.png)
"""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "denoise.jsonl"
PICTURE = ROOT / "docs" / "accuracy_against_noise.png"
CLASSES = 10
KINDS = {
    "uniform": "any class for any other",
    "nonuniform": "some classes more than others",
    "pair": "each class for one other",
}
METHODS = {"cross-entropy": ("#D55E00", "s", "--"), "noise layer": ("#0072B2", "o", "-")}
"""Colour (of Okabe and Ito, who chose them for all kinds of eyes), marker and line."""

Accuracies = dict[tuple[str, str], dict[float, list[float]]]


def share_of_wrong_labels(kind: str, level: float) -> float:
    """Uniform noise of the paper's level ``p`` draws from all classes, the right one too: it flips ``p (K-1)/K``."""
    return level * (CLASSES - 1) / CLASSES if kind == "uniform" else level


def read_accuracies(path: Path = RESULTS) -> Accuracies:
    """Of MNIST, after the last epoch: by (kind of noise, method) and share of wrong labels, one for each seed."""
    found: Accuracies = defaultdict(lambda: defaultdict(list))
    for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        data, _, noise = line["cell"].partition(" ")
        if data != "mnist" or line["method"] not in METHODS:
            continue
        kind, _, level = noise.partition(":")
        for shown in KINDS if noise == "uniform:0" else [kind]:  # no noise is the start of each kind
            found[shown, line["method"]][share_of_wrong_labels(kind, float(level))].append(line["last"])
    return found


def draw(accuracies: Accuracies) -> Figure:
    """A panel for each kind of noise, a line for each method, the seeds' standard deviation as bars."""
    figure = Figure(figsize=(9, 3.3), layout="constrained")
    panels = figure.subplots(1, len(KINDS), sharey=True)
    for axes, (kind, words) in zip(panels, KINDS.items(), strict=True):
        for name, style in METHODS.items():
            _draw_line(axes, accuracies[kind, name], name, style)
        axes.set(title=words, xlabel="wrong training labels (%)", ylim=(0.4, 1.0), xlim=(-3, 73))
        axes.grid(linewidth=0.4)
    panels[0].set_ylabel("clean test accuracy")
    panels[0].legend(loc="lower left")
    figure.suptitle("MNIST, three kinds of wrong labels", fontsize="medium")
    return figure


def _draw_line(axes: Axes, by_share: dict[float, list[float]], name: str, style: tuple[str, str, str]) -> None:
    shares = sorted(by_share)
    colour, marker, line = style
    means = [float(np.mean(by_share[share])) for share in shares]
    deviations = [float(np.std(by_share[share])) for share in shares]
    percent = [100 * share for share in shares]
    axes.errorbar(percent, means, deviations, color=colour, marker=marker, linestyle=line, label=name, capsize=2)


if __name__ == "__main__":
    draw(read_accuracies()).savefig(PICTURE, dpi=110)
