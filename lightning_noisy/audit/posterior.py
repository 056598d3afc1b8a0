"""How probable each given label is, and which is the most probable one: pure functions. ``B`` images, ``K`` classes."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_noisy.noise.functional import label_posterior
from lightning_noisy.noise.initial import from_confusion

ISSUE_BELOW = 0.85
"""An image whose given label is less probable than this is an issue. It is more than a half because a network that has
trained on a wrong label is surer of it than it should be. Chosen in trials for ``benchmarks/audit.py``."""


class ScoredLabels(NamedTuple):
    """What is known of the labels of ``B`` images; all are (B,).

    Attributes:
        p_given: float32, the posterior of the given label: the lower, the more suspicious.
        suggested_label: int64, of an issue the most probable class beside the given one, else the given label.
        p_suggested: float32, its posterior. Where it is above ``p_given``, the suggestion is the more probable label;
            else the label is in doubt and nothing is better.
        clean_probability: float32, the classifier's own probability of the given label.
        is_issue: bool, whether ``p_given`` is below :data:`ISSUE_BELOW`.
    """

    p_given: Tensor
    suggested_label: Tensor
    p_suggested: Tensor
    clean_probability: Tensor
    is_issue: Tensor


def label_evidence(counts: Tensor) -> Tensor:
    """``log T̂``, (K, K) -> (K, K) float32: what a given label says of the true one.

    Args:
        counts: ``[predicted class, given label]`` over all images, see
            :func:`~lightning_noisy.noise.counting.add_label_counts`.

    Raises:
        ValueError: If ``counts`` is not (K, K).
    """
    return from_confusion(counts.float()).log()


@torch.no_grad()
def score_labels(clean_logits: Tensor, noisy_labels: Tensor, log_evidence: Tensor) -> ScoredLabels:
    """Scores given labels by ``P(clean = j | x, noisy = i) ∝ T̂[j, i] · p_j(x)``, in float32.

    Args:
        clean_logits: (B, K).
        noisy_labels: (B,) integers in [0, K).
        log_evidence: (K, K), of :func:`label_evidence`.

    Raises:
        ValueError: If the shapes do not fit together, or the labels are no integers in [0, K).
    """
    _scored_tensor_validation(clean_logits, noisy_labels, log_evidence)
    with torch.autocast(clean_logits.device.type, enabled=False):
        logits, given = clean_logits.float(), noisy_labels.long()
        posterior = label_posterior(logits, given, log_evidence.float())
        p_given = _of_label(posterior, given)
        p_other, other = posterior.scatter(1, given[:, None], -1.0).max(dim=1)
        is_issue = p_given < ISSUE_BELOW
        return ScoredLabels(
            p_given=p_given,
            suggested_label=torch.where(is_issue, other, given),
            p_suggested=torch.where(is_issue, p_other, p_given),
            clean_probability=_of_label(logits.softmax(dim=1), given),
            is_issue=is_issue,
        )


def _of_label(values: Tensor, labels: Tensor) -> Tensor:
    return values.gather(1, labels[:, None]).squeeze(1)


def _scored_tensor_validation(clean_logits: Tensor, noisy_labels: Tensor, log_evidence: Tensor) -> None:
    num_classes = len(log_evidence)
    if clean_logits.ndim != 2 or clean_logits.shape[1] != num_classes or log_evidence.shape != (num_classes,) * 2:
        raise ValueError(
            f"Expected `clean_logits` and `log_evidence` to have shapes (B, K) and (K, K), but got "
            f"{tuple(clean_logits.shape)} and {tuple(log_evidence.shape)}."
        )
    if noisy_labels.shape != clean_logits.shape[:1] or noisy_labels.is_floating_point():
        raise ValueError(
            f"Expected `noisy_labels` to be integers of shape ({len(clean_logits)},), but got {noisy_labels.dtype} of "
            f"shape {tuple(noisy_labels.shape)}."
        )
    if noisy_labels.numel() and not (int(noisy_labels.min()) >= 0 and int(noisy_labels.max()) < num_classes):
        raise ValueError(
            f"Expected `noisy_labels` to be in [0, {num_classes}), but got {int(noisy_labels.min())} to "
            f"{int(noisy_labels.max())}."
        )
