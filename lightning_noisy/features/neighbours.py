"""What the labels of the most similar other images are."""

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_REFERENCES = 20_000
"""Among so many images at most, drawn at random, the nearest are looked for."""
MOST_VALUES_AT_ONCE = 2**25


def neighbour_shares(
    features: Tensor, noisy_labels: Tensor, num_classes: int, k: int, seed: int = 0,
    device: torch.device | str = "cpu", groups: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """(N, K) float32: the share of each label among the ``k`` nearest other images by cosine of centred features.

    Args:
        features: (N, D), read in blocks.
        noisy_labels: (N,) given labels.
        num_classes: Number of classes ``K``.
        k: Neighbours.
        seed: Draws the images among which they are looked for, where there are more than :data:`MOST_REFERENCES`.
        device: Where to compute.
        groups: (N,) int64, the same number for images of the same picture, which are no neighbours of each other.
    """
    groups = torch.arange(len(features)) if groups is None else groups
    total = len(features)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.arange(total) if total <= MOST_REFERENCES else _draw(total, generator)
    mean = features[chosen].float().mean(dim=0).to(device)
    references = F.normalize(features[chosen].to(device).float() - mean, dim=1)
    labels, their_groups = noisy_labels[chosen].to(device), groups[chosen].to(device)
    k = min(k, len(chosen) - 1)
    rows = max(MOST_VALUES_AT_ONCE // len(chosen), 1)
    found = torch.empty(total, num_classes)
    for first in range(0, total, rows):
        part = slice(first, min(first + rows, total))
        similarity = F.normalize(features[part].to(device).float() - mean, dim=1) @ references.T
        itself = groups[part, None].to(device) == their_groups
        nearest = similarity.masked_fill_(itself, -torch.inf).topk(k, dim=1).indices
        found[part] = F.one_hot(labels[nearest], num_classes).float().mean(dim=1).cpu()
    return found


def _draw(total: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(total, generator=generator)[:MOST_REFERENCES].sort().values
