"""What networks say of the images whose labels are audited: by one training, or out of sample by five."""

from functools import cache

import torch
from denoising.cells import Cell
from denoising.fitting import fit, predict
from denoising.methods import METHODS
from torch import Tensor

FOLDS = 5


class Predictions:
    """The logits of one cell with one seed; what several methods look at is trained once."""

    def __init__(self, cell: Cell, seed: int) -> None:
        self.cell, self.seed = cell, seed
        self.of = cache(self._of)

    def _of(self, training: str, folds: int) -> tuple[Tensor, float]:
        """(N, K) logits and the processor's seconds of a training of :data:`~denoising.methods.METHODS`.

        Args:
            training: Its name.
            folds: 0 is one training on all images, which then looks at what it was trained on.
        """
        size = len(self.cell.images)
        if not folds:
            return self._train(training, torch.arange(size), torch.arange(size))
        fold_of = torch.randperm(size, generator=torch.Generator().manual_seed(self.seed)) % folds
        logits, seconds = torch.empty(size, self.cell.num_classes), 0.0
        for fold in range(folds):
            unseen = torch.nonzero(fold_of == fold).flatten()
            logits[unseen], spent = self._train(training, torch.nonzero(fold_of != fold).flatten(), unseen)
            seconds += spent
        return logits, seconds

    def _train(self, training: str, rows: Tensor, asked: Tensor) -> tuple[Tensor, float]:
        method = METHODS[training].for_images(self.cell, len(rows))
        network, seconds = fit(self.cell, rows, method, self.seed)
        return predict(network, self.cell.images[asked]), seconds
