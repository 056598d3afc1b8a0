"""What every trainer minimises: cross-entropy, and the noise layer's loss by the share that the layer has earned."""

import torch
from torch import Tensor

from lightning_noisy.noise.functional import NO_LABEL, focus_weights, noisy_nll
from lightning_noisy.noise.layer import SHARE, NoiseLayer

CHECK_EVERY = 50
"""On an accelerator the values of logits and labels are looked at once in so many steps: each look waits for it."""

AGREEMENT_WEIGHT = 1.0
"""Chosen on drawn noise and `random1` of CIFAR-10N, on seeds and test images that the benchmark does not have: 3, as
Liu et al. have it, gained as much with one network and lost .04 with another."""
SMALLEST = 1e-4


def noisy_objective(
    noise_layer: NoiseLayer | None,
    clean_logits: Tensor,
    noisy_labels: Tensor,
    noisy_log_probs: Tensor | None = None,
    soft_labels: Tensor | None = None,
) -> Tensor:
    """The loss to train on: ``(1 - share) · cross-entropy + share · layer``, a float32 scalar.

    Both parts are weighted by the layer's ``label_weights``. Once the share is above zero, the cross-entropy of integer
    labels is also weighted by :func:`~lightning_noisy.noise.functional.focus_weights`. With soft labels in the place of
    the noisy ones, what draws the network to those with which it agrees is added, so that the loss can be below zero.

    Args:
        noise_layer: ``None`` is plain cross-entropy.
        clean_logits: (B, K) the network's own logits.
        noisy_labels: Integer labels (B,), or soft labels (B, K) on the noisy side (mixup, label smoothing).
        noisy_log_probs: (B, K), what the layer has just given for these logits, if it has.
        soft_labels: (B, K), what to train on in the place of the noisy labels; each sums up to what its image weighs.
    """
    if soft_labels is not None:
        towards = AGREEMENT_WEIGHT * _drawn_to_agreement(clean_logits, soft_labels)
        return noisy_objective(noise_layer, clean_logits, soft_labels) + towards
    if noise_layer is None:
        return clean_cross_entropy(clean_logits, noisy_labels)
    # No `if` on the share, which an accelerator would be waited for.
    share, focus = noise_layer.progress[SHARE], None
    if noisy_labels.ndim == 1:
        weights = focus_weights(clean_logits, noisy_labels)
        focus = torch.where(share > 0, weights, torch.ones_like(weights))
    plain = clean_cross_entropy(clean_logits, noisy_labels, noise_layer.label_weights, focus)
    if noise_layer.takes_posterior:
        loss = noise_layer.posterior_loss(clean_logits, noisy_labels)
    else:
        loss = noise_layer.loss(clean_logits, noisy_labels, noisy_log_probs)
    # Also where the share is zero: DDP waits for the gradient of a layer that is learned.
    return torch.lerp(plain, loss, share)


def _drawn_to_agreement(clean_logits: Tensor, soft_labels: Tensor) -> Tensor:
    """The mean of ``log(1 - <soft label, p>)``: a network is drawn the more to a label the more it agrees with it.

    Early-learning regularisation (Liu et al. 2020, arXiv 2007.00151), towards labels that stay as they are. It is
    between -9.3 and 0.
    """
    weights = soft_labels.sum(dim=1)
    agreement = (soft_labels * clean_logits.float().softmax(dim=-1)).sum(dim=1) / weights.clamp_min(SMALLEST)
    return (weights * torch.log1p(-agreement.clamp_max(1 - SMALLEST))).mean()


def clean_cross_entropy(
    clean_logits: Tensor,
    labels: Tensor,
    label_weights: Tensor | None = None,
    image_weights: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy of the network's own logits, in float32; (B, K) and (B,) or (B, K) -> scalar.

    Weights, and images without a label, are as in :func:`~lightning_noisy.noise.functional.noisy_nll`.
    """
    return noisy_nll(clean_logits.float().log_softmax(dim=-1), labels, label_weights, image_weights)


def count_labelled(labels: Tensor) -> Tensor:
    """How many images of a batch have a label; integer labels (B,) or soft ones (B, K) -> scalar."""
    return (labels != NO_LABEL).sum() if labels.ndim == 1 else labels.sum()


def is_check_due(losses_computed: int, device: torch.device) -> bool:
    """Whether :func:`check_values` may look: always on a CPU, once in 50 steps elsewhere."""
    return device.type == "cpu" or losses_computed % CHECK_EVERY == 0


def as_labels(clean_logits: Tensor, noisy_labels: Tensor) -> Tensor:
    """Labels as everything here takes them: whole numbers of any type as int64, soft ones as they are.

    Args:
        clean_logits: (B, K).
        noisy_labels: Integer labels (B,), or soft labels (B, K).

    Raises:
        ValueError: If they are neither. No accelerator is waited for.
    """
    is_hard = noisy_labels.ndim == 1 and not noisy_labels.is_floating_point()
    is_soft = noisy_labels.shape == clean_logits.shape and noisy_labels.is_floating_point()
    if not (is_hard or is_soft) or len(noisy_labels) != len(clean_logits):
        raise ValueError(
            "Expected `noisy_labels` to be integers of shape (B,) or soft labels of shape (B, K) beside `clean_logits` "
            f"of shape {tuple(clean_logits.shape)}, but got {str(noisy_labels.dtype).removeprefix('torch.')} of shape "
            f"{tuple(noisy_labels.shape)}."
        )
    return noisy_labels.long() if is_hard else noisy_labels


def check_values(
    clean_logits: Tensor, noisy_labels: Tensor, step: int | None = None, may_lack_labels: bool = False
) -> None:
    """Looks at logits and labels; on an accelerator this waits for it.

    Args:
        clean_logits: (B, K).
        noisy_labels: Integer labels (B,) or soft labels (B, K).
        step: For the message.
        may_lack_labels: Whether the label -1 is one that counts nothing rather than a mistake.

    Raises:
        ValueError: If the logits are not (B, K) or not finite, or a label is outside the classes.
    """
    if clean_logits.ndim != 2:
        raise ValueError(f"Expected `clean_logits` to have shape (B, K), but got {tuple(clean_logits.shape)}.")
    if not bool(torch.isfinite(clean_logits).all()):
        when = "" if step is None else f" at step {step}"
        raise ValueError(
            f"Expected `clean_logits` to be finite, but got NaN or infinity{when}. Lower the learning rate, "
            "clip the gradients (`trainer.gradient_clip_val`), or look for broken images."
        )
    if noisy_labels.ndim == 1 and len(noisy_labels):
        low, high = noisy_labels.aminmax()
        if low < (NO_LABEL if may_lack_labels else 0) or high >= clean_logits.shape[1]:
            raise ValueError(
                f"Expected `noisy_labels` to lie in 0..{clean_logits.shape[1] - 1}, the classes of the model, but got "
                f"labels from {int(low)} to {int(high)}. Check `num_classes` and the label column."
            )
