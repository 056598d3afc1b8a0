"""What features say of each given label, to train on in its place; or why not to."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_noisy.audit.judging.by_features import FOLDS, judge_by_probe
from lightning_noisy.audit.summary import Agreement

RESOLVED = 0.55
"""How sure of its class the probe must be on average, from chance (0) to certainty (1). Less sure, it takes hard images
for wrong labels. Chosen on random subsets of the features of 4,000 images: ``benchmarks/refinement_guard.py``."""
MOST_ERRORS = 0.55
"""A share of wrong labels that may as well be that of images which the features can't tell apart; chosen likewise."""


@dataclass(frozen=True)
class RefinedLabels:
    """What to train on in the place of ``N`` given labels of ``K`` classes.

    Args:
        soft_labels: (N, K) float32, probabilities of the true class; ``None`` where the given labels are to be kept.
        error_rate: The share of the given labels that are wrong, by the features.
        caution: Why the features are not to be believed; empty where nothing speaks against it.
    """

    soft_labels: Tensor | None
    error_rate: float
    caution: str


def refine(
    features: Tensor, labels: Tensor, class_names: list[str], seed: int = 0, device: torch.device | str = "cpu"
) -> RefinedLabels:
    """The probabilities of the true class, by a linear probe out of fold, the nearest images and the noise layer.

    Args:
        features: (N, D).
        labels: (N,) int64, given labels.
        class_names: The K names.
        seed: Draws the folds.
        device: Where to compute.
    """
    counts = torch.bincount(labels, minlength=len(class_names))
    few = int(counts.argmin())
    if counts[few] < FOLDS:
        caution = f"class {class_names[few]!r} has {int(counts[few])} images, fewer than the {FOLDS} folds"
        return RefinedLabels(None, 0.0, caution)
    judged = judge_by_probe(features, labels, len(class_names), FOLDS, seed, device)
    caution = reason_to_step_aside(judged.noise.clean_log_probs, judged.errors.value, labels, counts)
    return RefinedLabels(None if caution else judged.noise.posterior, judged.errors.value, caution)


def reason_to_step_aside(log_probs: Tensor, errors: float, labels: Tensor, counts: Tensor) -> str:
    """Why the probe is not to be believed; empty where nothing speaks against it.

    Args:
        log_probs: (N, K), of the true class without the given label.
        errors: The share of labels that the probe takes for wrong.
        labels: (N,) the given ones.
        counts: (K,) how often each is given.
    """
    agreeing, chance = (log_probs.argmax(dim=1) == labels).double().mean().item(), float(counts.max() / counts.sum())
    sure, even = log_probs.exp().amax(dim=1).double().mean().item(), 1 / log_probs.shape[1]
    probe = "a linear probe of the pretrained features"
    if Agreement(agreeing, chance, len(labels), True).is_hardly_above_chance:
        return (
            f"{probe} agrees with {agreeing:.0%} of the labels, hardly more than the most frequent class alone would "
            f"({chance:.0%})"
        )
    if errors > MOST_ERRORS:
        return f"{probe} takes {errors:.0%} of the labels for wrong, which it can't tell from images that are too hard"
    if sure - even < RESOLVED * (1 - even):
        return f"{probe} is {sure:.0%} sure of its class on average, so that it would take hard images for wrong labels"
    return ""
