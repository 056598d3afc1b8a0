"""Counts of (predicted class, given label) while training: the plainest estimate of the noise.

``counts`` is (K, K), ``counts[i, j]``: how many images that the network takes for class ``i`` carry the label ``j``.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def add_label_counts(counts: Tensor | None, clean_logits: Tensor, noisy_labels: Tensor) -> Tensor:
    """``counts`` with one batch more; (B, K) logits and labels (B,) or (B, K). ``None`` starts a new float32 count.

    An image whose label is -1 is not counted.
    """
    num_classes = clean_logits.shape[1]
    if counts is None:
        counts = torch.zeros(num_classes, num_classes, device=clean_logits.device)
    soft = noisy_labels if noisy_labels.ndim == 2 else one_hot(noisy_labels, num_classes)
    return counts.index_add_(0, clean_logits.argmax(dim=1), soft.to(counts.dtype))


def sum_over_ranks(counts: Tensor) -> Tensor:
    """What each process counted -> their sum, float64 on the CPU. Every process must call it."""
    counts = counts.clone()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(counts)
    return counts.cpu().double()


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Integer labels (B,) -> (B, K), a row of zeros where the label is -1."""
    return F.one_hot(labels + 1, num_classes + 1)[:, 1:]


def disagreement_rate(counts: Tensor) -> Tensor:
    """The share of the labels with which the network disagrees, a scalar: the estimated noise rate."""
    return 1 - counts.trace() / counts.sum()


def counts_to_shares(counts: Tensor) -> Tensor:
    """Each row divided by its sum, an estimate of ``T``; the row of a class that is never predicted is even."""
    sums = counts.sum(dim=1, keepdim=True)
    return torch.where(sums > 0, counts / sums.clamp_min(1), torch.full_like(counts, 1 / len(counts)))


def lost_classes(counts: Tensor, threshold: float) -> list[int]:
    """The classes that are predicted for fewer than a share ``threshold`` of the images that carry their label."""
    predicted, labelled = counts.sum(dim=1), counts.sum(dim=0)
    return torch.nonzero((labelled > 0) & (predicted < threshold * labelled)).flatten().tolist()


def balancing_weights(counts: Tensor, exponent: float) -> Tensor:
    """(K,) what an image with each label weighs: ``(share of the label)^-exponent``, of mean one over the images.

    Without ``exponent``, and for labels that do not occur, it is one. An exponent of 1/2 is square-root sampling.
    Source: Mahajan et al. 2018, arXiv 1805.00932.
    """
    labelled = counts.sum(dim=0)
    weights = torch.where(labelled > 0, labelled, 1.0) ** -exponent
    return torch.where(labelled > 0, weights * labelled.sum() / (weights * labelled).sum(), 1.0)


def counts_to_triples(counts: Tensor) -> list[list[int]]:
    """``[predicted, label, count]`` of all pairs that occur: small also where K is large."""
    rounded = counts.round().long().cpu()
    pairs = torch.nonzero(rounded)
    return torch.cat([pairs, rounded[pairs[:, 0], pairs[:, 1], None]], dim=1).tolist()


def triples_to_counts(triples: list[list[int]], num_classes: int) -> Tensor:
    """The inverse of :func:`counts_to_triples`; (K, K) float64."""
    counts = torch.zeros(num_classes, num_classes, dtype=torch.float64)
    for predicted, label, count in triples:
        counts[predicted, label] = count
    return counts
