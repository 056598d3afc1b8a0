"""A table at the end of a training: what came out, and where it lies."""

import datetime
from typing import Any

import lightning.pytorch as L
from rich.console import Console
from rich.table import Table

from lightning_noisy.run_record import as_numbers
from lightning_noisy.training.record import describe_run


class RunSummary(L.Callback):
    """Prints the last metrics, the epochs, the time and the places of the files when a fit ends.

    One process prints it, and only where Lightning's progress bar is on: who turns that off wants a quiet training.
    """

    def __init__(self) -> None:
        self._table: Table | None = None

    def on_fit_end(self, trainer: Any, pl_module: L.LightningModule) -> None:
        log_dir = trainer.log_dir  # asks all processes
        if trainer.is_global_zero and trainer.progress_bar_callback is not None and not trainer.fast_dev_run:
            self._table = summary_table(trainer, pl_module, log_dir)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        table, self._table = self._table, None
        if table is not None:  # only now is the progress bar gone
            Console().print(table)


def summary_table(trainer: Any, pl_module: L.LightningModule, log_dir: str | None) -> Table:
    """The table of a finished fit; of a metric's names only the one with its epoch's value."""
    record = describe_run(trainer, pl_module)
    table = Table(title="After the training", title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in sorted(as_numbers(trainer.callback_metrics).items()):
        if not name.endswith("_step"):
            table.add_row(name, f"{value:.4g}")
    table.add_section()
    table.add_row("epochs", f"{record.epochs:g}")
    table.add_row("steps", str(record.steps))
    table.add_row("time", str(datetime.timedelta(seconds=round(record.seconds))))
    table.add_section()
    for name, place in _places(trainer, log_dir).items():
        table.add_row(name, place)
    return table


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
    return {name: place for name, place in places.items() if place}
