"""Checkpoints that are whole or not there, whenever the process is killed."""

import io
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_noisy.training.earlier_training import keep_earlier_training
from lightning_noisy.utils.atomic_files import atomic_path


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, sees it to the disk and only then gives it its name.

    Lightning's own writes into the system's folder for temporary files and moves it from there, which is a copy, and so
    may end in the middle, where that folder lies on another disk. Remote paths (``s3://``) are left to Lightning.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Writes ``checkpoint`` to ``path``; an older file of this name stays as it is until the new one is whole."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        for left_over in path.parent.glob(f".{path.name}.*.part"):  # of a process that was killed
            left_over.unlink(missing_ok=True)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with atomic_path(path) as part, open(part, "wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())


class AtomicCheckpoints(L.Callback):
    """Lets a Trainer that writes checkpoints as Lightning does by default write them by :class:`AtomicCheckpointIO`."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        strategy = trainer.strategy
        # Sharding strategies write in ways of their own.
        writes_one_file = type(strategy) in (SingleDeviceStrategy, DDPStrategy)
        if writes_one_file and type(strategy.checkpoint_io) is TorchCheckpointIO:
            strategy.checkpoint_io = AtomicCheckpointIO()


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``last.ckpt``, which ``--ckpt_path last`` finds: after each epoch, and when the process is asked to end.

    On SIGTERM (preemption) it is written after the step that is under way. Any other error leaves the last one as it
    is: it may have come in the middle of a step, from which a run can't reach the same weights. A training that does
    not go on from one moves the ``last.ckpt`` of an earlier training into ``earlier-DATE-TIME/`` beside it.

    Args:
        dirpath: The folder.
        every_n_train_steps: Write it each so many steps instead, where epochs are long.
    """

    def __init__(self, dirpath: str, every_n_train_steps: int | None = None) -> None:
        super().__init__(
            dirpath=dirpath,
            filename=self.CHECKPOINT_NAME_LAST,
            every_n_train_steps=every_n_train_steps,
            enable_version_counter=False,
            save_on_exception=True,
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        keep_earlier_training(trainer, str(self.dirpath), [f"{self.filename}{self.FILE_EXTENSION}"])

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SIGTERMException):
            super().on_exception(trainer, pl_module, exception)
