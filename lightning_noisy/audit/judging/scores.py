"""How probable each given label is, and which is the most probable one: pure functions. ``B`` images, ``K`` classes."""

from typing import NamedTuple

import torch
from torch import Tensor

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
        predicted_label: int64, what the classifier itself says.
    """

    p_given: Tensor
    suggested_label: Tensor
    p_suggested: Tensor
    clean_probability: Tensor
    is_issue: Tensor
    predicted_label: Tensor


def label_evidence(counts: Tensor) -> Tensor:
    """``log T̂``, (K, K) -> (K, K) float32: what a given label says of the true one.

    Args:
        counts: ``[predicted class, given label]`` over all images, as the last epoch of a training has counted them.

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
        scores = log_evidence.float().T[given].add_(logits)
        of_given = _of_label(scores, given)
        of_other, other = scores.scatter_(1, given[:, None], -torch.inf).max(dim=1)
        # In place, since torch's own softmax over rows of ten takes five times as long.
        highest = torch.maximum(of_given, of_other)
        others = scores.sub_(highest[:, None]).exp_().sum(dim=1)
        log_sum = others.add_((of_given - highest).exp()).log_().add_(highest)
        p_given = (of_given - log_sum).exp()
        is_issue = p_given < ISSUE_BELOW
        return ScoredLabels(
            p_given=p_given,
            suggested_label=torch.where(is_issue, other, given),
            p_suggested=torch.where(is_issue, (of_other - log_sum).exp(), p_given),
            clean_probability=(_of_label(logits, given) - logits.logsumexp(dim=1)).exp(),
            is_issue=is_issue,
            predicted_label=logits.argmax(dim=1),
        )


def score_posterior(
    posterior: Tensor, clean_log_probs: Tensor, noisy_labels: Tensor, issue_below: float
) -> ScoredLabels:
    """The same from a posterior that is known already.

    Args:
        posterior: (B, K) ``P(clean = j | x, noisy = y)``.
        clean_log_probs: (B, K) ``log p_j(x)``.
        noisy_labels: (B,) integers in [0, K).
        issue_below: An image whose given label is less probable is an issue.
    """
    p_given = _of_label(posterior, noisy_labels)
    of_other, other = posterior.scatter(1, noisy_labels[:, None], -1.0).max(dim=1)
    is_issue = p_given < issue_below
    return ScoredLabels(
        p_given=p_given,
        suggested_label=torch.where(is_issue, other, noisy_labels),
        p_suggested=torch.where(is_issue, of_other, p_given),
        clean_probability=_of_label(clean_log_probs, noisy_labels).exp(),
        is_issue=is_issue,
        predicted_label=clean_log_probs.argmax(dim=1),
    )


def share_evidence(
    posterior: Tensor, clean_log_probs: Tensor, log_evidence: Tensor, noisy_labels: Tensor, group: Tensor
) -> Tensor:
    """(B, K): the posterior where the same picture is there several times; of an image that is alone it stays.

    The picture has one true class, of which each of its labels tells: ``P(j | x, all labels) ∝ p_j(x) Π_i T[j, y_i]``,
    with ``log p_j`` the mean of what was said of its copies.

    Args:
        posterior: (B, K) ``P(clean = j | x, noisy = y)``.
        clean_log_probs: (B, K) ``log p_j(x)``.
        log_evidence: (K, K) ``log T``.
        noisy_labels: (B,) integers in [0, K).
        group: (B,) int64, the group of the same picture; -1 of an image whose posterior stays.
    """
    members = torch.nonzero(group >= 0).squeeze(1)
    if not len(members):
        return posterior
    _, of_member, sizes = group[members].unique(return_inverse=True, return_counts=True)
    shape = (len(sizes), posterior.shape[1])
    said = torch.zeros(shape).index_add_(0, of_member, clean_log_probs[members]) / sizes[:, None]
    told = torch.zeros(shape).index_add_(0, of_member, log_evidence.T[noisy_labels[members]])
    return posterior.index_copy(0, members, (said + told).softmax(dim=1)[of_member])


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
