"""What the layer takes from the counts of an epoch, against formulas in numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_noisy import NoiseConfig, NoiseLayer
from lightning_noisy.noise.counting import balancing_weights
from lightning_noisy.noise.objective import noisy_objective

from .formulas import focused, sharpened_posterior

COUNTS = torch.tensor([[50.0, 10.0, 0.0], [5.0, 80.0, 15.0], [0.0, 0.0, 0.0]])


def counted(counts):
    """Rows to shares, with one image more in each."""
    smoothed = counts.double().numpy() + 1 / len(counts)
    return smoothed / smoothed.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("noise_type", ["softmax", "stochastic"])
def test_the_layer_becomes_the_counted_matrix(noise_type):
    layer = NoiseLayer(NoiseConfig(3, noise_type=noise_type))
    layer.update_from_counts(COUNTS)
    np.testing.assert_allclose(layer.transition_matrix().numpy(), counted(COUNTS), rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"init": "identity"},
        {"trainable": False},
        {"transition_matrix": [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]},
    ],
)
def test_where_nothing_is_to_be_counted_the_matrix_stays(options):
    layer = NoiseLayer(NoiseConfig(3, **options))
    before = layer.weight.clone()
    layer.update_from_counts(COUNTS)
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("objective", ["posterior", "likelihood"])
def test_the_loss_lies_between_cross_entropy_and_the_layers(soft, share, objective):
    layer = NoiseLayer(NoiseConfig(3, dropout=0.0, objective=objective))
    layer.update_from_counts(COUNTS)
    layer.progress[0] = share
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(7, 3)), np.array([0, 1, 2, 2, 1, 0, 2])
    ys = np.eye(3)[labels]
    given_labels = torch.from_numpy(ys).float() if soft else torch.from_numpy(labels)
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    weights = np.array([55, 90, 15]) ** -0.5
    weights *= 160 / (weights * [55, 90, 15]).sum()
    focus = np.ones(7) if soft or share == 0 else focused(probs, labels, 0.7)
    plain = -(focus * (weights * ys * np.log(probs)).sum(axis=1)).mean()
    if objective == "posterior":
        targets = sharpened_posterior(probs, labels, counted(COUNTS), 2.0, 2.0, 0.25)
        of_layer = -(weights[labels] * (targets * np.log(probs)).sum(axis=1)).mean()
    else:
        mixed = probs @ np.log(counted(COUNTS))  # W = log of the transposed matrix
        log_q = mixed - np.log(np.exp(mixed).sum(axis=1, keepdims=True))
        of_layer = -(weights * ys * log_q).sum(axis=1).mean()
    loss = noisy_objective(layer, torch.from_numpy(logits).float(), given_labels)
    assert loss.item() == pytest.approx((1 - share) * plain + share * of_layer, rel=1e-5)


def test_without_a_matrix_the_layer_takes_its_likelihood():
    layer = NoiseLayer(NoiseConfig(3, dropout=0.0, warmup_epochs=0))
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    assert torch.equal(noisy_objective(layer, logits, labels), layer.loss(logits, labels))
    layer.update_from_counts(COUNTS)
    assert torch.equal(noisy_objective(layer, logits, labels), layer.posterior_loss(logits, labels))


def test_a_layer_that_is_learned_gets_a_gradient_at_any_share_and_one_that_is_counted_none():
    for share in (0.0, 0.5):
        learned = NoiseLayer(NoiseConfig(3, init="identity"))
        learned.progress[0] = share
        noisy_objective(learned, torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])).backward()
        assert learned.weight.grad is not None
    layer = NoiseLayer(3)
    layer.update_from_counts(torch.eye(3) * 50, learned_by_heart=(0.1, 0.1))
    assert layer.share == 1
    noisy_objective(layer, torch.randn(5, 3, requires_grad=True), torch.tensor([0, 1, 2, 0, 1])).backward()
    assert layer.weight.grad is None


def test_an_image_without_a_label_adds_nothing():
    layer = NoiseLayer(3)
    layer.update_from_counts(torch.eye(3) * 50)
    logits = torch.randn(4, 3)
    with_one = layer.posterior_loss(logits, torch.tensor([0, 1, 2, -1])) * 4
    assert with_one.item() == pytest.approx(layer.posterior_loss(logits[:3], torch.tensor([0, 1, 2])).item() * 3)


def test_what_the_layer_has_taken_is_in_its_state(tmp_path):
    layer = NoiseLayer(3)
    layer.update_from_counts(torch.eye(3) * 50 + 10)
    other = NoiseLayer(3)
    other.load_state_dict(layer.state_dict())
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    assert torch.equal(noisy_objective(other, logits, labels), noisy_objective(layer, logits, labels))
    assert (other.share, other.warmup_epochs) == (0.125, 1)
    before = NoiseLayer(3)
    before.load_state_dict({"weight": layer.weight})  # as an older version has saved it
    assert before.share == 0


def test_an_epoch_that_has_shown_nothing_changes_nothing():
    layer = NoiseLayer(3)
    layer.update_from_counts(torch.zeros(3, 3))
    assert layer.progress.tolist() == [0, 0, 0, 0] and torch.equal(layer.weight, torch.eye(3))


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
        NoiseLayer(NoiseConfig(3)).update_from_counts(torch.eye(2))
