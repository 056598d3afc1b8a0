"""The course of a training: accuracies, losses, and what the noise layer did, epoch by epoch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lightning_noisy.pictures.style import BLACK, BLUE, GREEN, ORANGE, as_text, new_figure

MARKED_UP_TO = 30
"""Up to this many points of a curve each is marked; a curve of one point is seen at all."""

History = Sequence[Mapping[str, float]]
"""A row for each time that something was measured: ``epoch``, how many were done, and metrics by name."""


@dataclass(frozen=True)
class Curve:
    """One line: what it is called, by which metrics it may be known, and how it is drawn."""

    label: str
    metrics: tuple[str, ...]
    colour: str
    style: str = "-"


ACCURACIES = (
    Curve("held out, checked labels", ("val/accuracy_clean", "eval_accuracy_clean"), BLUE),
    Curve("held out, given labels", ("val/accuracy_noisy", "eval_accuracy_noisy", "eval_accuracy"), ORANGE),
    Curve("training, checked labels", ("train/accuracy_clean",), BLUE, ":"),
    Curve("training, given labels", ("train/accuracy_noisy",), ORANGE, ":"),
)
LOSSES = (
    Curve("held out, given labels", ("val/loss_noisy", "eval_loss"), ORANGE),
    Curve("training, given labels", ("train/loss_clean",), ORANGE, ":"),
    Curve("training, what is minimised", ("loss",), BLACK, "--"),
)
NOISE = (
    Curve("the layer's share of the loss", ("noise/share",), GREEN),
    Curve("labels that are wrong, estimated", ("noise/estimated_rate",), BLACK, "--"),
)
PANELS: dict[str, tuple[str, tuple[Curve, ...]]] = {
    "Accuracy": ("right predictions (%)", ACCURACIES),
    "Loss": ("cross-entropy (nats)", LOSSES),
    "Noise": ("share (%)", NOISE),
}
"""The unit of each panel's axis, and its curves."""


def draw_training_curves(path: str | Path, history: History, title: str = "") -> bool:
    """Writes the picture of :func:`training_curves_figure` as a PNG file; ``False``, and no file, without curves."""
    figure = training_curves_figure(history, title)
    if figure is not None:
        figure.savefig(path)
    return figure is not None


def training_curves_figure(history: History, title: str = "") -> Figure | None:
    """A panel each for accuracies, losses and the noise, over the epochs; ``None`` where nothing of it was measured.

    Args:
        history: Of a :class:`~lightning_noisy.run_record.RunRecord`.
        title: A line above them.
    """
    panels = {name: _measured(curves, history) for name, (_, curves) in PANELS.items()}
    panels = {name: found for name, found in panels.items() if found}
    if not panels:
        return None
    figure = new_figure(4.6 * len(panels), 3.9)
    for axes, (name, found) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        _draw(axes, name, PANELS[name][0], found)
    if title:
        figure.suptitle(as_text(title))
    return figure


def _measured(curves: Sequence[Curve], history: History) -> list[tuple[Curve, list[float], list[float]]]:
    """The curves for which there are numbers, with their epochs and values."""
    found = []
    for curve in curves:
        name = next((name for name in curve.metrics if any(name in row for row in history)), "")
        points = [(row["epoch"], row[name]) for row in history if name in row and "epoch" in row]
        if points:
            found.append((curve, [epoch for epoch, _ in points], [value for _, value in points]))
    return found


def _draw(axes: Axes, name: str, unit: str, found: Sequence[tuple[Curve, list[float], list[float]]]) -> None:
    for curve, epochs, values in found:
        marker = "o" if len(epochs) <= MARKED_UP_TO else None
        axes.plot(epochs, values, curve.style, color=curve.colour, marker=marker, markersize=3, label=curve.label)
    axes.set_title(name)
    axes.set_xlabel("epochs done")
    axes.set_ylabel(unit)
    axes.set_xlim(0, 1.03 * max(epoch for _, epochs, _ in found for epoch in epochs))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if unit.endswith("(%)"):
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    else:
        axes.set_ylim(0, 1.05 * (max(value for _, _, values in found for value in values) or 1.0))
    axes.grid(alpha=0.3)
    # Below the curves, where it hides none of them.
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=8, frameon=False, ncols=1)
