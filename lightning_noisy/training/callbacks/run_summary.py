"""The last words of a fit."""

from shlex import quote
from typing import Any

import lightning.pytorch as L
from rich.console import Console, Group

from lightning_noisy.run_record import as_numbers
from lightning_noisy.run_summary import run_summary
from lightning_noisy.training.callbacks.run_recorder import describe_run
from lightning_noisy.utils import PROGRAM
from lightning_noisy.utils.text import relative_path


class RunSummary(L.Callback):
    """Prints what came out, the epochs, the time, the places of the files and the next commands when a fit ends.

    One process prints it, and only where Lightning's progress bar is on: who turns that off wants a quiet training.
    """

    def __init__(self) -> None:
        self._summary: Group | None = None

    def on_fit_end(self, trainer: Any, pl_module: L.LightningModule) -> None:
        log_dir = trainer.log_dir  # asks all processes
        if trainer.is_global_zero and trainer.progress_bar_callback is not None and not trainer.fast_dev_run:
            record, places = describe_run(trainer, pl_module), _places(trainer, log_dir)
            # Of a metric's names only the one with its epoch's value.
            metrics = {n: v for n, v in as_numbers(trainer.callback_metrics).items() if not n.endswith("_step")}
            commands = _next_commands(trainer, pl_module, places)
            self._summary = run_summary(metrics, record.epochs, record.steps, record.seconds, places, commands)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        summary, self._summary = self._summary, None
        if summary is not None:  # only now is the progress bar gone
            Console().print(summary, soft_wrap=True)


def _next_commands(trainer: Any, pl_module: L.LightningModule, places: dict[str, str]) -> list[str]:
    """None where there is no checkpoint, or one that does not tell its network: that of a module of one's own."""
    checkpoint = places.get("best checkpoint") or places.get("last checkpoint")
    if checkpoint is None or not pl_module.hparams.get("backbone"):
        return []
    source = getattr(getattr(trainer, "datamodule", None), "source", "DATA")
    knows_data = any(getattr(callback, "keeps_data", False) for callback in trainer.callbacks)
    data = "" if knows_data else f" --data.source {quote(str(source))}"
    return [
        f"{PROGRAM} audit --ckpt_path {quote(checkpoint)}{data} --output audit",
        f"{PROGRAM} export --ckpt_path {quote(checkpoint)} --output clean --license apache-2.0",
    ]


def _places(trainer: Any, log_dir: str | None) -> dict[str, str]:
    places = {"logs": str(log_dir)} if trainer.loggers and log_dir else {}
    written = next((c.written for c in trainer.callbacks if getattr(c, "written", None)), None)
    if written is not None:
        files = {"clean model": "clean_model", "curves": "training_curves.png", "noise": "transition_matrix.png"}
        places |= {name: str(written / file) for name, file in files.items() if (written / file).exists()}
    checkpoints = trainer.checkpoint_callback
    best, last = (getattr(checkpoints, f"{which}_model_path", "") for which in ("best", "last"))
    if getattr(checkpoints, "monitor", None) is None:  # Lightning calls the newest one the best where none is measured
        best, last = "", last or best
    places |= {"best checkpoint": best, "last checkpoint": last}
    return {name: relative_path(place) for name, place in places.items() if place}
