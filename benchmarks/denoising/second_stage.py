"""The noise layer twice: a second training on the labels that the audit of a first one has corrected."""

import dataclasses

import torch
from auditing.methods import by_posterior
from auditing.predicting import FOLDS, Predictions
from denoising.cells import Cell
from denoising.methods import Ours
from torch import Tensor


class SecondStage(Ours):
    """What ``recipes/audit.sh`` does: fit, audit, ``apply --policy relabel``, fit.

    Training anew on corrected labels: Tanaka et al. 2018, arXiv 1803.11364, who correct them without a noise model.
    """

    folds = 0

    @classmethod
    def prepare(cls, cell: Cell, rows: Tensor, seed: int) -> tuple[Cell, Tensor]:
        labels = cell.noisy_labels.clone()
        first = dataclasses.replace(
            cell, images=cell.images[rows], noisy_labels=labels[rows], clean_labels=cell.clean_labels[rows]
        )
        held_out = torch.ones(len(labels), dtype=torch.bool).index_fill_(0, rows, False)
        validation = cell.images[held_out], labels[held_out]
        verdict = by_posterior(Predictions(first, seed, validation).of("noise layer", cls.folds), first.noisy_labels)
        suggested, is_taken = torch.from_numpy(verdict.suggested), torch.from_numpy(verdict.is_taken)
        labels[rows] = torch.where(is_taken, suggested, labels[rows])
        return dataclasses.replace(cell, noisy_labels=labels), rows

    def transition_matrix(self) -> None:
        """None: what it counts is the noise that the correction has left."""


class SecondStageByFolds(SecondStage):
    """The same with an audit by five folds."""

    folds = FOLDS


SECOND_STAGES: dict[str, type[SecondStage]] = {
    "second stage": SecondStage,
    "second stage, 5 folds": SecondStageByFolds,
}
"""Only trained where they are asked for by name: they cost two and six times what the others do."""
