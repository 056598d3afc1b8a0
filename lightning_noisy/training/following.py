"""What a noise layer learns from the counts of each epoch, in a Lightning training and over its checkpoints."""

import math
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lightning_noisy.noise.warmup import Warmup

CHECKPOINT_KEY = "noise_layer_counts"
"""Where a checkpoint holds the counts of the epoch under way, and what the layer has taken from the last one."""

VALIDATED = ("val/accuracy_noisy", "val/loss_noisy")
"""What is logged in validation and may make the warm-up longer."""


class CountFollowing(L.Callback):
    """Tells the noise layer how long the training is, and at the start of each epoch what the last one has shown.

    That are the counts, of all processes, and the last ``val/accuracy_noisy`` and ``val/loss_noisy`` that were logged
    in it. A run that goes on from a checkpoint, in the middle of an epoch too, goes on with the same ones. Only a
    checkpoint of an epoch's last step, before its validation, lacks that validation, which Lightning does not repeat:
    an automatic warm-up then ends where it would without one.
    """

    def __init__(self) -> None:
        self._counted_epoch: int | None = None
        self._warmup_is_known = False
        self._validated: list[float] | None = None

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            pl_module._label_counts = pl_module._confidence = None
            if (layer := pl_module.noise_layer) is not None:
                layer.label_weights = layer.rescued = None
            self._counted_epoch, self._warmup_is_known, self._validated = None, False, None

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        layer = pl_module.noise_layer
        if layer is not None and not self._warmup_is_known:
            layer.warmup = Warmup.plan(layer.config, *planned_epochs(trainer))

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        # Not `on_train_epoch_start`: a run that goes on from an epoch's last batch begins the next one without it.
        if trainer.current_epoch == self._counted_epoch:
            return
        counts, confidence = pl_module.sum_label_counts(), pl_module.sum_confidence()
        layer = pl_module.noise_layer
        if counts is not None and layer is not None:
            if self._validated is not None and self._counted_epoch is not None:
                shown = counts.trace() / counts.sum(), confidence / counts.sum()
                layer.warmup.validated(self._counted_epoch, *self._validated, *map(float, shown))
            layer.follow(counts, acts=not pl_module.in_warmup)
        pl_module._label_counts = pl_module._confidence = self._validated = None
        self._counted_epoch = trainer.current_epoch

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        logged, layer = trainer.callback_metrics, getattr(pl_module, "noise_layer", None)
        if trainer.sanity_checking or layer is None or any(name not in logged for name in VALIDATED):
            return
        # A module of one's own may have logged what its process saw: all of them must go by the same numbers.
        self._validated = trainer.strategy.broadcast([float(logged[name]) for name in VALIDATED])

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        layer = pl_module.noise_layer
        if layer is None or self._counted_epoch is None:  # no step was taken
            return
        counts, confidence = pl_module.sum_label_counts(), pl_module.sum_confidence()
        checkpoint[CHECKPOINT_KEY] = {
            "epoch": self._counted_epoch,
            "counts": None if counts is None else _pack(counts),
            "confidence": None if confidence is None else float(confidence),
            "label_weights": layer.label_weights,
            "rescued": layer.rescued,
            "warmup": layer.warmup.state_dict(),
            "validated": self._validated,
        }

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        layer = pl_module.noise_layer
        if layer is None or trainer.state.fn != TrainerFn.FITTING:
            return
        # Without counts too: a search of the learning rate goes back to where nothing was counted.
        kept = checkpoint.get(CHECKPOINT_KEY, {})
        layer.label_weights, layer.rescued = kept.get("label_weights"), kept.get("rescued")
        self._counted_epoch = kept.get("epoch")
        pl_module._label_counts = pl_module._confidence = None
        self._validated = kept.get("validated")
        self._warmup_is_known = "warmup" in kept and layer.config.warmup_epochs == "auto"
        if self._warmup_is_known:
            layer.warmup = Warmup(**kept["warmup"])
        if kept.get("counts") is not None:
            counts = _unpack(kept["counts"], layer.num_classes).to(trainer.strategy.root_device)
            # Those of all processes: one of them goes on with them, the others with none.
            pl_module._label_counts = counts if trainer.is_global_zero else torch.zeros_like(counts)
            confidence = kept.get("confidence", 0.0) if trainer.is_global_zero else 0.0
            pl_module._confidence = torch.tensor(confidence, device=counts.device)


def planned_epochs(trainer: L.Trainer) -> tuple[float, int | float]:
    """How many epochs the training lasts, and how many optimizer steps each has; infinite where nobody knows."""
    steps_per_epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
    steps_per_epoch = math.ceil(steps_per_epoch) if math.isfinite(steps_per_epoch) else math.inf
    epochs: float = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
    if trainer.max_steps != -1 and math.isfinite(steps_per_epoch):
        epochs = min(epochs, trainer.max_steps / max(steps_per_epoch, 1))
    return epochs, steps_per_epoch


def _pack(counts: Tensor) -> dict[str, Tensor]:
    """Only the pairs that occur: small also where K is large."""
    pairs = torch.nonzero(counts)
    return {"pairs": pairs, "values": counts[pairs[:, 0], pairs[:, 1]].float()}


def _unpack(packed: dict[str, Tensor], num_classes: int) -> Tensor:
    counts = torch.zeros(num_classes, num_classes)
    counts[packed["pairs"][:, 0], packed["pairs"][:, 1]] = packed["values"]
    return counts
