"""Corrupting clean labels for experiments: transition matrices by name, and labels drawn from them."""

import difflib

import numpy as np
import torch
from torch import Tensor

from lightning_noisy.noise.matrix import check_transition_matrix, read_transition_matrix

NONUNIFORM_LIMITS = (0.002, 0.1)
"""Smallest and largest off-diagonal entry of non-uniform noise in the authors' code, for ten classes."""


def uniform_matrix(num_classes: int, noise_level: float) -> Tensor:
    """Uniform noise in the paper's sense: diagonal ``1 - p + p/K``, off-diagonal ``p/K``; (K, K) float64.

    It flips ``p (K-1)/K`` of the labels. Source: Jindal, Nokleby, Chen 2016, arXiv 1705.03419.
    """
    share = noise_level / num_classes
    return torch.full((num_classes, num_classes), share, dtype=torch.float64) + (1 - noise_level) * _eye(num_classes)


def nonuniform_matrix(num_classes: int, noise_level: float, seed: int) -> Tensor:
    """Non-uniform noise: diagonal ``1 - p``, random off-diagonal entries that sum to ``p`` in each row; (K, K) float64.

    The entries lie between .002 and .1, as in the authors' code, where that can give the sum; otherwise between 1/50
    and 2 times their mean ``p / (K-1)``. Source: Jindal, Nokleby, Chen 2016, arXiv 1705.03419.
    """
    if noise_level == 0:
        return _eye(num_classes)
    mean = noise_level / (num_classes - 1)
    low, high = NONUNIFORM_LIMITS
    if not low < mean < high:
        low, high = mean / 50, 2 * mean
    generator = np.random.default_rng(seed)
    off_diagonal = generator.uniform(low, high, size=(num_classes, num_classes - 1))
    off_diagonal = _move_row_means(off_diagonal, mean, low, high)
    matrix = (1 - noise_level) * np.eye(num_classes)
    matrix[~np.eye(num_classes, dtype=bool)] = off_diagonal.ravel()
    return torch.from_numpy(matrix)


def pair_matrix(num_classes: int, noise_level: float) -> Tensor:
    """Pair noise: a share ``p`` of each class becomes the next one, the last becomes the first; (K, K) float64."""
    return (1 - noise_level) * _eye(num_classes) + noise_level * torch.roll(_eye(num_classes), 1, dims=1)


def transition_matrix_from_spec(spec: str, num_classes: int, seed: int) -> Tensor:
    """The matrix that a short text describes; (K, K) float64.

    Args:
        spec: ``"uniform:0.4"``, ``"nonuniform:0.3"``, ``"pair:0.2"``, or ``"matrix:PATH"`` of a CSV file.
        num_classes: Number of classes ``K``.
        seed: Seeds the entries of non-uniform noise.

    Raises:
        ValueError: If the text is none of these, or its noise level is outside [0, 1].
    """
    kind, _, value = str(spec).partition(":")
    if kind == "matrix":
        return read_transition_matrix(value, num_classes)
    if kind not in ("uniform", "nonuniform", "pair"):
        near = difflib.get_close_matches(kind, ["uniform", "nonuniform", "pair", "matrix"], n=1)
        hint = f" Did you mean `{near[0]}`?" if near else ""
        raise ValueError(
            "Expected argument `noise` to be 'uniform:LEVEL', 'nonuniform:LEVEL', 'pair:LEVEL' or 'matrix:PATH', "
            f"but got {spec!r}.{hint}"
        )
    level = _noise_level(spec, value)
    if kind == "uniform":
        return uniform_matrix(num_classes, level)
    if kind == "pair":
        return pair_matrix(num_classes, level)
    return nonuniform_matrix(num_classes, level, seed)


def corrupt_labels(labels: np.ndarray, transition_matrix: Tensor, seed: int) -> np.ndarray:
    """Draws each label anew from its class's row of ``T``; (N,) integers -> (N,) int64."""
    cumulative = check_transition_matrix(transition_matrix).numpy().cumsum(axis=1)
    cumulative[:, -1] = 1.0
    draws = np.random.default_rng(seed).random(len(labels))
    noisy = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        noisy[rows] = np.searchsorted(cumulative[label], draws[rows], side="right")
    return noisy


def _eye(num_classes: int) -> Tensor:
    return torch.eye(num_classes, dtype=torch.float64)


def _noise_level(spec: str, value: str) -> float:
    try:
        level = float(value)
    except ValueError:
        level = float("nan")
    if not 0 <= level <= 1:
        raise ValueError(
            f"Expected argument `noise` to end in a level in the [0,1] range, such as 'uniform:0.4', but got {spec!r}."
        )
    return level


def _move_row_means(values: np.ndarray, mean: float, low: float, high: float) -> np.ndarray:
    """Moves each row towards the limit that brings its mean to ``mean``, so that no entry leaves ``[low, high]``."""
    now = values.mean(axis=1, keepdims=True)
    down, up = (mean - low) / (now - low), (high - mean) / (high - now)
    return np.where(now > mean, low + (values - low) * down, high - (high - values) * up)
