"""What networks say of the images whose labels are audited: by one training, or out of sample by five."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from denoising.cells import Cell
from denoising.fitting import fit, predict
from denoising.methods import METHODS, ByNoiseLayer, Method
from torch import Tensor, nn

FOLDS = 5


@dataclass
class Predicted:
    """The answers of one network, or of one for each fold.

    Args:
        logits: (N, K).
        network_of: (N,) which network gave them.
        counts: For each network (K, K), what its training counted in the last epoch; ``None`` where it does not count.
        seconds: Of the processor, for all trainings.
    """

    logits: Tensor
    network_of: Tensor
    counts: list[Tensor | None]
    seconds: float = 0.0


class Predictions:
    """Of one cell with one seed; what several methods look at is trained once.

    Args:
        cell: All its images are audited.
        seed: Of the trainings.
        validation: (V, ...) images and (V,) noisy labels that each training looks at after each epoch.
    """

    def __init__(self, cell: Cell, seed: int, validation: tuple[Tensor, Tensor] | None = None) -> None:
        self.cell, self.seed, self.validation = cell, seed, validation
        self.of = cache(self._of)

    def _of(self, training: str, folds: int) -> Predicted:
        """The answers to all images.

        Args:
            training: A name of :data:`denoising.methods.METHODS`.
            folds: 0 is one training on all images, which then looks at what it was trained on.
        """
        size = len(self.cell.images)
        order = torch.randperm(size, generator=torch.Generator().manual_seed(self.seed))
        network_of = order % folds if folds else torch.zeros(size, dtype=torch.int64)
        predicted = Predicted(torch.empty(size, self.cell.num_classes), network_of, [])
        for fold in range(max(folds, 1)):
            asked = network_of == fold
            rows = torch.nonzero(~asked if folds else asked).flatten()
            method = METHODS[training].for_images(self.cell, len(rows))
            network, seconds = fit(self.cell, rows, method, self.seed, self._validate(method))
            predicted.logits[asked] = predict(network, self.cell.images[asked])
            shown = method.counts.latest if isinstance(method, ByNoiseLayer) else None
            predicted.counts.append(None if shown is None else shown.label_counts)
            predicted.seconds += seconds
        return predicted

    def _validate(self, method: Method) -> Callable[[nn.Module], None] | None:
        if self.validation is None:
            return None
        images, labels = self.validation
        return lambda network: method.validated(predict(network, images), labels)
