"""Loggers: W&B that starts offline where there is no key and never ends a training; pictures and tables for each."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyExperiment, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from lightning_noisy.training.loggers.wandb_runs import PROJECT, new_run_id, run_name, run_settings, start_run

STEP = "trainer/global_step"
"""Lightning's name for the step in W&B."""


class NoisyWandbLogger(WandbLogger):
    """Lightning's :class:`~lightning.pytorch.loggers.WandbLogger` that a training can rely on.

    - Where no key is found (``WANDB_API_KEY``, ``wandb login``) and ``WANDB_MODE`` does not say otherwise, the run is
      kept in files, and one line says how to send it later.
    - An error of W&B, at the start or later, is one warning; when the start fails, or the key is refused, the run is
      kept in files. W&B gets 30 seconds to start and 600 to finish (``WANDB_INIT_TIMEOUT``, ``WANDB_FINISH_TIMEOUT``).
    - A training that resumes from a checkpoint resumes its run, and what the run has already is not logged again.

    Args:
        args, kwargs: As of :class:`~lightning.pytorch.loggers.WandbLogger`; the project is by default
            ``WANDB_PROJECT``, else ``lightning-noisy``.
        recipe: What the run is named after, with its id behind, unless ``name`` is given; also in its config. The
            command line puts the names of the files given by ``--config`` here.
    """

    def __init__(self, *args: Any, recipe: str | None = None, **kwargs: Any) -> None:
        kwargs["project"] = kwargs.get("project") or os.environ.get("WANDB_PROJECT") or PROJECT
        kwargs["resume"] = kwargs.get("resume") or "allow"  # the command line gives every option, None by default
        super().__init__(*args, **kwargs)
        self.recipe = recipe
        self._keeps_its_id = bool(self._id or os.environ.get("WANDB_RUN_ID"))
        if not self._keeps_its_id:
            self._set_id(new_run_id())  # a ModelCheckpoint asks for it before the run starts
        self._is_held = self._is_off = self._has_warned = False
        self._resumed_steps: dict[str, int] = {}
        self._last_steps: dict[str, int] = {}

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, started at the first call."""
        if self._experiment is None and not self._is_held and not self._is_off:
            self._start()
        return DummyExperiment() if self._experiment is None else self._experiment

    def hold(self) -> None:
        """Does not start the run before :meth:`release`, so that a checkpoint can tell which run to resume."""
        self._resumed_steps = {}
        self._is_held = self._experiment is None

    def release(self, run_state: Mapping[str, Any] | None = None) -> None:
        """Starts the run; with the :meth:`run_state` of a checkpoint it resumes that run."""
        if run_state and run_state["id"] and self._experiment is None and not self._keeps_its_id:
            self._set_id(run_state["id"])
            self._resumed_steps, self._last_steps = dict(run_state["last_steps"]), dict(run_state["last_steps"])
        self._is_held = False
        _ = self.experiment

    def run_state(self) -> dict[str, Any]:
        """Primitives for a checkpoint: the run's id and the last step of each metric."""
        return {"id": self.version, "last_steps": dict(self._last_steps)}

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        resumed = self._resumed_steps
        fresh = {name: value for name, value in metrics.items() if step is None or step > resumed.get(name, -1)}
        if set(fresh) <= {"epoch"}:
            return
        with self._errors_as_warning():
            super().log_metrics(fresh, step)
            if step is not None:
                self._last_steps.update(dict.fromkeys(fresh, step))

    def log_hyperparams(self, params: Any) -> None:
        with self._errors_as_warning():
            super().log_hyperparams(params)

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        with self._errors_as_warning():
            super().after_save_checkpoint(checkpoint_callback)

    def finalize(self, status: str) -> None:
        with self._errors_as_warning():
            super().finalize(status)

    def _set_id(self, run_id: str) -> None:
        self._id = self._wandb_init["id"] = run_id

    def _start(self) -> None:
        # Lightning would say `offline` to the whole process, and leaves the directory to W&B, which takes another one.
        own_mode = "offline" if self._offline else self._wandb_init.get("mode")
        self._offline = False
        if start_run(self._open, own_mode) is None:
            self._is_off = self._has_warned = True
            return
        run: Any = self._experiment
        if self._log_model and getattr(run, "offline", False):
            self._log_model = False
            rank_zero_warn("`log_model` is off: checkpoints can't be uploaded while the W&B run is offline.")
        with self._errors_as_warning():
            if self.recipe:
                run.config.update({"recipe": self.recipe})
            if getattr(run, "resumed", False) is True:  # what was done after the last checkpoint will be done again
                summary = dict(run.summary)
                step = int(summary.get(STEP, -1))
                self._resumed_steps |= {name: max(step, self._resumed_steps.get(name, -1)) for name in summary}

    def _open(self, mode: str | None) -> Any:
        given = {name: value for name, value in self._wandb_init.items() if value not in (None, "")}
        Path(given.get("dir", ".")).mkdir(parents=True, exist_ok=True)
        defaults = {"settings": run_settings(), "name": run_name(self.recipe, self._id)}
        self._wandb_init = {**defaults, **given, "mode": mode}
        return super().experiment

    @contextmanager
    def _errors_as_warning(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not self._has_warned:
                self._has_warned = True
                rank_zero_warn(
                    f"W&B could not log, the training continues without it ({type(error).__name__}: {error})."
                )


def log_picture(logger: Logger, name: str, pixels: np.ndarray, step: int | None = None) -> None:
    """Gives (H, W, 3) uint8 pixels to a logger that takes pictures."""
    with _never_fatal(name):
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [pixels], step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, pixels, step, dataformats="HWC")


def log_table(
    logger: Logger, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int | None = None
) -> None:
    """Gives a table to a logger that takes tables."""
    with _never_fatal(name):
        if isinstance(logger, WandbLogger):
            logger.log_table(name, columns=list(columns), data=[list(row) for row in rows], step=step)


def takes_pictures(logger: Logger) -> bool:
    """Whether :func:`log_picture` does anything with it."""
    return isinstance(logger, WandbLogger | TensorBoardLogger)


@rank_zero_only
def hold_wandb_runs(loggers: Sequence[Logger]) -> None:
    """Lightning starts the loggers before it reads the checkpoint that tells which run to resume."""
    for logger in loggers:
        if isinstance(logger, NoisyWandbLogger):
            logger.hold()


@contextmanager
def _never_fatal(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        rank_zero_warn(f"{name!r} could not be logged ({type(error).__name__}: {error}).")
