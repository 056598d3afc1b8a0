"""Starting matrices for a noise layer, estimated or known. ``T[i, j] = P(noisy=j | clean=i)``, rows sum to one.

All of them give what :meth:`NoiseLayer.reset <lightning_noisy.noise.layer.NoiseLayer.reset>` takes.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_noisy.noise.matrix import check_transition_matrix, read_transition_matrix

OUTLIER_SHARE = 0.03
"""How many of the images that look most like a class are passed over in the search of its anchor point."""


def from_matrix(
    transition_matrix: Tensor | Sequence[Sequence[float]] | str | Path, num_classes: int | None = None
) -> Tensor:
    """A matrix that is known: (K, K) numbers, or the path of a CSV file with them -> (K, K) float64.

    Raises:
        ValueError: If it is no (K, K) transition matrix, or not of ``num_classes`` classes.
    """
    if isinstance(transition_matrix, str | Path):
        return read_transition_matrix(transition_matrix, num_classes)
    return check_transition_matrix(transition_matrix, num_classes)


@torch.no_grad()
def add_confusion(sums: Tensor | None, clean_logits: Tensor, noisy_labels: Tensor) -> Tensor:
    """``sums`` (K, K) of ``p_i`` over the images with label ``j``, with one batch more; ``None`` starts new ones.

    Args:
        sums: (K, K) float32, what earlier batches gave.
        clean_logits: (B, K).
        noisy_labels: Integers (B,), or soft labels (B, K).
    """
    probs = clean_logits.float().softmax(dim=1)
    labels = noisy_labels if noisy_labels.ndim == 2 else F.one_hot(noisy_labels, clean_logits.shape[1])
    batch = probs.T @ labels.to(probs.dtype)
    return batch if sums is None else sums + batch


def from_confusion(sums: Tensor, smoothing: float = 1.0) -> Tensor:
    """The soft confusion of a network that was warmed up with the noisy labels; (K, K) -> (K, K) of the same type.

    ``T[i, j] = Σ_t 1[label_t = j] p_i(x_t) / Σ_t p_i(x_t)``, from the sums of :func:`add_confusion`, with ``smoothing``
    images more in each row, spread evenly, so that no entry is zero. Counts of predicted classes in place of ``p``
    give the hard confusion. Source: Goldberger, Ben-Reuven, *Training deep
    neural-networks using a noise adaptation layer*, ICLR 2017.

    Raises:
        ValueError: If ``sums`` is not (K, K), or ``smoothing`` is not above 0.
    """
    if sums.ndim != 2 or sums.shape[0] != sums.shape[1]:
        raise ValueError(f"Expected argument `sums` to have shape (K, K), but got {tuple(sums.shape)}.")
    if not smoothing > 0:
        raise ValueError(f"Expected argument `smoothing` to be above 0, but got {smoothing!r}.")
    smoothed = sums + smoothing / len(sums)
    return smoothed.div_(smoothed.sum(dim=1, keepdim=True))


def from_anchor_points(clean_logits: Tensor, outlier_share: float = OUTLIER_SHARE) -> Tensor:
    """What a network trained on the noisy labels says of the most typical image of each class; (N, K) -> (K, K).

    ``T[i] = p(x*)``, where ``x*`` has the largest ``p_i`` after the ``outlier_share`` with still larger ones is passed
    over. Source: Patrini et al. 2017, arXiv 1609.03683.

    Args:
        clean_logits: (N, K) of the training images; ``p`` is their softmax.
        outlier_share: In [0, 1).

    Raises:
        ValueError: If there are no images, or ``outlier_share`` is outside [0, 1).
    """
    if clean_logits.ndim != 2 or not len(clean_logits):
        raise ValueError(
            f"Expected `clean_logits` to have shape (N, K), N above 0, but got {tuple(clean_logits.shape)}."
        )
    if not 0 <= outlier_share < 1:
        raise ValueError(
            f"Expected argument `outlier_share` to be a float in the [0,1) range, but got {outlier_share!r}."
        )
    probs = clean_logits.double().softmax(dim=1)
    rank = math.floor(outlier_share * len(probs)) + 1
    anchors = probs.topk(rank, dim=0).indices[-1]
    return probs[anchors]
