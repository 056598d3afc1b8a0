"""cleanlab as a competitor: find the wrong labels by cross-validation, drop them, train on the rest."""

import torch
from denoising.cells import Cell
from denoising.fitting import fit, predict
from denoising.methods import Method
from torch import Tensor

FOLDS = 5


class CleanlabPruning(Method):
    """Cross-entropy on what ``find_label_issues`` keeps, by out-of-sample probabilities of five folds.

    Source: Northcutt, Jiang, Chuang 2021, arXiv 1911.00068.
    """

    @classmethod
    def prepare(cls, cell: Cell, rows: Tensor, seed: int) -> tuple[Cell, Tensor]:
        from cleanlab.filter import find_label_issues

        fold_of = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)) % FOLDS
        probs = torch.empty(len(rows), cell.num_classes)
        for fold in range(FOLDS):
            seen, unseen = rows[fold_of != fold], rows[fold_of == fold]
            plain = Method(
                cell.num_classes, len(seen), cell.epochs, len(seen) // cell.batch_size, cell.transition_matrix
            )
            network, _ = fit(cell, seen, plain, seed)
            probs[fold_of == fold] = predict(network, cell.images[unseen]).softmax(dim=1)
        is_issue = find_label_issues(cell.noisy_labels[rows].numpy(), probs.numpy(), n_jobs=1)
        return cell, rows[torch.from_numpy(~is_issue)]
