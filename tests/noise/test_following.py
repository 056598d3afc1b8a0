"""What the layer takes from the counts of an epoch, against formulas in numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_noisy import NoiseConfig, NoiseLayer
from lightning_noisy.noise.counting import balancing_weights
from lightning_noisy.noise.objective import noisy_objective

COUNTS = torch.tensor([[50.0, 10.0, 0.0], [5.0, 80.0, 15.0], [0.0, 0.0, 0.0]])


def counted(counts):
    """Rows to shares, with one image more in each."""
    smoothed = counts.double().numpy() + 1 / len(counts)
    return smoothed / smoothed.sum(axis=1, keepdims=True)


def test_the_softmax_layer_is_the_counted_matrix_with_a_mean_diagonal_of_one():
    layer = NoiseLayer(NoiseConfig(3))
    layer.follow(COUNTS)
    matrix = counted(COUNTS)
    np.testing.assert_allclose(layer.weight.detach().numpy(), matrix.T / np.trace(matrix) * 3, rtol=1e-6)
    halved = NoiseLayer(NoiseConfig(3, init_scale=0.5))
    halved.follow(COUNTS)
    torch.testing.assert_close(halved.weight, layer.weight / 2)
    assert list(layer.state_dict()) == ["weight"]


def test_the_stochastic_layer_is_the_counted_matrix():
    layer = NoiseLayer(NoiseConfig(3, noise_type="stochastic"))
    layer.follow(COUNTS)
    np.testing.assert_allclose(layer.transition_matrix().numpy(), counted(COUNTS), rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"init": "identity"}, {"trainable": False},
        {"transition_matrix": [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]},
    ],
)  # fmt: skip
def test_where_nothing_is_to_be_counted_the_matrix_stays(options):
    layer = NoiseLayer(NoiseConfig(3, **options))
    before = layer.weight.clone()
    layer.follow(COUNTS)
    assert torch.equal(layer.weight, before)


def test_in_the_warm_up_the_matrix_stays_and_labels_are_weighed():
    layer = NoiseLayer(NoiseConfig(3))
    layer.follow(COUNTS, acts=False)
    assert torch.equal(layer.weight, torch.eye(3)) and layer.label_weights is not None


@pytest.mark.parametrize("soft", [False, True])
def test_the_loss_weighs_labels_and_rescues_lost_classes(soft):
    layer = NoiseLayer(NoiseConfig(3, dropout=0.0))
    layer.follow(COUNTS)  # class 2 has 15 labels and no prediction
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(7, 3)), np.array([0, 1, 2, 2, 1, 0, 2])
    ys = generator.dirichlet(np.ones(3), size=7) if soft else np.eye(3)[labels]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    mixed = probs @ layer.weight.detach().double().numpy().T
    log_q = mixed - np.log(np.exp(mixed).sum(axis=1, keepdims=True))
    weights = np.array([55, 90, 15]) ** -0.5
    weights *= 160 / (weights * [55, 90, 15]).sum()
    expected = -(weights * ys * log_q).sum(axis=1) - weights[2] * ys[:, 2] * np.log(probs[:, 2])
    given_labels = torch.from_numpy(ys).float() if soft else torch.from_numpy(labels)
    loss = noisy_objective(layer, torch.from_numpy(logits).float(), given_labels)
    assert loss.item() == pytest.approx(expected.mean(), rel=1e-5)
    in_warmup = -(weights * ys * np.log(probs)).sum(axis=1).mean()
    loss = noisy_objective(layer, torch.from_numpy(logits).float(), given_labels, in_warmup=True)
    assert loss.item() == pytest.approx(in_warmup, rel=1e-5)


def test_a_class_that_is_back_is_no_longer_rescued():
    layer = NoiseLayer(NoiseConfig(3))
    layer.follow(COUNTS)
    assert layer.rescued.tolist() == [0, 0, 1]
    layer.follow(torch.eye(3) * 10)
    assert layer.rescued is None
    never = NoiseLayer(NoiseConfig(3, rescue_below=0.0, class_balance=0.0))
    never.follow(COUNTS)
    assert never.rescued is None and never.label_weights is None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=4, max_size=4).filter(any), st.floats(0, 1))
def test_weights_are_one_on_average_over_the_images(labelled, exponent):
    weights = balancing_weights(torch.diag(torch.tensor(labelled, dtype=torch.float64)), exponent).numpy()
    assert (weights * labelled).sum() / sum(labelled) == pytest.approx(1)
    order = np.argsort(labelled)
    present = [label for label in order if labelled[label]]
    assert all(np.diff(weights[present]) <= 1e-12)  # the rarer, the heavier


def test_images_of_small_weights_are_balanced_too():
    shares = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    expected = shares.numpy() ** -0.5 / (shares.numpy() ** 0.5).sum()
    for images in (1000, 1, 0.01):
        np.testing.assert_allclose(balancing_weights(torch.diag(images * shares), 0.5).numpy(), expected)


def test_the_counts_must_fit():
    with pytest.raises(ValueError, match=r"`counts` to have shape \(3, 3\), but got \(2, 2\)"):
        NoiseLayer(NoiseConfig(3)).follow(torch.eye(2))
