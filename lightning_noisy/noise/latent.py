"""The noise layer fitted by maximum likelihood on what is known of each image without its own label."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_noisy.noise.counting import add_label_counts
from lightning_noisy.noise.initial import from_confusion

STEPS = 100
PSEUDO_COUNT = 1.0
"""Images that each row of the matrix is given beforehand, spread evenly."""
WEIGHT_PENALTY = 1e-4
"""Of the squared weights, for witnesses that are never wrong: the likelihood would let them grow without end."""
MOST_VALUES_AT_ONCE = 2**24


@dataclass(frozen=True)
class FittedNoise:
    """What the likelihood of the given labels says of ``N`` images.

    Args:
        posterior: (N, K) float32, ``P(clean = j | x, noisy = y)``.
        clean_log_probs: (N, K) float32, ``log p_j(x)``: the same without the given label.
        transition_matrix: (K, K) float32 ``T``.
        weights: What each witness counts.
    """

    posterior: Tensor
    clean_log_probs: Tensor
    transition_matrix: Tensor
    weights: list[float]


def fit_noise(witnesses: Sequence[Tensor], noisy_labels: Tensor, steps: int = STEPS) -> FittedNoise:
    """Finds the ``T`` and the ``p`` that make the given labels most likely.

    ``P(noisy = i | x) = Σ_j p_j(x) T[j, i]`` with ``p = softmax(Σ_w a_w · log q_w + b)``: a classifier that was fitted
    to noisy labels is less sure than it should be of the clean ones, and how much less is learned with the noise. ``T``
    starts from the counts of what the first witness predicts.

    Args:
        witnesses: Each (N, K), log-probabilities of the given labels that were found without that of the image itself.
        noisy_labels: (N,) given labels.
        steps: Of L-BFGS at most.

    Raises:
        ValueError: If the shapes do not fit together.
    """
    if not witnesses or any(witness.shape != witnesses[0].shape for witness in witnesses):
        raise ValueError(
            "Expected `witnesses` to be one (N, K) tensor or more of one shape, but got "
            f"{[tuple(each.shape) for each in witnesses]}."
        )
    if noisy_labels.shape != witnesses[0].shape[:1]:
        raise ValueError(
            f"Expected `noisy_labels` to have shape ({len(witnesses[0])},), but got {tuple(noisy_labels.shape)}."
        )
    num_images, num_classes = witnesses[0].shape
    counts = add_label_counts(None, witnesses[0], noisy_labels)
    matrix_logits = from_confusion(counts.double()).log().requires_grad_()
    weights = torch.tensor([1.0] + [0.0] * (len(witnesses) - 1), dtype=torch.float64).to(counts.device).requires_grad_()
    bias = torch.zeros(num_classes, dtype=torch.float64, device=counts.device, requires_grad=True)
    parameters = [matrix_logits, weights, bias]
    optimizer = torch.optim.LBFGS(parameters, max_iter=steps, tolerance_change=1e-9, line_search_fn="strong_wolfe")

    def clean_log_probs(rows: slice) -> Tensor:
        logits = sum((w * each[rows] for w, each in zip(weights, witnesses, strict=True)), start=bias)
        return logits.log_softmax(dim=1)

    def joint(rows: slice) -> Tensor:
        return clean_log_probs(rows) + F.embedding(noisy_labels[rows], matrix_logits.log_softmax(dim=1).T)

    def loss() -> float:
        """Block by block, so that only one of them is in memory in double precision."""
        optimizer.zero_grad()
        prior = PSEUDO_COUNT / num_classes * matrix_logits.log_softmax(dim=1).sum() / num_images
        total = -prior + WEIGHT_PENALTY * weights.square().sum()
        total.backward()
        value = float(total.detach())
        for rows in blocks:
            part = -joint(rows).logsumexp(dim=1).sum() / num_images
            part.backward()
            value += float(part.detach())
        return value

    size = max(MOST_VALUES_AT_ONCE // num_classes, 1)
    blocks = [slice(first, min(first + size, num_images)) for first in range(0, num_images, size)]
    optimizer.step(loss)
    with torch.no_grad():
        posterior = torch.cat([joint(rows).softmax(dim=1).float() for rows in blocks])
        clean = torch.cat([clean_log_probs(rows).float() for rows in blocks])
        return FittedNoise(posterior, clean, matrix_logits.softmax(dim=1).float(), weights.tolist())
