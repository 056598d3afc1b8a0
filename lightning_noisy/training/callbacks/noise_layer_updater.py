"""Tells the noise layer what each epoch of a Lightning training has shown, over its checkpoints too."""

import math
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from lightning_noisy.noise.epoch_counts import EpochCounts

COUNTS_KEY = "noise_layer_counts"
"""Where a checkpoint holds what the epoch under way has shown."""


class NoiseLayerUpdater(L.Callback):
    """Begins the epochs of a module's :class:`~lightning_noisy.noise.epoch_counts.EpochCounts` and keeps them.

    A run that resumes from a checkpoint, in the middle of an epoch too, resumes its counts. What the layer has taken
    from earlier epochs is in its weights.
    """

    def __init__(self) -> None:
        self._has_trained = False

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            pl_module.epoch_counts = EpochCounts()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        # Not `on_train_epoch_start`: a run that resumes from an epoch's last batch begins the next one without it.
        pl_module.epoch_counts.start_epoch(trainer.current_epoch, pl_module.noise_layer)
        self._has_trained = True

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        # An average of weights (EMA) takes buffers in: one of the epochs that the layer was told of means nothing.
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            averaged = getattr(getattr(callback, "_average_model", None), "module", None)
            if averaged is not None and pl_module.noise_layer is not None:
                for name, buffer in averaged.noise_layer.named_buffers():
                    buffer.copy_(pl_module.noise_layer.get_buffer(name))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self._has_trained and pl_module.noise_layer is not None and pl_module.epoch_counts.is_empty:
            rank_zero_warn(
                f"The noise layer has seen no label in epoch {trainer.current_epoch} and can't act: the "
                "`training_step` does not compute its loss by `self.noisy_loss(clean_logits, noisy_labels)`."
            )
        self._has_trained = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        pl_module.epoch_counts.end_validation()

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        pl_module.epoch_counts.so_far()  # here all processes ask; afterwards one alone may

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint[COUNTS_KEY] = pl_module.epoch_counts.state_dict()

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        pl_module.epoch_counts = EpochCounts()  # a search of the learning rate goes back to where nothing was counted
        if COUNTS_KEY in checkpoint:
            root_device, rank = trainer.strategy.root_device, trainer.global_rank
            pl_module.epoch_counts.load_state_dict(checkpoint[COUNTS_KEY], root_device, rank)


def planned_epochs(trainer: L.Trainer) -> float:
    """How many epochs the training lasts; infinite where nobody knows."""
    epochs: float = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
    steps_per_epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
    if trainer.max_steps != -1 and math.isfinite(steps_per_epoch):
        epochs = min(epochs, trainer.max_steps / max(math.ceil(steps_per_epoch), 1))
    return epochs
