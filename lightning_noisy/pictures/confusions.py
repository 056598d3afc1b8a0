"""What to show of a matrix that is too large to be read: the classes and the pairs that are most confused."""

import torch
from torch import Tensor

Pair = tuple[int, int]


def confused_pairs(matrix: Tensor, most: int) -> list[Pair]:
    """The largest entries off the diagonal, as (clean, noisy); those that are zero are none.

    Args:
        matrix: (K, K), ``T[i, j] = P(noisy=j | clean=i)``.
        most: How many at most.
    """
    off_diagonal = matrix.double().clone()
    off_diagonal.fill_diagonal_(0)
    values, places = off_diagonal.flatten().sort(descending=True, stable=True)
    found = [divmod(place, len(matrix)) for place in places[: min(most, len(places))].tolist()]
    return [pair for pair, value in zip(found, values.tolist(), strict=False) if value > 0]


def worst_block(matrix: Tensor, most: int) -> list[int]:
    """At most so many classes, those of the most confused pairs first; those of one pair are neighbours."""
    pairs = confused_pairs(matrix, most=most**2)  # so many pairs need more classes than that
    classes = dict.fromkeys(label for pair in pairs for label in pair)
    rest = (label for label in range(len(matrix)) if label not in classes)
    return [*classes, *rest][:most]


def block_of(matrix: Tensor, classes: list[int]) -> Tensor:
    """The rows and columns of these classes."""
    chosen = torch.tensor(classes)
    return matrix[chosen][:, chosen]
