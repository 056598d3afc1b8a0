"""Callbacks that every training on noisy labels needs: what goes wrong silently without them."""

import os
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from lightning_noisy.models.layer_groups import frozen_modules
from lightning_noisy.noise.counting import lost_classes
from lightning_noisy.training.callbacks.noise_layer_updater import planned_epochs


class TrainMode(L.Callback):
    """Puts everything that is not frozen into train mode at the start of fit.

    A backbone from ``from_pretrained`` arrives in eval mode and Lightning keeps it there: its dropout would never fire
    and its batch norms would never learn.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.train()
        for module in frozen_modules(pl_module):
            module.eval()
        if (noise_layer := getattr(pl_module, "noise_layer", None)) is not None:
            noise_layer.train()  # one that is not trained keeps its dropout


class ReproducibleSteps(L.Callback):
    """Seeds torch at every step from (seed, epoch, batch, rank), so that a resumed run draws what a whole one draws.

    The seed is the global one (``seed_everything``), otherwise a random one; it is kept in the checkpoint.
    """

    def __init__(self) -> None:
        self.seed: int | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.seed is None:
            seed = int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed()))
            self.seed = trainer.strategy.broadcast(seed)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert self.seed is not None
        sequence = np.random.SeedSequence([self.seed, trainer.current_epoch, batch_idx, trainer.global_rank])
        seed = int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
        # By `torch.manual_seed` every kind of device would be seeded, which takes a millisecond for those that sleep.
        torch.default_generator.manual_seed(seed)
        if pl_module.device.type != "cpu":
            torch.get_device_module(pl_module.device).manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seed = state_dict["seed"]


class NoiseLayerNotice(L.Callback):
    """Says what keeps the noise layer from helping.

    At the start: a warm-up as long as the training, or weight decay on a layer that learns. At the end: that it never
    acted, or had to step back, and why.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        noise_layer = getattr(pl_module, "noise_layer", None)
        if noise_layer is None or getattr(trainer, "fast_dev_run", False):
            return
        self._notice_weight_decay(trainer, noise_layer)
        epochs, warmup_epochs = planned_epochs(trainer), noise_layer.config.warmup_epochs
        if warmup_epochs != "auto" and warmup_epochs >= epochs:
            rank_zero_warn(
                f"The noise layer will never act: its `warmup_epochs` is {warmup_epochs} and training ends after "
                f"{epochs:g} epochs. Train longer, or leave `warmup_epochs` out."
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        noise_layer = getattr(pl_module, "noise_layer", None)
        if noise_layer is None or getattr(trainer, "fast_dev_run", False):
            return
        if (verdict := noise_layer.verdict(getattr(pl_module, "class_names", None))) is not None:
            rank_zero_warn(verdict)

    def _notice_weight_decay(self, trainer: L.Trainer, noise_layer: nn.Module) -> None:
        parameters = {parameter for parameter in noise_layer.parameters() if parameter.requires_grad}
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                if group.get("weight_decay", 0.0) > 0 and parameters & set(group["params"]):
                    rank_zero_warn(
                        f"The noise layer has a weight decay of {group['weight_decay']}, which pulls it towards "
                        "expecting noise alone. Give the optimizer `self.parameter_groups(lr=...)` instead of "
                        "`self.parameters()`."
                    )


class ClassCollapseGuard(L.Callback):
    """Warns when the network stops predicting a class that the labels have, and logs what the epoch's labels show.

    Logged at the end of every epoch: ``noise/estimated_rate``, the share of the training labels with which the network
    disagrees, ``noise/trace``, the trace of the layer's transition matrix, and ``noise/share``, the layer's share of
    this epoch's loss.

    Args:
        threshold: A class is lost when it is predicted for fewer than this share of the samples that carry its label.
        patience: Epochs in a row after the warm-up before the warning; the last epoch warns in any case.
    """

    def __init__(self, threshold: float = 0.01, patience: int = 2) -> None:
        self.threshold = threshold
        self.patience = patience
        self._epochs_lost: dict[int, int] = {}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        # A progress bar has just had the first process compute the metrics of the epoch, together with all others: they
        # must do so too before anything else is asked of all, or each waits for the other forever.
        _ = trainer.callback_metrics
        shown = pl_module.epoch_counts.so_far()
        if shown is None:
            return
        pl_module.log("noise/estimated_rate", shown.estimated_rate, rank_zero_only=True)
        noise_layer = pl_module.noise_layer
        if noise_layer is None:
            return
        pl_module.log("noise/trace", noise_layer.transition_matrix().trace(), rank_zero_only=True)
        pl_module.log("noise/share", noise_layer.share, rank_zero_only=True)
        if not pl_module.in_warmup:
            self._warn_of_lost_classes(trainer, pl_module, lost_classes(shown.label_counts, self.threshold))

    def state_dict(self) -> dict[str, Any]:
        return {"epochs_lost": dict(self._epochs_lost)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._epochs_lost = dict(state_dict["epochs_lost"])

    def _warn_of_lost_classes(self, trainer: L.Trainer, pl_module: Any, lost: list[int]) -> None:
        self._epochs_lost = {label: self._epochs_lost.get(label, 0) + 1 for label in lost}
        is_last = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
        due = [
            label
            for label, epochs in self._epochs_lost.items()
            if epochs == self.patience or (is_last and epochs < self.patience)
        ]
        if due:
            names = getattr(pl_module, "class_names", None) or range(pl_module.noise_layer.num_classes)
            said = ", ".join(f"{names[label]!r}" if isinstance(names[label], str) else str(label) for label in due)
            which, it, their = ("classes", "them", "their images") if len(due) > 1 else ("class", "it", "its images")
            rank_zero_warn(
                f"The network does not predict {which} {said} (epoch {trainer.current_epoch}), although the labels "
                f"have {it}. Train longer, lower the learning rate, or look at {their}."
            )
