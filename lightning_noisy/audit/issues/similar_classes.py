"""Classes that look like one under two names: nothing in the images tells them apart."""

import math

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from lightning_noisy.audit.issues.findings import SimilarClasses

LOOKED_AT = 3
"""Of each class so many others, those that the probe gives its images to most."""
MOST_SEPARABILITY = 0.65
"""The upper end of the 95% interval of the AUROC between two classes that look like one."""
LEAST_IMAGES = 10
Z_95 = 1.959964


def similar_classes(log_probs: Tensor, noisy_labels: Tensor, features: Tensor) -> list[SimilarClasses]:
    """The pairs that look like one class, the least separable first.

    Args:
        log_probs: (N, K), by a probe that has not learned from the image.
        noisy_labels: (N,) given labels.
        features: (N, D).
    """
    labels = noisy_labels.numpy()
    num_classes = log_probs.shape[1]
    images = np.bincount(labels, minlength=num_classes)
    given_to = torch.zeros(num_classes, num_classes).index_add_(0, noisy_labels, log_probs.exp())
    given_to.fill_diagonal_(-1)
    nearest = given_to.topk(min(LOOKED_AT, num_classes - 1), dim=1).indices.tolist()
    pairs = {tuple(sorted((one, other))) for one, others in enumerate(nearest) for other in others}
    found = []
    for one, other in sorted(pairs):
        if min(images[one], images[other]) < LEAST_IMAGES:
            continue
        rows = np.flatnonzero((labels == one) | (labels == other))
        is_other = labels[rows] == other
        odds = (log_probs[rows, other] - log_probs[rows, one]).numpy()
        separability = float(roc_auc_score(is_other, odds))
        # Of two samples of one distribution. Source: Mann, Whitney 1947, Ann. Math. Stat. 18.
        deviation = math.sqrt((1 / images[one] + 1 / images[other]) / 12)
        if separability + Z_95 * deviation < MOST_SEPARABILITY:
            confused = float(((odds > 0) != is_other).mean())
            found.append(SimilarClasses(one, other, separability, confused, _cosine(features, labels, one, other)))
    return sorted(found, key=lambda pair: pair.separability)


def _cosine(features: Tensor, labels: np.ndarray, one: int, other: int) -> float:
    means = [_mean(features, np.flatnonzero(labels == label)) for label in (one, other)]
    overall = _mean(features, np.arange(len(features))[:: max(len(features) // 10_000, 1)])
    return float(torch.cosine_similarity(means[0] - overall, means[1] - overall, dim=0))


def _mean(features: Tensor, rows: np.ndarray) -> Tensor:
    return features[torch.from_numpy(rows)].float().mean(dim=0)
