"""The targets of the default loss, against loops in float64, and what their definition promises."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_noisy.noise import functional
from lightning_noisy.noise.functional import label_posterior, soft_posterior_targets


def posterior_targets(logits, labels, log_transition, **options):
    return functional.posterior_targets(logits, labels, log_transition.T[labels], **options)


def drawn(num_classes, seed):
    generator = np.random.default_rng(seed)
    logits = torch.from_numpy(generator.normal(size=(9, num_classes)) * 3)
    matrix = torch.from_numpy(generator.dirichlet(np.full(num_classes, 0.5), size=num_classes) + 0.01)
    return logits, torch.from_numpy(generator.integers(num_classes, size=9)), matrix / matrix.sum(dim=1, keepdim=True)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(0, 1000), st.floats(0.5, 5), st.floats(1, 4), st.floats(0.05, 2))
def test_they_are_the_formula(num_classes, seed, pessimism, sharpness, doubt):
    logits, labels, matrix = drawn(num_classes, seed)
    targets = posterior_targets(logits, labels, matrix.log(), pessimism=pessimism, sharpness=sharpness, doubt=doubt)
    expected = []
    for p, label in zip(logits.softmax(dim=1).tolist(), labels.tolist(), strict=True):
        ratio = [pessimism * float(matrix[k, label] / matrix[label, label]) for k in range(num_classes)]
        total = sum(r**sharpness for k, r in enumerate(ratio) if k != label)
        scale = min(1.0, (doubt / total) ** (1 / sharpness))
        powers = [(p[k] * (1.0 if k == label else scale * ratio[k])) ** sharpness for k in range(num_classes)]
        expected.append([power / sum(powers) for power in powers])
    np.testing.assert_allclose(targets.numpy(), expected, rtol=1e-6, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(0, 1000))
def test_unsharpened_they_are_bayes_rule_and_the_gradient_that_of_forward_correction(num_classes, seed):
    logits, labels, matrix = drawn(num_classes, seed)
    targets = posterior_targets(logits, labels, matrix.log(), pessimism=1.0, sharpness=1.0, doubt=1e9)
    torch.testing.assert_close(targets, label_posterior(logits, labels, matrix.log()))
    ours, forward = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    (-(targets * ours.log_softmax(dim=1)).sum()).backward()
    (-(forward.softmax(dim=1) @ matrix).gather(1, labels[:, None]).log().sum()).backward()
    torch.testing.assert_close(ours.grad, forward.grad)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(0, 1000))
def test_a_network_that_knows_nothing_believes_the_label_whatever_was_counted(num_classes, seed):
    _, labels, matrix = drawn(num_classes, seed)
    matrix = matrix.flip(0)  # labels that are mostly wrong
    targets = posterior_targets(torch.zeros(9, num_classes).double(), labels, matrix.log())
    assert (targets.gather(1, labels[:, None]) >= 1 / 1.25 - 1e-9).all()


def test_where_labels_are_right_the_targets_are_the_labels():
    matrix = torch.full((4, 4), 1e-6).fill_diagonal_(1.0)
    logits = torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 4.0, 0.0, 0.0]])
    targets = posterior_targets(logits, torch.tensor([3, 0]), matrix.log())
    torch.testing.assert_close(targets, torch.eye(4)[[3, 0]], atol=1e-6, rtol=0)


def test_a_label_is_given_up_where_it_is_as_improbable_as_the_documentation_says():
    """Of two classes: below the odds ``R^(-s/(s-1))`` the network is pulled towards the label, above it away."""
    matrix = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)
    ratio = 2.0 * 0.1 / 0.9
    for factor, is_pulled_to_label in ((0.9, True), (1.1, False)):
        odds = factor * ratio**-2
        logits = torch.tensor([[math.log(odds), 0.0]], dtype=torch.float64)
        target = posterior_targets(logits, torch.tensor([1]), matrix.log())[0, 1]
        assert (target > logits.softmax(dim=1)[0, 1]) == is_pulled_to_label


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_they_stay_finite_and_detached(size):
    logits = (torch.randn(5, 3) * size).requires_grad_()
    matrix = torch.eye(3).clamp_min(1e-30)
    targets = posterior_targets(logits, torch.tensor([0, 1, 2, 0, 1]), matrix.log())
    assert targets.isfinite().all() and not targets.requires_grad
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(5))


def test_of_soft_labels_the_two_largest_are_believed_by_their_share_and_the_rest_stays():
    logits, _, matrix = drawn(4, 0)
    soft = torch.tensor([[0.6, 0.3, 0.05, 0.05]], dtype=torch.float64)
    targets = soft_posterior_targets(logits[:1], soft, matrix.log().T, "softmax")
    parts = [posterior_targets(logits[:1], torch.tensor([label]), matrix.log()) for label in (0, 1)]
    rest = torch.tensor([[0.0, 0.0, 0.05, 0.05]], dtype=torch.float64)
    torch.testing.assert_close(targets, 0.6 * parts[0] + 0.3 * parts[1] + rest)
    hard = torch.nn.functional.one_hot(torch.tensor([2, 1]), 4).double()
    torch.testing.assert_close(
        soft_posterior_targets(logits[:2], hard, matrix.log(), "stochastic"),
        posterior_targets(logits[:2], torch.tensor([2, 1]), matrix.log()),
    )


@pytest.mark.parametrize("noise_type", ["softmax", "stochastic"])
def test_the_likelihood_of_labels_is_rows_of_the_whole_matrix(noise_type):
    weight, labels = torch.randn(5, 5).double(), torch.tensor([4, 0, 0, 2])
    expected = functional.log_transition_matrix(weight, noise_type).T[labels]
    torch.testing.assert_close(functional.label_log_likelihood(weight, noise_type, labels), expected)
