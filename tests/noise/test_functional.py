"""The layer's mathematics against formulas written again in float64 NumPy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp

from lightning_noisy.noise import functional

from .formulas import focused

SIZES = st.tuples(st.integers(1, 6), st.integers(2, 12), st.integers(0, 10_000))


def _draw(batch: int, num_classes: int, seed: int, scale: float = 3.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=scale, size=(batch, num_classes))
    weight = np.eye(num_classes) + 0.3 * generator.normal(size=(num_classes, num_classes))
    return logits, weight, generator.integers(0, num_classes, batch)


def _softmax(values: np.ndarray) -> np.ndarray:
    return np.exp(log_softmax(values, axis=-1))


@given(SIZES)
@settings(max_examples=60, deadline=None)
def test_softmax_layer_is_softmax_of_weight_times_probabilities(sizes):
    logits, weight, _ = _draw(*sizes)
    expected = log_softmax(_softmax(logits) @ weight.T, axis=-1)
    given_back = functional.softmax_noisy_log_probs(torch.tensor(logits), torch.tensor(weight))
    np.testing.assert_allclose(given_back.numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dropout_on", ["output", "input", "weight"])
def test_dropout_acts_where_it_is_said_to(dropout_on):
    logits, weight, _ = _draw(5, 4, seed=0)
    torch.manual_seed(7)
    shape = (4, 4) if dropout_on == "weight" else (5, 4)
    mask = (torch.nn.functional.dropout(torch.ones(shape, dtype=torch.float64), 0.5)).numpy()
    probabilities = _softmax(logits)
    mixed = {
        "output": lambda: mask * (probabilities @ weight.T),
        "input": lambda: (mask * probabilities) @ weight.T,
        "weight": lambda: probabilities @ (mask * weight).T,
    }[dropout_on]()
    torch.manual_seed(7)
    given_back = functional.softmax_noisy_log_probs(
        torch.tensor(logits), torch.tensor(weight), dropout=0.5, dropout_on=dropout_on, training=True
    )
    np.testing.assert_allclose(given_back.numpy(), log_softmax(mixed, axis=-1), rtol=1e-10)


@given(SIZES)
@settings(max_examples=40, deadline=None)
def test_softmax_gradient_is_the_formula(sizes):
    logits, weight, labels = _draw(*sizes)
    probabilities = _softmax(logits)
    noisy = _softmax(probabilities @ weight.T)
    residual = (noisy - np.eye(weight.shape[0])[labels]) / len(labels)  # d loss / d (W p)
    through_probs = residual @ weight
    expected_logits = probabilities * (through_probs - (through_probs * probabilities).sum(axis=1, keepdims=True))
    expected_weight = residual.T @ probabilities

    logits_tensor = torch.tensor(logits, requires_grad=True)
    weight_tensor = torch.tensor(weight, requires_grad=True)
    log_probs = functional.softmax_noisy_log_probs(logits_tensor, weight_tensor)
    functional.noisy_nll(log_probs, torch.tensor(labels)).backward()
    np.testing.assert_allclose(logits_tensor.grad.numpy(), expected_logits, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(weight_tensor.grad.numpy(), expected_weight, rtol=1e-8, atol=1e-12)


@given(SIZES)
@settings(max_examples=60, deadline=None)
def test_stochastic_layer_is_forward_correction(sizes):
    logits, weight, labels = _draw(*sizes)
    transition = _softmax(weight)
    expected = logsumexp(log_softmax(logits, axis=-1)[:, :, None] + np.log(transition)[None], axis=1)
    log_probs = functional.stochastic_noisy_log_probs(torch.tensor(logits), torch.tensor(np.log(transition)))
    np.testing.assert_allclose(log_probs.numpy(), expected, rtol=1e-9, atol=1e-12)
    loss = functional.noisy_nll(log_probs, torch.tensor(labels))
    assert loss.item() == pytest.approx(-expected[np.arange(len(labels)), labels].mean(), rel=1e-9)


@given(SIZES)
@settings(max_examples=30, deadline=None)
def test_stochastic_gradient_passes_gradcheck(sizes):
    logits, weight, _ = _draw(*sizes)
    assert torch.autograd.gradcheck(
        functional.stochastic_noisy_log_probs,
        (torch.tensor(logits, requires_grad=True), torch.tensor(log_softmax(weight, axis=1), requires_grad=True)),
    )


def test_soft_labels_that_are_hard_give_the_same_loss_and_mixed_ones_the_mixture():
    log_probs = torch.randn(6, 5).log_softmax(dim=1)
    labels, others = torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([1, 1, 0, 2, 3, 4])
    one_hot = torch.nn.functional.one_hot(labels, 5).float()
    assert functional.noisy_nll(log_probs, one_hot) == pytest.approx(functional.noisy_nll(log_probs, labels).item())
    mixed = 0.3 * one_hot + 0.7 * torch.nn.functional.one_hot(others, 5)
    expected = -(0.3 * log_probs[range(6), labels] + 0.7 * log_probs[range(6), others]).mean()
    assert functional.noisy_nll(log_probs, mixed) == pytest.approx(expected.item())


@pytest.mark.parametrize("noise_type", ["softmax", "stochastic"])
@given(seed=st.integers(0, 1000), num_classes=st.integers(2, 20))
@settings(max_examples=30, deadline=None)
def test_transition_matrix_and_weight_are_inverse(noise_type, seed, num_classes):
    transition = torch.tensor(np.random.default_rng(seed).dirichlet(np.ones(num_classes), size=num_classes))
    weight = functional.weight_from_transition_matrix(transition, noise_type)
    assert torch.allclose(functional.log_transition_matrix(weight, noise_type).exp(), transition, atol=1e-12)


def test_transition_matrix_of_the_softmax_layer_is_its_answer_to_a_certain_network():
    weight = torch.randn(4, 4, dtype=torch.float64)
    certain = torch.eye(4, dtype=torch.float64) * 1e6
    expected = functional.softmax_noisy_log_probs(certain, weight)
    assert torch.allclose(functional.log_transition_matrix(weight, "softmax"), expected)


@given(SIZES)
@settings(max_examples=40, deadline=None)
def test_posterior_is_bayes(sizes):
    logits, weight, labels = _draw(*sizes)
    transition = _softmax(weight)
    joint = _softmax(logits) * transition[:, labels].T
    expected = joint / joint.sum(axis=1, keepdims=True)
    posterior = functional.label_posterior(torch.tensor(logits), torch.tensor(labels), torch.tensor(np.log(transition)))
    np.testing.assert_allclose(posterior.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_a_zero_of_the_matrix_stays_finite_in_log_space():
    weight = functional.weight_from_transition_matrix(torch.eye(3), "softmax")
    assert functional.log_transition_matrix(weight, "softmax").min() >= math.log(functional.MIN_PROBABILITY) - 1e-4


@given(SIZES, st.floats(0.1, 2.0))
@settings(max_examples=60, deadline=None)
def test_every_labels_images_weigh_as_much_together_as_before(sizes, exponent):
    logits, _, labels = _draw(*sizes)
    labels[::4] = functional.NO_LABEL
    weights = functional.focus_weights(torch.tensor(logits), torch.tensor(labels), exponent).numpy()
    np.testing.assert_allclose(weights, focused(_softmax(logits), labels, exponent), rtol=1e-4)
    for label in set(labels.tolist()) - {functional.NO_LABEL}:
        assert weights[labels == label].sum() == pytest.approx((labels == label).sum(), rel=1e-4)


def test_of_a_label_that_the_network_holds_impossible_every_image_weighs_one():
    logits = torch.tensor([[200.0, 0.0], [400.0, 0.0], [0.0, 0.0]], requires_grad=True)
    weights = functional.focus_weights(logits, torch.tensor([1, 1, 0]))
    assert weights.tolist() == [1, 1, 1] and not weights.requires_grad
