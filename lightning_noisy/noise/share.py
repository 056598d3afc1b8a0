"""How much of the loss the noise layer takes: nothing until the network knows enough, less when a class is being lost.

Cross-entropy is the safe state. The share is a number in [0, 1] and the loss ``(1 - share) · cross-entropy + share ·
layer``, so that whatever happens the loss lies between the two; once the share is above zero, the cross-entropy looks
at those images of each label most that look like it (:func:`~lightning_noisy.noise.functional.focus_weights`). It can't
run away: each time that the layer steps back is counted, and after the sixth the share is zero for the rest of the
training, which then is plain cross-entropy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PREDICTED_TO_ENTER = 0.5
"""Of the images that carry its label: for how many at least each class must be predicted before the layer acts."""
PREDICTED_TO_STAY = 0.25
"""As before: below it the layer steps back."""
TOLERANCE = 2.0
"""By how many standard deviations of a count (its square root) a class may be below these shares by chance."""
CONFIDENCE_TO_ENTER = 0.85
"""The mean confidence over the agreement with the labels. A network that still learns is far less sure than right."""
ABOVE_CHANCE = 0.1
"""Of the way from the most frequent label's share to one: how far the agreement must have come."""
LEARNED_BY_HEART = 0.02
"""By how much the agreement with the training labels must be above that with held-out noisy ones, where there are any,
for it to be learned by heart. A network that learns nothing by heart, under strong augmentation say, needs no noise
layer: its own errors would be taken for noise."""
GENTLE_START = 0.125
"""The share at first, where no validation shows that labels are being learned by heart; it doubles from epoch to epoch.
A network that was not ready yet is harmed little until a class falls below what it must have to stay."""
MOST_STEP_BACKS = 6


@dataclass(frozen=True)
class Share:
    """The layer's share of the loss in the next epoch.

    Args:
        value: In [0, 1].
        step_backs: How often it was taken back so far.
        reason: Why it is not one, for people; empty if it is. ``{classes}`` stands for the classes that it is about.
        classes: Those.
    """

    value: float
    step_backs: int
    reason: str = ""
    classes: tuple[int, ...] = ()


def next_share(
    value: float,
    step_backs: int,
    counts: Tensor,
    confidence: float,
    learned_by_heart: tuple[float, float] | None = None,
    gently: bool = True,
) -> Share:
    """The share after an epoch that has shown these counts.

    Args:
        value: The share in that epoch.
        step_backs: How often it was taken back before.
        counts: (K, K) ``[predicted class, label]`` of the epoch, of all processes.
        confidence: The mean of the network's largest probability in it.
        learned_by_heart: By how much at least and at most, as far as chance allows to say, the agreement with the
            labels is above that with held-out noisy ones; ``None`` without a validation.
        gently: Whether the share begins with an eighth where nobody has seen that labels are learned by heart.
    """
    if step_backs >= MOST_STEP_BACKS:
        return Share(0.0, step_backs, f"it had to step back {step_backs} times, because classes were being lost")
    lost = classes_below(counts, PREDICTED_TO_STAY)
    if lost and value > 0:
        is_last = step_backs + 1 == MOST_STEP_BACKS
        reason = "{classes} was predicted for less than a quarter of the images with its label"
        return Share(0.0 if is_last else value / 2, step_backs + 1, reason, tuple(lost))
    if value > GENTLE_START:
        return Share(min(1.0, 2 * value), step_backs)
    if value > 0 and not _is_needless(learned_by_heart):
        return Share(1.0 if _is_needed(learned_by_heart) else 2 * value, step_backs)
    if low := classes_below(counts, PREDICTED_TO_ENTER):
        reason = "{classes} was predicted for less than half of the images with its label"
        return Share(0.0, step_backs, reason, tuple(low))
    if reason := _why_to_wait(counts, confidence, learned_by_heart):
        return Share(0.0, step_backs, reason)
    return Share(1.0 if _is_needed(learned_by_heart) or not gently else GENTLE_START, step_backs)


def classes_below(counts: Tensor, share: float, tolerance: float = TOLERANCE) -> list[int]:
    """The classes predicted for fewer than a share of the images that carry their label, and not by chance.

    Args:
        counts: (K, K) ``[predicted class, label]``.
        share: In [0, 1].
        tolerance: Standard deviations of the expected count by which a class may be below it.
    """
    predicted, expected = counts.sum(dim=1), share * counts.sum(dim=0)
    is_below = (expected > 0) & (predicted < expected - tolerance * expected.sqrt())
    return torch.nonzero(is_below).flatten().tolist()


def _why_to_wait(counts: Tensor, confidence: float, learned_by_heart: tuple[float, float] | None) -> str:
    total = float(counts.sum())
    agreement = float(counts.trace()) / max(total, 1.0)
    chance = float(counts.sum(dim=0).max()) / max(total, 1.0)
    if agreement < chance + ABOVE_CHANCE * (1 - chance):
        return f"the network agreed with {agreement:.0%} of the labels, hardly more than chance ({chance:.0%})"
    if confidence < CONFIDENCE_TO_ENTER * agreement and not _is_needed(learned_by_heart):
        return (
            f"the network was still learning: its mean confidence of {confidence:.0%} was below its agreement with the "
            f"labels, {agreement:.0%}"
        )
    if _is_needless(learned_by_heart):
        return (
            "no label was learned by heart: the network agreed with the training labels no more than with the "
            "validation's"
        )
    return ""


def _is_needed(learned_by_heart: tuple[float, float] | None) -> bool:
    """Whether labels are learned by heart for certain, by however unsure a network."""
    return learned_by_heart is not None and learned_by_heart[0] >= LEARNED_BY_HEART


def _is_needless(learned_by_heart: tuple[float, float] | None) -> bool:
    """Whether none are, for certain."""
    return learned_by_heart is not None and learned_by_heart[1] < LEARNED_BY_HEART


def in_words(reason: str, classes: Sequence[int], class_names: Sequence[str] | None = None) -> str:
    """The reason of a :class:`Share` with the names of the classes, five at most, in it."""
    names = [repr(class_names[label]) if class_names else str(label) for label in classes[:5]]
    others = f" and {len(classes) - 5} others" if len(classes) > 5 else ""
    if len(classes) > 1:
        reason = reason.replace("{classes} was", "{classes} were each").replace("its label", "their label")
    return reason.replace("{classes}", f"class{'es' if len(classes) > 1 else ''} {', '.join(names)}{others}")
