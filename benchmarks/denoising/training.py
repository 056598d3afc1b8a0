"""One training of one method in one cell, and what is measured of it."""

import time
from typing import Any

import numpy as np
import torch
from denoising.cells import Cell
from denoising.methods import Method
from torch import Tensor, nn

from lightning_noisy.noise.matrix import mean_row_distance

CALIBRATION_BINS = 15
LOST_BELOW = 0.01
"""A class is lost when it is predicted for fewer than this share of its own number of test images."""


def train(cell: Cell, make_method: Any, seed: int) -> dict[str, Any]:
    """Trains, looks at the noisy validation and the clean test images after each epoch; a line of results."""
    torch.manual_seed(seed)
    network = cell.network()
    train_rows, val_rows = cell.hold_out(seed)
    images, labels = cell.images[train_rows], cell.noisy_labels[train_rows]
    method: Method = make_method(cell.num_classes, len(images), cell.epochs, cell.transition_matrix)
    groups = [{"params": network.parameters(), "lr": cell.learning_rate, "weight_decay": 0.01}]
    optimizer = torch.optim.AdamW([*groups, *method.parameter_groups(cell.learning_rate)])
    steps = cell.epochs * (len(images) // cell.batch_size)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    seconds, val_accuracies, test_accuracies = 0.0, [], []
    for epoch in range(cell.epochs):
        start = time.process_time()
        network.train()
        order = torch.randperm(len(images), generator=generator)
        seen = torch.zeros(len(images), cell.num_classes) if method.looks_at_epochs else None
        for place in range(0, len(order) - cell.batch_size + 1, cell.batch_size):
            rows = order[place : place + cell.batch_size]
            logits = network(images[rows])
            loss = method.loss(logits, labels[rows], rows, epoch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            if seen is not None:
                seen[rows] = logits.detach()
        if seen is not None:
            met = order[: len(order) // cell.batch_size * cell.batch_size]
            method.end_epoch(epoch, seen[met], labels[met])
        seconds += time.process_time() - start
        val_accuracies.append(accuracy(predict(network, cell.images[val_rows]), cell.noisy_labels[val_rows]))
        test_logits = predict(network, cell.test_images)
        test_accuracies.append(accuracy(test_logits, cell.test_labels))
    matrix = method.transition_matrix()
    return {
        "last": round(test_accuracies[-1], 4),
        "best_noisy_val": round(test_accuracies[int(np.argmax(val_accuracies))], 4),
        "calibration_error": round(calibration_error(test_logits, cell.test_labels), 4),
        "lost_classes": lost_classes(test_logits, cell.test_labels),
        "matrix_error": None if matrix is None else round(mean_row_distance(matrix, cell.transition_matrix), 4),
        "cpu_seconds": round(seconds, 2),
    }


@torch.inference_mode()
def predict(network: nn.Module, images: Tensor) -> Tensor:
    """(M, K) logits, in evaluation mode."""
    network.eval()
    return torch.cat([network(part) for part in images.split(1000)])


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(dim=1) == labels).double().mean())


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Expected calibration error in 15 bins of confidence."""
    from torchmetrics.functional.classification import multiclass_calibration_error

    return float(multiclass_calibration_error(logits.softmax(dim=1), labels, logits.shape[1], CALIBRATION_BINS))


def lost_classes(logits: Tensor, labels: Tensor) -> int:
    """How many classes are all but never predicted."""
    predicted = torch.bincount(logits.argmax(dim=1), minlength=logits.shape[1])
    return int((predicted < LOST_BELOW * torch.bincount(labels, minlength=logits.shape[1])).sum())
