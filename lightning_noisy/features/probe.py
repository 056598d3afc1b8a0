"""A linear probe of frozen features, fitted out of fold and regularised as strongly as the noisy labels ask for.

``N`` images, ``D`` features, ``K`` classes, ``F`` folds.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

STRENGTHS = tuple(10 ** (-exponent / 2) for exponent in range(4, 15))
"""Of the penalty, from the strongest on: 1e-2 to 1e-7."""
STEPS = 30
"""Of L-BFGS at each strength; each starts from where the stronger one has ended."""
MOST_VALUES_AT_ONCE = 2**24


@dataclass(frozen=True)
class OutOfFold:
    """What probes say of images that they have not learned from.

    Args:
        log_probs: (N, K) float32 on the CPU.
        strength: Of the penalty that was chosen.
        losses: Mean cross-entropy with the given labels for each strength that was tried.
    """

    log_probs: Tensor
    strength: float
    losses: dict[float, float]


class FoldedProbe:
    """F multinomial logistic regressions at once, each on all folds but one.

    They minimise the mean cross-entropy and ``strength / 2 · ‖W‖²``, with features standardised and divided by √D; the
    bias is not penalised. One pass over the features serves all folds.

    Args:
        features: (N, D); of any type, on the CPU, and mapped from a file if need be: it is read in blocks.
        fold_of: (N,) int64, the fold of each image, from 0 on.
        num_classes: Number of classes ``K``.
        device: Where to compute.
    """

    def __init__(self, features: Tensor, fold_of: Tensor, num_classes: int, device: torch.device | str = "cpu") -> None:
        self.features = features
        self.fold_of = fold_of
        self.num_classes = num_classes
        self.device = torch.device(device)
        self.num_folds = int(fold_of.max()) + 1
        self.num_trained = len(fold_of) - torch.bincount(fold_of, minlength=self.num_folds).float()
        self.mean, self.scale = self._standardisation()
        shape = (features.shape[1] + 1, self.num_folds, num_classes)
        self.weights = torch.zeros(shape, device=self.device)

    def fit(self, targets: Tensor, strength: float, steps: int = STEPS) -> None:
        """Goes on with the present weights.

        Args:
            targets: (N,) labels, or (N, K) soft ones.
            strength: Of the penalty.
            steps: Of L-BFGS at most.
        """
        optimizer = torch.optim.LBFGS(
            [self.weights], max_iter=steps, history_size=10, tolerance_change=1e-7, line_search_fn="strong_wolfe"
        )

        def loss_and_gradient() -> float:
            loss, self.weights.grad = self._loss_and_gradient(targets, strength)
            return loss

        optimizer.step(loss_and_gradient)

    def out_of_fold(self) -> Tensor:
        """(N, K) log-probabilities, float32 on the CPU, by the probe that has not learned from the image."""
        found = torch.empty(len(self.fold_of), self.num_classes)
        for part, inputs in self._blocks():
            logits = self._logits(inputs)[torch.arange(len(inputs)), self.fold_of[part].to(self.device)]
            found[part] = logits.log_softmax(dim=1).cpu()
        return found

    def _loss_and_gradient(self, targets: Tensor, strength: float) -> tuple[float, Tensor]:
        loss = torch.zeros((), dtype=torch.float64)
        gradient = torch.zeros_like(self.weights)
        folds = torch.arange(self.num_folds)
        for part, inputs in self._blocks():
            target = targets[part].to(self.device)
            target = F.one_hot(target, self.num_classes).float() if target.ndim == 1 else target
            is_trained = (self.fold_of[part, None] != folds) / self.num_trained
            weight = is_trained.to(self.device)[:, :, None]
            log_probs = self._logits(inputs).log_softmax(dim=2)
            loss -= (log_probs * target[:, None] * weight).sum().double().cpu()
            difference = log_probs.exp_().mul_(target.sum(dim=1)[:, None, None]).sub_(target[:, None]).mul_(weight)
            flat = difference.flatten(1)
            gradient[:-1] += (inputs.T @ flat).view_as(gradient[:-1])
            gradient[-1] += flat.sum(dim=0).view_as(gradient[-1])
        gradient[:-1] += strength * self.weights[:-1]
        penalty = strength / 2 * self.weights[:-1].double().square().sum().cpu()
        return float(loss + penalty), gradient

    def _logits(self, inputs: Tensor) -> Tensor:
        """(B, D) -> (B, F, K)."""
        flat = self.weights.flatten(1)
        return torch.addmm(flat[-1], inputs, flat[:-1]).view(len(inputs), self.num_folds, self.num_classes)

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        width = max(self.features.shape[1], self.num_folds * self.num_classes)
        rows = max(MOST_VALUES_AT_ONCE // width, 1)
        for first in range(0, len(self.features), rows):
            part = slice(first, min(first + rows, len(self.features)))
            yield part, (self.features[part].to(self.device).float() - self.mean) * self.scale

    def _standardisation(self) -> tuple[Tensor, Tensor]:
        size = self.features.shape[1]
        self.mean, self.scale = torch.zeros(size, device=self.device), torch.ones(size, device=self.device)
        total, squares = torch.zeros(2, size, dtype=torch.float64)
        count = len(self.features)
        for _, inputs in self._blocks():
            total += inputs.sum(dim=0).double().cpu()
            squares += inputs.square().sum(dim=0).double().cpu()
        mean = total / count
        deviation = (squares / count - mean.square()).clamp_min(0).sqrt()
        scale = torch.where(deviation > 1e-6, 1 / deviation.clamp_min(1e-6), 0.0) / math.sqrt(size)
        return mean.float().to(self.device), scale.float().to(self.device)


def choose_strength(probe: FoldedProbe, noisy_labels: Tensor) -> OutOfFold:
    """Weakens the penalty as long as the labels of images that were not learned from become more likely.

    Args:
        probe: With weights of zero; in the end it has those of the last strength that was tried.
        noisy_labels: (N,) given labels.
    """
    losses: dict[float, float] = {}
    best: OutOfFold | None = None
    for strength in STRENGTHS:
        probe.fit(noisy_labels, strength)
        log_probs = probe.out_of_fold()
        losses[strength] = float(F.nll_loss(log_probs, noisy_labels))
        if best is not None and losses[strength] >= losses[best.strength]:
            break
        best = OutOfFold(log_probs, strength, losses)
    assert best is not None
    return best
