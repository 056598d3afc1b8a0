"""Transition matrices as data: checking, reading and writing them. ``T[i, j] = P(noisy=j | clean=i)``."""

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

ROW_SUM_TOLERANCE = 1e-4


def check_transition_matrix(matrix: Tensor | Sequence[Sequence[float]], num_classes: int | None = None) -> Tensor:
    """Returns ``matrix`` as a ``(K, K)`` float64 tensor whose rows sum to one.

    Raises:
        ValueError: If it is not square, not ``num_classes`` wide, has an entry outside ``[0, 1]``, or a row whose sum
            is off by more than 1e-4. The message names the first row that is wrong.
    """
    name = "Expected argument `transition_matrix` to"
    try:
        values = torch.as_tensor(
            matrix, dtype=torch.float64, device="cpu"
        ).detach()  # also inside `torch.device("meta")`
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} be a square table of numbers, but got {type(matrix).__name__}: {error}.") from error
    if values.ndim != 2 or values.shape[0] != values.shape[1] or values.shape[0] < 2:
        raise ValueError(f"{name} be square, at least 2 by 2, but got shape {tuple(values.shape)}.")
    if num_classes is not None and len(values) != num_classes:
        raise ValueError(f"{name} have one row for each of the {num_classes} classes, but got {len(values)} rows.")
    if not bool(((values >= 0) & (values <= 1 + ROW_SUM_TOLERANCE)).all()):
        raise ValueError(f"{name} hold probabilities in [0, 1], but got values from {values.min()} to {values.max()}.")
    sums = values.sum(dim=1)
    wrong = (sums - 1).abs() > ROW_SUM_TOLERANCE
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"{name} have rows that sum to one, but row {row} sums to {sums[row]:.6g}. T[i, j] = P(noisy=j | clean=i)."
        )
    is_exact = (sums - 1).abs() < 1e-9  # left alone, so that a matrix that was checked before stays the same to the bit
    return torch.where(is_exact[:, None], values, values / sums[:, None])


def mean_row_entropy(matrix: Tensor) -> float:
    """Mean entropy in nats of the rows of a (K, K) matrix: 0 where nothing is confused, ``log K`` where all is."""
    rows = matrix.double()
    return float(-torch.special.xlogy(rows, rows).sum(dim=1).mean())


def mean_row_distance(matrix: Tensor, other: Tensor) -> float:
    """Mean total variation distance, in [0, 1], of the rows of two (K, K) matrices."""
    return float((matrix.double() - other.double()).abs().sum(dim=1).mean() / 2)


def write_transition_matrix(path: str | Path, matrix: Tensor, class_names: Sequence[str]) -> None:
    """Writes ``matrix`` as CSV: a row for each clean class, a column for each noisy one, both with their names."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["clean \\ noisy", *class_names])
        for name, row in zip(class_names, matrix.tolist(), strict=True):
            writer.writerow([name, *(f"{value:.9g}" for value in row)])


def read_transition_matrix(path: str | Path, num_classes: int | None = None) -> Tensor:
    """Reads a ``(K, K)`` matrix from a CSV file, with or without a row and a column of class names.

    Raises:
        ValueError: If the file does not exist or does not hold a transition matrix.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"Expected a CSV file with a transition matrix, but there is no file {str(path)!r}.")
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row]
    if rows and not _is_number(rows[0][-1]):
        rows = [row[1:] for row in rows[1:]]
    try:
        values = [[float(value) for value in row] for row in rows]
        return check_transition_matrix(values, num_classes)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} holds no transition matrix: {error}") from error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
