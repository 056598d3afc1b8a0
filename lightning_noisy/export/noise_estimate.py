"""The noise in words: how many labels are wrong, class by class, and which classes are taken for which."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_noisy.matrix_files import COUNTED, LEARNED
from lightning_noisy.noise import NoiseLayer
from lightning_noisy.noise.counting import counts_to_shares, disagreement_rate, triples_to_counts


@dataclass(frozen=True)
class ClassNoise:
    """The noise of one class.

    Args:
        name: The class.
        labels: How many training images carry its label; ``None`` where that was not counted.
        wrong: The estimated share of those labels that are wrong; ``None`` where that was not counted.
        lost: The estimated share of the images of the class that carry another label; ``None`` for a class that the
            network never predicts.
    """

    name: str
    labels: int | None
    wrong: float | None
    lost: float | None


@dataclass(frozen=True)
class ConfusedPair:
    """Images of one class that carry the label of another one: their share of the class, and how many they are."""

    clean: str
    noisy: str
    share: float
    count: int | None


@dataclass(frozen=True)
class NoiseEstimate:
    """What is known of the noise.

    Args:
        is_counted: Whether it comes from counts of predictions and labels, or from the learned matrix alone.
        rate: The estimated share of wrong labels.
        matrices: A heading for each (K, K) matrix, for a picture.
        classes: One for each class, the noisiest first.
        pairs: The most confused pairs.
    """

    is_counted: bool
    rate: float
    matrices: dict[str, Tensor]
    classes: list[ClassNoise]
    pairs: list[ConfusedPair]


def estimate_noise(
    noise_layer: NoiseLayer | None, label_counts: list[list[int]], class_names: Sequence[str], most_pairs: int = 10
) -> NoiseEstimate | None:
    """From the counts of the last epoch, else from the learned matrix; ``None`` without a noise layer.

    A network that was trained by plain cross-entropy memorises wrong labels: that it agrees with them says nothing.

    Args:
        noise_layer: The learned noise.
        label_counts: ``[predicted class, given label, count]``.
        class_names: The K names.
        most_pairs: How many pairs to name.
    """
    if noise_layer is None:
        return None
    matrices = {LEARNED: noise_layer.transition_matrix().cpu().double()}
    counts = triples_to_counts(label_counts, len(class_names)) if label_counts else None
    if counts is not None:
        matrices[COUNTED] = counts_to_shares(counts)
    matrix = list(matrices.values())[-1]
    rate = float(1 - matrix.diagonal().mean() if counts is None else disagreement_rate(counts))
    classes = _classes(matrix, counts, class_names)
    return NoiseEstimate(counts is not None, rate, matrices, classes, _pairs(matrix, counts, class_names, most_pairs))


def _classes(matrix: Tensor, counts: Tensor | None, names: Sequence[str]) -> list[ClassNoise]:
    lost = (1 - matrix.diagonal()).tolist()
    if counts is None:
        found = [ClassNoise(name, None, None, share) for name, share in zip(names, lost, strict=True)]
        return sorted(found, key=lambda noise: -(noise.lost or 0.0))
    labels, predicted = counts.sum(dim=0), counts.sum(dim=1).tolist()
    wrong = torch.where(labels > 0, 1 - counts.diagonal() / labels.clamp_min(1), 0.0).tolist()
    found = [
        ClassNoise(name, int(count), share, gone if predictions else None)
        for name, count, share, gone, predictions in zip(names, labels.tolist(), wrong, lost, predicted, strict=True)
    ]
    return sorted(found, key=lambda noise: -(noise.wrong or 0.0))


def _pairs(matrix: Tensor, counts: Tensor | None, names: Sequence[str], most: int) -> list[ConfusedPair]:
    weights = (matrix if counts is None else counts).clone().fill_diagonal_(0.0)
    largest = weights.flatten().topk(min(most, weights.numel()))
    return [
        ConfusedPair(
            names[place // len(names)],
            names[place % len(names)],
            float(matrix.flatten()[place]),
            None if counts is None else int(value),
        )
        for value, place in zip(largest.values.tolist(), largest.indices.tolist(), strict=True)
        if value > 0
    ]
