"""Strangers among three clouds of images."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from lightning_noisy.audit.issues.outliers import IS_OUTLIER_BELOW, label_order, outlier_scores
from lightning_noisy.audit.judging.by_features import judge_by_probe


def clouds(strangers, seed=0, wrong=0.2):
    """1,500 images of three classes, a fifth of the labels wrong, and strangers of a sort with labels at random."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.arange(1500) % 3
    features = torch.randn(1500, 12, generator=generator) + 4 * torch.eye(12)[clean]
    labels = torch.where(torch.rand(1500, generator=generator) < wrong, (clean + 1) % 3, clean)
    others = torch.randn(strangers, 12, generator=generator) + 4 * torch.eye(12)[3]
    drawn = torch.randint(3, (strangers,), generator=generator)
    return torch.cat([features, others]).half(), torch.cat([labels, drawn])


def scores_of(features, labels):
    judged = judge_by_probe(features, labels, 3)
    return outlier_scores(features, judged.neighbour_shares, labels, judged.fold_of, judged.neighbours)


def test_strangers_are_outliers_though_they_have_near_neighbours():
    features, labels = clouds(150)
    scores = scores_of(features, labels)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (scores[1500:] < IS_OUTLIER_BELOW).float().mean() > 0.6
    assert (scores[:1500] < IS_OUTLIER_BELOW).float().mean() < 0.01


def test_without_strangers_hardly_any_image_is_an_outlier():
    features, labels = clouds(0)
    assert (scores_of(features, labels) < IS_OUTLIER_BELOW).float().mean() < 0.01


def test_labels_at_random_everywhere_say_nothing_of_any_image():
    features, labels = clouds(0)
    labels = torch.randint(3, labels.shape, generator=torch.Generator().manual_seed(1))
    assert (scores_of(features, labels) == 1).all()
    same = outlier_scores(features, torch.eye(3)[labels], labels, torch.arange(1500) % 5, 10)
    assert (same == 1).all()


def test_order_is_one_less_entropy_by_that_of_drawn_labels():
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    shares = torch.tensor([[1.0, 0, 0], [0.5, 0.3, 0.2], [0, 0.5, 0.5]])
    generator = np.random.default_rng(0)
    counts = generator.multinomial(10, [0.5, 0.3, 0.2], 200_000) / 10
    highest = entropy(counts, axis=1).mean()
    expected = np.clip(1 - entropy(shares.numpy(), axis=1) / highest, 0, 1)
    assert label_order(shares, labels, 10)[0].numpy() == pytest.approx(expected, abs=0.02)
