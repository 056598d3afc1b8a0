"""What a training says at its end: how good it is, how noisy the labels are, where all lies, and what to type next."""

import datetime
from shlex import quote
from typing import Any

import lightning.pytorch as L
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from lightning_noisy.run_record import as_numbers
from lightning_noisy.training.callbacks.run_recorder import describe_run
from lightning_noisy.training.loggers.wandb_runs import relative_path
from lightning_noisy.utils import PROGRAM

LEADING = {
    "val/accuracy_clean": "accuracy on held-out images, checked labels",
    "val/accuracy_noisy": "accuracy on held-out images, given labels",
    "noise/estimated_rate": "training labels that are wrong, estimated",
}
"""The metrics that count most, as shares, in words."""


class RunSummary(L.Callback):
    """Prints what came out, the epochs, the time, the places of the files and the next commands when a fit ends.

    One process prints it, and only where Lightning's progress bar is on: who turns that off wants a quiet training.
    """

    def __init__(self) -> None:
        self._summary: Group | None = None

    def on_fit_end(self, trainer: Any, pl_module: L.LightningModule) -> None:
        log_dir = trainer.log_dir  # asks all processes
        if trainer.is_global_zero and trainer.progress_bar_callback is not None and not trainer.fast_dev_run:
            places = _places(trainer, log_dir)
            self._summary = Group(summary_table(trainer, pl_module), *_lines(places), *_next(places))

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        summary, self._summary = self._summary, None
        if summary is not None:  # only now is the progress bar gone
            Console().print(summary, soft_wrap=True)


def summary_table(trainer: Any, pl_module: L.LightningModule) -> Table:
    """The numbers of a finished fit, what counts first; of a metric's names only the one with its epoch's value."""
    record = describe_run(trainer, pl_module)
    metrics = {
        name: value for name, value in as_numbers(trainer.callback_metrics).items() if not name.endswith("_step")
    }
    table = Table(title="After the training", title_justify="left", show_header=False)
    for name, words in LEADING.items():
        if name in metrics:
            table.add_row(words, f"{metrics.pop(name):.1%}")
    table.add_section()
    table.add_row("epochs", f"{record.epochs:g}")
    table.add_row("steps", str(record.steps))
    table.add_row("time", str(datetime.timedelta(seconds=round(record.seconds))))
    table.add_section()
    for name, value in sorted(metrics.items()):
        table.add_row(name, f"{value:.4g}")
    return table


def _lines(places: dict[str, str]) -> list[Text]:
    """One line each, however long: a path that is broken can't be copied."""
    return [Text(f"{name + ':':<17}{place}", no_wrap=True) for name, place in places.items()]


def _next(places: dict[str, str]) -> list[Text]:
    checkpoint = places.get("best checkpoint") or places.get("last checkpoint")
    if checkpoint is None:
        return []
    commands = (
        f"{PROGRAM} audit --ckpt_path {quote(checkpoint)} --output audit",
        f"{PROGRAM} export --ckpt_path {quote(checkpoint)} --output clean --license apache-2.0",
    )
    return [
        Text("\nNext: which labels are wrong, and a clean model to publish (under a licence of your choice)"),
        *(Text(f"  {command}", no_wrap=True) for command in commands),
    ]


def _places(trainer: Any, log_dir: str | None) -> dict[str, str]:
    places = {"logs": str(log_dir)} if trainer.loggers and log_dir else {}
    written = next((c.written for c in trainer.callbacks if getattr(c, "written", None)), None)
    if written is not None:
        places["clean model"] = str(written / "clean_model")
    checkpoints = trainer.checkpoint_callback
    best, last = (getattr(checkpoints, f"{which}_model_path", "") for which in ("best", "last"))
    if getattr(checkpoints, "monitor", None) is None:  # Lightning calls the newest one the best where none is measured
        best, last = "", last or best
    places |= {"best checkpoint": best, "last checkpoint": last}
    return {name: relative_path(place) for name, place in places.items() if place}
