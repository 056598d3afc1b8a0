"""One training of one method in one cell, and what is measured of it."""

import time
from typing import Any

import numpy as np
import torch
from denoising.cells import Cell
from denoising.fitting import fit, predict
from denoising.methods import Method
from torch import Tensor, nn

from lightning_noisy.noise.matrix import mean_row_distance

CALIBRATION_BINS = 15
LOST_BELOW = 0.01
"""A class is lost when it is predicted for fewer than this share of its own number of test images."""


def train(cell: Cell, kind: type[Method], seed: int) -> dict[str, Any]:
    """Trains, looks at the noisy validation and the clean test images after each epoch; a line of results."""
    rows, val_rows = cell.hold_out(seed)
    start = time.process_time()
    trained, rows = kind.prepare(cell, rows, seed)
    seconds_before = time.process_time() - start
    method = kind.for_images(trained, len(rows))
    val_accuracies, tested = [], []

    def measure(network: nn.Module) -> None:
        val_logits, val_labels = predict(network, cell.images[val_rows]), cell.noisy_labels[val_rows]
        method.validated(val_logits, val_labels)
        val_accuracies.append(accuracy(val_logits, val_labels))
        tested.append(predict(network, cell.test_images))

    _, seconds = fit(trained, rows, method, seed, measure)
    matrix = method.transition_matrix()
    return {
        "last": round(accuracy(tested[-1], cell.test_labels), 4),
        "best_noisy_val": round(accuracy(tested[int(np.argmax(val_accuracies))], cell.test_labels), 4),
        "calibration_error": round(calibration_error(tested[-1], cell.test_labels), 4),
        "lost_classes": lost_classes(tested[-1], cell.test_labels),
        "matrix_error": None if matrix is None else round(mean_row_distance(matrix.cpu(), cell.transition_matrix), 4),
        "sampling_error": round(sampling_error(cell), 4),
        "cpu_seconds": round(seconds_before + seconds, 2),
    }


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(dim=1) == labels).double().mean())


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Expected calibration error in 15 bins of confidence."""
    from torchmetrics.functional.classification import multiclass_calibration_error

    return float(multiclass_calibration_error(logits.softmax(dim=1), labels, logits.shape[1], CALIBRATION_BINS))


def sampling_error(cell: Cell) -> float:
    """The error of the T that the true labels of all training images would give: no estimate can hope for less."""
    counts = torch.zeros_like(cell.transition_matrix)
    one = torch.ones(len(cell.clean_labels), dtype=counts.dtype, device="cpu")
    counts.index_put_((cell.clean_labels.cpu(), cell.noisy_labels.cpu()), one, accumulate=True)
    return mean_row_distance(counts / counts.sum(dim=1, keepdim=True).clamp_min(1), cell.transition_matrix)


def lost_classes(logits: Tensor, labels: Tensor) -> int:
    """How many classes are all but never predicted."""
    predicted = torch.bincount(logits.argmax(dim=1), minlength=logits.shape[1])
    return int((predicted < LOST_BELOW * torch.bincount(labels, minlength=logits.shape[1])).sum())
