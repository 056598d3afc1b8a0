"""Formulas of the noise layer in numpy, to compare with."""

import numpy as np


def sharpened_posterior(
    probs: np.ndarray, labels: np.ndarray, matrix: np.ndarray, pessimism: float, sharpness: float, doubt: float
) -> np.ndarray:
    """(B, K), (B,), (K, K) -> (B, K)."""
    ratio = pessimism * matrix[:, labels].T / matrix[labels, labels][:, None]
    is_label = np.eye(len(matrix), dtype=bool)[labels]
    ratio[is_label] = 0
    ratio *= np.minimum(1, doubt / (ratio**sharpness).sum(axis=1, keepdims=True)) ** (1 / sharpness)
    ratio[is_label] = 1
    powers = (probs * ratio) ** sharpness
    return powers / powers.sum(axis=1, keepdims=True)


def focused(probs: np.ndarray, labels: np.ndarray, exponent: float) -> np.ndarray:
    """(B, K), (B,) -> (B,): what an image weighs beside the others with its label; -1 is none."""
    weights = np.zeros(len(labels))
    for label in set(labels[labels >= 0].tolist()):
        mine = labels == label
        weights[mine] = probs[mine, label] ** exponent / (probs[mine, label] ** exponent).mean()
    return weights
