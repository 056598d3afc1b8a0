"""What a training says at its end: how good it is, how noisy the labels are, where all lies, and what to type next."""

import datetime
from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

LEADING = {
    "test_accuracy_clean": "accuracy on test images, checked labels",
    "test_accuracy_noisy": "accuracy on test images, given labels",
    "val/accuracy_clean": "accuracy on held-out images, checked labels",
    "val/accuracy_noisy": "accuracy on held-out images, given labels",
    "eval_accuracy_noisy": "accuracy on held-out images, given labels",
    "noise/estimated_rate": "training labels that are wrong, estimated",
}
"""The metrics that count most, as shares, in words."""
GUESSED = "training labels that are wrong, a rough guess"
"""What the estimate is where the layer has no share in the loss: the network has learned wrong labels, or little."""
SPEED = "images_per_second"
OF_THE_MOMENT = ("lr-", "learning_rate")
"""Metrics that tell nothing of the run as a whole."""


def run_summary(
    metrics: Mapping[str, float],
    epochs: float,
    steps: int,
    seconds: float,
    places: Mapping[str, str],
    commands: Sequence[str],
) -> Group:
    """What is printed; ``Console.print(..., soft_wrap=True)`` leaves paths and commands in one line each.

    Args:
        metrics: By name.
        epochs: Epochs trained.
        steps: Optimizer steps.
        seconds: Wall-clock time.
        places: Where files lie, by what they are.
        commands: To type next.
    """
    # One line each, however long: a path that is broken can't be copied.
    lines = [Text(f"{name + ':':<17}{place}", no_wrap=True) for name, place in places.items()]
    if commands:
        what = "Next: which labels are wrong, and a clean model to publish (under a licence of your choice)"
        lines += [Text(f"\n{what}"), *(Text(f"  {command}", no_wrap=True) for command in commands)]
    return Group(_table(dict(metrics), epochs, steps, seconds), *lines)


def _table(metrics: dict[str, float], epochs: float, steps: int, seconds: float) -> Table:
    table = Table(title="After the training", title_justify="left", show_header=False)
    is_guessed = metrics.get("noise/share") == 0
    for name, words in LEADING.items():
        if name in metrics:
            words = GUESSED if is_guessed and name == "noise/estimated_rate" else words
            table.add_row(words, f"{metrics.pop(name):.1%}")
    table.add_section()
    table.add_row("epochs", f"{epochs:g}")
    table.add_row("steps", str(steps))
    table.add_row("time", str(datetime.timedelta(seconds=round(seconds))))
    if SPEED in metrics:
        table.add_row("images in a second", f"{metrics.pop(SPEED):.4g}")
    table.add_section()
    for name, value in sorted(metrics.items()):
        if not name.startswith(OF_THE_MOMENT):
            table.add_row(name, f"{value:.4g}")
    return table
