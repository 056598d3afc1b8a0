"""How long the network is trained by plain cross-entropy before the noise layer acts."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from lightning_noisy.noise.config import NoiseConfig

LONGEST_SHARE = 2 / 3
"""Of the training: no validation makes the warm-up longer."""
AHEAD = 0.05
"""By how much the agreement with the training labels may be above the accuracy on the validation's."""


@dataclass
class Warmup:
    """The length of a warm-up, which may grow while it lasts.

    A network that gets better at labels it is not trained on still learns, and one that knows the labels it is trained
    on by heart agrees with them more often than with others, and than its own confidence says. So an automatic warm-up
    goes on for another epoch, up to two thirds of the training, as long as accuracy and loss on the noisy validation
    labels are the best so far and neither sign of learning by heart is there. Accuracy on noisy labels orders networks
    much as that on clean ones does (Chen et al. 2021, arXiv 2012.04193).

    Args:
        epochs: Its length in epochs.
        planned: The length without any validation.
        training: Epochs of the whole training; ``None`` where the warm-up can't grow.
        best_accuracy: Of the validations so far; ``None`` before the first.
        lowest_loss: As ``best_accuracy``.
    """

    epochs: int
    planned: int
    training: float | None = None
    best_accuracy: float | None = None
    lowest_loss: float | None = None

    @classmethod
    def plan(cls, config: NoiseConfig, training: float, steps_per_epoch: float) -> "Warmup":
        """That of a training of so many epochs (or infinity), of so many optimizer steps each."""
        planned = config.warmup_for(training, steps_per_epoch)
        can_grow = config.warmup_epochs == "auto" and math.isfinite(training)
        return cls(planned, planned, training if can_grow else None)

    def validated(self, epoch: int, accuracy: float, loss: float, agreement: float, confidence: float) -> None:
        """Takes what an epoch has shown; the warm-up may be longer now.

        Args:
            epoch: Which, from 0 on. One past the warm-up changes nothing.
            accuracy: The share of the noisy validation labels that the network predicts. Not a number where none is
                known: then nothing was shown.
            loss: The cross-entropy of the network's own logits on them.
            agreement: The share of the training labels that it predicted while it trained.
            confidence: The mean of its largest probability while it trained.
        """
        if self.training is None or epoch >= self.epochs or math.isnan(accuracy) or math.isnan(loss):
            return
        is_best = self.best_accuracy is None or accuracy > self.best_accuracy
        is_lowest = self.lowest_loss is None or loss < self.lowest_loss
        if is_best:
            self.best_accuracy = accuracy
        if is_lowest:
            self.lowest_loss = loss
        by_heart = agreement > min(accuracy + AHEAD, confidence)
        may_grow = epoch + 1 == self.epochs and self.epochs + 1 <= LONGEST_SHARE * self.training
        if may_grow and is_best and is_lowest and not by_heart:
            self.epochs += 1

    @property
    def push(self) -> float:
        """What the layer's scale is multiplied by: the epochs that were planned for the layer over those it has left.

        One where the warm-up did not grow.
        """
        if self.training is None:
            return 1.0
        return (self.training - self.planned) / (self.training - self.epochs) if self.epochs > self.planned else 1.0

    def state_dict(self) -> dict[str, Any]:
        """Numbers for a checkpoint; ``Warmup(**state)`` is the same again."""
        return asdict(self)
