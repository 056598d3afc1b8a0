"""Images that show none of the classes: those among whose neighbours every label is as likely as anywhere.

Distances tell little of them: what a scrape has brought in by mistake comes in sorts, and each of a sort has near
neighbours. But nobody agrees on their labels. So a probe learns to tell the images whose neighbours carry labels at
random from the others; hard images between two classes are spread all over, strangers are together, and it finds those.
"""

import torch
from torch import Tensor

from lightning_noisy.features.probe import FoldedProbe

SHARE_AT_RANDOM = 0.9
"""The probe is told that an image is a stranger where the labels of its neighbours are in less order than so many of
those that are drawn at random."""
MOST_AT_RANDOM = 0.5
STRENGTH = 1e-3
"""Of the probe's penalty."""
IS_OUTLIER_BELOW = 0.35
"""All three were chosen on CIFAR-10N and MNIST as MobileNetV2-0.35 sees them, with images of other kinds mixed in;
``benchmarks/audit_issues.py`` measures on others."""
DRAWS = 1000


def outlier_scores(
    features: Tensor,
    shares: Tensor,
    noisy_labels: Tensor,
    fold_of: Tensor,
    k: int,
    device: torch.device | str = "cpu",
) -> Tensor:
    """(N,) float32 in [0, 1], the lower, the more unlike all classes; an outlier below :data:`IS_OUTLIER_BELOW`.

    Args:
        features: (N, D).
        shares: (N, K), of each label among the ``k`` nearest other images.
        noisy_labels: (N,) given labels.
        fold_of: (N,) int64, the fold of each image: an image is scored by a probe that has not learned from it.
        k: Neighbours.
        device: Where to compute.
    """
    order, at_random = label_order(shares, noisy_labels, k)
    is_at_random = order <= at_random.quantile(SHARE_AT_RANDOM)
    # Where most neighbourhoods are in no order, these features can't tell the classes, or nearly all labels are wrong.
    if not is_at_random.any() or is_at_random.float().mean() > MOST_AT_RANDOM:
        return torch.ones(len(features))
    probe = FoldedProbe(features, fold_of, 2, device)
    probe.fit(torch.stack([~is_at_random, is_at_random], dim=1).float(), STRENGTH)
    return probe.out_of_fold()[:, 0].exp()


def label_order(shares: Tensor, noisy_labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(N,) in [0, 1]: 0 where neighbours carry labels as if drawn from all, 1 where all carry the same one.

    One less the entropy of ``shares`` by what it is in the mean for ``k`` labels drawn at random. The second are what
    some drawn ones have.

    Args:
        shares: (N, K).
        noisy_labels: (N,) given labels, from which would be drawn.
        k: Neighbours.
    """
    num_classes = shares.shape[1]
    generator = torch.Generator().manual_seed(0)
    drawn = noisy_labels[torch.randint(len(noisy_labels), (DRAWS, k), generator=generator)]
    at_random = torch.zeros(DRAWS, num_classes).scatter_add_(1, drawn, torch.full(drawn.shape, 1 / k))
    highest = _entropy(at_random).mean().clamp_min(1e-6)
    order, by_chance = ((1 - _entropy(each) / highest).clamp(0, 1) for each in (shares, at_random))
    return order, by_chance


def _entropy(shares: Tensor) -> Tensor:
    return torch.special.entr(shares).sum(dim=1)
