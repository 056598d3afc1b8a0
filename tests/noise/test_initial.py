"""Starting matrices, against formulas written out in numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from lightning_noisy.noise.initial import add_confusion, from_anchor_points, from_confusion, from_matrix
from lightning_noisy.noise.matrix import write_transition_matrix
from lightning_noisy.noise.synthetic import pair_matrix


def draw(seed, images=50, classes=4):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(images, classes)) * 3, generator.integers(classes, size=images)


@given(seed=st.integers(0, 2**20), batch=st.integers(1, 50))
def test_the_confusion_is_goldbergers_formula_however_it_is_batched(seed, batch):
    logits, labels = draw(seed)
    sums = None
    for place in range(0, len(labels), batch):
        part = slice(place, place + batch)
        sums = add_confusion(sums, torch.from_numpy(logits[part]), torch.from_numpy(labels[part]))
    probs = softmax(logits, axis=1)
    expected = np.array([[probs[labels == j, i].sum() for j in range(4)] for i in range(4)]) + 1 / 4
    found = from_confusion(sums)
    np.testing.assert_allclose(found.numpy(), expected / expected.sum(axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(found.sum(dim=1).numpy(), 1, rtol=1e-6)


def test_soft_labels_count_by_their_shares():
    logits, labels = draw(0)
    hard = add_confusion(None, torch.from_numpy(logits), torch.from_numpy(labels))
    soft = add_confusion(None, torch.from_numpy(logits), torch.eye(4)[labels])
    torch.testing.assert_close(soft, hard)


@given(seed=st.integers(0, 2**20), share=st.sampled_from([0.0, 0.03, 0.5]))
def test_an_anchor_point_is_the_first_image_behind_the_outliers(seed, share):
    logits, _ = draw(seed)
    probs = softmax(logits, axis=1)
    skipped = int(share * len(probs))
    expected = [probs[np.argsort(-probs[:, i])[skipped]] for i in range(4)]
    np.testing.assert_allclose(from_anchor_points(torch.from_numpy(logits), share).numpy(), expected)


def test_anchor_points_find_the_matrix_where_the_network_knows_the_noise():
    truth = pair_matrix(4, 0.3)
    clean = torch.eye(4, dtype=torch.float64).repeat(20, 1) * 0.94 + 0.015
    found = from_anchor_points((clean @ truth).log())
    torch.testing.assert_close(found, (torch.eye(4, dtype=torch.float64) * 0.94 + 0.015) @ truth)


def test_a_known_matrix_comes_from_numbers_or_a_file(tmp_path):
    truth = pair_matrix(3, 0.2)
    write_transition_matrix(tmp_path / "matrix.csv", truth, ["a", "b", "c"])
    torch.testing.assert_close(from_matrix(truth.tolist()), truth)
    torch.testing.assert_close(from_matrix(tmp_path / "matrix.csv", 3), truth)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: from_matrix([[0.5, 0.4], [0, 1]]), "row 0 sums to 0.9"),
        (lambda: from_matrix(torch.eye(3), 4), "4 classes"),
        (lambda: from_confusion(torch.zeros(2, 3)), r"shape \(K, K\)"),
        (lambda: from_confusion(torch.zeros(2, 2), 0.0), "`smoothing` to be above 0"),
        (lambda: from_anchor_points(torch.zeros(0, 3)), "N above 0"),
        (lambda: from_anchor_points(torch.zeros(2, 3), 1.0), r"\[0,1\) range, but got 1.0"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
