"""The probes of all folds at once, against scikit-learn's one after the other."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

from lightning_noisy.features import probe as probes
from lightning_noisy.features.neighbours import neighbour_shares
from lightning_noisy.features.probe import FoldedProbe, choose_strength

FOLDS = 3


@pytest.fixture(scope="module")
def digits():
    inputs, labels = load_digits(return_X_y=True)
    generator = np.random.default_rng(0)
    wrong = generator.random(600) < 0.3
    noisy = np.where(wrong, generator.integers(0, 10, 600), labels[:600])
    return torch.tensor(inputs[:600], dtype=torch.float16), torch.tensor(noisy), torch.arange(600) % FOLDS


@pytest.mark.parametrize("most_values", [2**24, 1000])  # in one block, and in many
@pytest.mark.parametrize("strength", [1e-2, 1e-3])
def test_it_is_scikit_learns_solution(digits, strength, most_values, monkeypatch):
    monkeypatch.setattr(probes, "MOST_VALUES_AT_ONCE", most_values)
    features, labels, fold_of = digits
    probe = FoldedProbe(features, fold_of, 10)
    probe.fit(labels, strength, steps=300)
    found = probe.out_of_fold()
    inputs = features.double().numpy()
    deviation = inputs.std(axis=0)
    inputs = np.divide(inputs - inputs.mean(axis=0), deviation, where=deviation > 0, out=np.zeros_like(inputs)) / 8
    for fold in range(FOLDS):
        is_trained = (fold_of != fold).numpy()
        exact = LogisticRegression(C=1 / (strength * is_trained.sum()), max_iter=2000, tol=1e-8)
        exact.fit(inputs[is_trained], labels.numpy()[is_trained])
        expected = exact.predict_log_proba(inputs[~is_trained])
        np.testing.assert_allclose(found[~is_trained], expected, atol=5e-3)


def test_soft_targets_that_are_sure_are_labels(digits):
    features, labels, fold_of = digits
    hard, soft = (FoldedProbe(features, fold_of, 10) for _ in range(2))
    hard.fit(labels, 1e-3)
    soft.fit(torch.nn.functional.one_hot(labels, 10).float(), 1e-3)
    torch.testing.assert_close(hard.out_of_fold(), soft.out_of_fold(), atol=1e-3, rtol=0)


def test_the_penalty_is_weakened_until_held_out_labels_become_less_likely(digits):
    features, labels, fold_of = digits
    chosen = choose_strength(FoldedProbe(features, fold_of, 10), labels)
    tried = list(chosen.losses)
    assert tried == sorted(tried, reverse=True)
    assert chosen.losses[chosen.strength] == min(chosen.losses.values())
    assert chosen.strength == tried[-2] or tried[-1] == chosen.strength == probes.STRENGTHS[-1]
    label_loss = -chosen.log_probs.double().gather(1, labels[:, None]).mean()
    assert float(label_loss) == pytest.approx(chosen.losses[chosen.strength], rel=1e-6)


def test_neighbours_are_scikit_learns(digits):
    features, labels, _ = digits
    inputs = features.double().numpy()
    centred = inputs - inputs.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    nearest = NearestNeighbors(n_neighbors=8).fit(centred).kneighbors(centred, return_distance=False)[:, 1:]
    expected = np.eye(10)[labels.numpy()[nearest]].mean(axis=1)
    np.testing.assert_allclose(neighbour_shares(features, labels, 10, k=7), expected, atol=1e-6)


def test_of_many_images_the_nearest_of_some_are_taken_and_never_the_image_itself(digits, monkeypatch):
    monkeypatch.setattr("lightning_noisy.features.neighbours.MOST_REFERENCES", 100)
    features, _, _ = digits
    own = torch.arange(600)  # each image has a label of its own, so that it would be found among its neighbours
    shares = neighbour_shares(features, own, 600, k=5)
    assert float(shares.diagonal().max()) == 0
    assert len(shares.sum(dim=0).nonzero()) <= 100
