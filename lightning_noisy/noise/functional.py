"""The pure functions of the noise layer. ``B`` samples, ``K`` classes, ``T[i, j] = P(noisy=j | clean=i)``.

All of them keep the floating-point type of their input: :class:`~lightning_noisy.noise.layer.NoiseLayer` calls them
in float32, the tests in float64.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_noisy.noise.config import DropoutOn, NoiseType

MIN_PROBABILITY = 1e-30
"""What a zero of a transition matrix becomes in log space; far below float32's resolution, yet finite."""


NO_LABEL = -1
"""The label of an image that counts nothing: one that only fills a batch."""

PESSIMISM, SHARPNESS, DOUBT = 2.0, 2.0, 0.25
"""Of :func:`posterior_targets`; chosen on MNIST, Gaussian clouds and fine-tuning, see docs/noise_models.md."""

FOCUS = 0.7
"""Of :func:`focus_weights`: the exponent that GCE has (Zhang, Sabuncu 2018)."""


def softmax_noisy_log_probs(
    clean_logits: Tensor, weight: Tensor, dropout: float = 0.0, dropout_on: DropoutOn = "output", training: bool = False
) -> Tensor:
    """``log softmax(dropout(W p))`` with ``p = softmax(clean_logits)``; (B, K) and (K, K) -> (B, K).

    Source: Jindal, Nokleby, Chen 2016, arXiv 1705.03419.
    """
    clean_probs = clean_logits.softmax(dim=-1)
    if dropout_on == "input":
        clean_probs = F.dropout(clean_probs, dropout, training)
    elif dropout_on == "weight":
        weight = F.dropout(weight, dropout, training)
    mixed = F.linear(clean_probs, weight)
    if dropout_on == "output":
        mixed = F.dropout(mixed, dropout, training)
    return mixed.log_softmax(dim=-1)


def stochastic_noisy_log_probs(clean_logits: Tensor, log_transition: Tensor) -> Tensor:
    """``log(Tᵀp)`` with ``p = softmax(clean_logits)``; (B, K) and (K, K) -> (B, K).

    A log-sum-exp over the clean class, written as one matrix product after the largest ``log p`` is taken out, so that
    no (B, K, K) tensor is made. Source: Patrini et al. 2017, arXiv 1609.03683.
    """
    log_probs = clean_logits.log_softmax(dim=-1)
    largest = log_probs.amax(dim=-1, keepdim=True).detach()
    return torch.log((log_probs - largest).exp() @ log_transition.exp()) + largest


def noisy_nll(
    noisy_log_probs: Tensor,
    noisy_labels: Tensor,
    label_weights: Tensor | None = None,
    image_weights: Tensor | None = None,
) -> Tensor:
    """Mean negative log-likelihood; (B, K) with integer labels (B,) or soft labels (B, K) -> scalar.

    Soft labels (mixup, label smoothing) are meant for the noisy side: ``-Σ w_j ỹ_j log q_j``. The label -1 and a row of
    zeros add nothing to the sum, which is divided by ``B`` all the same: in every step of every process an image has
    the same weight, however many others only fill the batch.

    Args:
        noisy_log_probs: (B, K).
        noisy_labels: (B,) or (B, K).
        label_weights: (K,), what each label weighs; ``None`` is one.
        image_weights: (B,), what each image with an integer label weighs besides; ``None`` is one.
    """
    if label_weights is not None:
        label_weights = label_weights.to(noisy_log_probs)
    if noisy_labels.ndim == 1:
        losses = F.nll_loss(noisy_log_probs, noisy_labels, label_weights, ignore_index=NO_LABEL, reduction="none")
        return (losses if image_weights is None else losses * image_weights).sum() / len(noisy_labels)
    soft = noisy_labels.to(noisy_log_probs.dtype)
    if label_weights is not None:
        soft = soft * label_weights
    return -(soft * noisy_log_probs).sum(dim=-1).mean()


def focus_weights(clean_logits: Tensor, noisy_labels: Tensor, exponent: float = FOCUS) -> Tensor:
    """What each image weighs so that of a label's images those count most that look like it; (B, K), (B,) -> (B,).

    ``p_label(x)^exponent`` over its mean over the batch's images with that label, detached. The numerator is what makes
    generalised cross-entropy robust (Zhang, Sabuncu 2018, arXiv 1805.07836: ``p^q`` times the gradient of
    cross-entropy). That loss gives up classes of which the network is not sure yet; here every label's images weigh as
    much together as they do in cross-entropy, however unsure the network is of them. The only image of a label in a
    batch weighs one, one without a label nothing.
    """
    known = (noisy_labels != NO_LABEL).float()
    given = F.one_hot(noisy_labels.clamp(min=0), clean_logits.shape[1]) * known[:, None]
    log_probs = clean_logits.detach().float().log_softmax(dim=1)
    likeness = (exponent * (given * log_probs).sum(dim=1).clamp_min(math.log(MIN_PROBABILITY))).exp() * known
    mean = (likeness @ given) / given.sum(dim=0).clamp_min(1.0)
    return likeness / (given @ mean + (1 - known))


def label_log_likelihood(weight: Tensor, noise_type: NoiseType, noisy_labels: Tensor) -> Tensor:
    """``log T[:, label]`` for each label, (K, K) and (B,) -> (B, K): rows of :func:`log_transition_matrix` transposed.

    No (K, K) tensor is made, which matters where K is large.
    """
    if noise_type == "softmax":
        log_likelihood = weight[noisy_labels] - weight.logsumexp(dim=0)
    else:
        log_likelihood = (weight[:, noisy_labels] - weight.logsumexp(dim=1, keepdim=True)).T
    return log_likelihood.clamp_min(math.log(MIN_PROBABILITY))


def log_transition_matrix(weight: Tensor, noise_type: NoiseType) -> Tensor:
    """``log T``, (K, K) -> (K, K), what the layer predicts when the network is certain of a class, dropout off.

    ``T[i, :] = softmax(W[:, i])`` for the softmax layer, ``T[i, :] = softmax(weight[i, :])`` for the stochastic one.
    """
    log_transition = weight.log_softmax(dim=0).T if noise_type == "softmax" else weight.log_softmax(dim=1)
    return log_transition.clamp_min(math.log(MIN_PROBABILITY))


def weight_from_transition_matrix(transition_matrix: Tensor, noise_type: NoiseType) -> Tensor:
    """The inverse of :func:`log_transition_matrix`; (K, K) -> (K, K)."""
    log_transition = transition_matrix.clamp_min(MIN_PROBABILITY).log()
    return log_transition.T.contiguous() if noise_type == "softmax" else log_transition


def posterior_targets(
    clean_logits: Tensor,
    noisy_labels: Tensor,
    log_likelihood: Tensor,
    pessimism: float = PESSIMISM,
    sharpness: float = SHARPNESS,
    doubt: float = DOUBT,
) -> Tensor:
    """What to train the network towards: the sharpened posterior of the true class; (B, K), (B,), (B, K) -> (B, K).

    ``t_k ∝ (p_k(x) · R[k, label])^sharpness``, detached, where ``R[k, j] = pessimism · T[k, j] / T[j, j]`` says how
    much likelier an image of class ``k`` carries the label ``j`` than one of class ``j`` does, and ``R[j, j] = 1``.
    With ``sharpness`` and ``pessimism`` of one this is Bayes' rule, and the gradient of ``-Σ t_k log p_k`` that of
    ``-log (Tᵀp)`` (expectation maximisation), which follows wrong labels in the end. Sharpened, what the network is
    sure of pulls it back, and a label that is ``R^(-s/(s-1))`` times less probable than another class is given up;
    where ``T`` says that labels are right, ``R`` is small and the targets are the labels.

    ``R`` is scaled down where ``Σ_k R[k, j]^sharpness``, over the other classes, is above ``doubt``: a network that
    knows nothing always believes the label most, ``1 / (1 + doubt)`` at least. So classes can't be swapped, whatever
    the counts say.

    Args:
        clean_logits: (B, K).
        noisy_labels: (B,) integers in ``0..K-1``.
        log_likelihood: (B, K), ``log T[k, label]``, of :func:`label_log_likelihood`.
        pessimism: How much more noise is expected than ``T`` says, as a factor.
        sharpness: At least 1.
        doubt: Above 0.
    """
    labels = noisy_labels[:, None]
    ratio = log_likelihood - log_likelihood.gather(1, labels) + math.log(pessimism)
    others = ratio.scatter(1, labels, -math.inf)
    total = (sharpness * others).logsumexp(dim=1, keepdim=True)
    ratio = ratio + ((math.log(doubt) - total) / sharpness).clamp(max=0.0)
    ratio = ratio.scatter(1, labels, 0.0)
    return (sharpness * (clean_logits.log_softmax(dim=1) + ratio)).softmax(dim=1).detach()


def soft_posterior_targets(clean_logits: Tensor, noisy_labels: Tensor, weight: Tensor, noise_type: NoiseType) -> Tensor:
    """:func:`posterior_targets` of soft labels, by a layer's ``weight``; (B, K), (B, K), (K, K) -> (B, K).

    Each of an image's two largest labels (mixup and CutMix have two) is replaced by its own posterior, with its
    weight; what is spread over the other classes (label smoothing) stays as it is.
    """
    weights, classes = noisy_labels.to(clean_logits.dtype).topk(2, dim=1)
    targets = noisy_labels.to(clean_logits.dtype).scatter(1, classes, 0.0)
    for place in range(2):
        log_likelihood = label_log_likelihood(weight, noise_type, classes[:, place])
        posterior = posterior_targets(clean_logits, classes[:, place], log_likelihood)
        targets = targets + weights[:, place, None] * posterior
    return targets.detach()


def label_posterior(clean_logits: Tensor, noisy_labels: Tensor, log_transition: Tensor) -> Tensor:
    """``P(clean = j | x, noisy = i) ∝ T[j, i] · p_j(x)`` (Bayes); (B, K), integer labels (B,), (K, K) -> (B, K)."""
    return (clean_logits.log_softmax(dim=-1) + log_transition.T[noisy_labels]).softmax(dim=-1)
