"""What is minimised where soft labels are given in the place of the noisy ones."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_noisy.noise import NoiseConfig, NoiseLayer
from lightning_noisy.noise.objective import noisy_objective


def drawn(seed, size=6, classes=4, scale=3.0):
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, scale, (size, classes))
    soft = generator.dirichlet(np.full(classes, 0.3), size)
    return torch.from_numpy(logits), torch.from_numpy(soft)


def by_hand(logits, soft):
    """In float64, image by image, with weights that the soft labels sum up to."""
    losses = []
    for scores, target in zip(logits.numpy(), soft.numpy(), strict=True):
        probs = np.exp(scores - scores.max())
        probs /= probs.sum()
        weight = target.sum()
        loss = -(target * np.log(probs)).sum()
        losses.append(loss + (weight * np.log(1 - (target / weight) @ probs) if weight else 0.0))
    return np.mean(losses)


@given(st.integers(0, 10_000), st.floats(0.1, 4.0))
def test_it_is_cross_entropy_and_what_draws_to_agreement(seed, weight):
    logits, soft = drawn(seed, scale=1.5)
    soft = soft * torch.tensor([weight, 1.0, 1.0, 1.0, 1.0, 0.0])[:, None]  # the last one has no label
    found = noisy_objective(None, logits.float(), torch.zeros(6, dtype=torch.long), soft_labels=soft.float())
    assert float(found) == pytest.approx(by_hand(logits, soft), rel=1e-3, abs=1e-4)


@given(st.integers(0, 10_000))
def test_it_can_not_run_away(seed):
    logits, soft = drawn(seed, scale=60.0)
    logits = logits.float().requires_grad_()
    loss = noisy_objective(None, logits, torch.zeros(6, dtype=torch.long), soft_labels=soft.float())
    loss.backward()
    assert float(loss) >= -9.3
    assert bool(torch.isfinite(logits.grad).all())


def test_a_right_answer_is_drawn_to_and_an_image_of_another_opinion_let_alone():
    """The gradient of the added term is large where the network agrees, and nearly none where it does not."""
    soft = torch.tensor([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0]])
    logits = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 6.0]], requires_grad=True)
    labels = torch.zeros(2, dtype=torch.long)
    with_it = torch.autograd.grad(noisy_objective(None, logits, labels, soft_labels=soft), logits)[0]
    without = torch.autograd.grad(noisy_objective(None, logits, soft), logits)[0]
    agreeing, differing = (with_it - without).abs().sum(dim=1).tolist()
    assert agreeing > 20 * differing
    assert (with_it - without)[0, 0] < 0, "towards the class that both say"


def test_with_a_layer_the_same_is_added():
    logits, soft = (part.float() for part in drawn(0))
    layer = NoiseLayer(NoiseConfig(num_classes=4, dropout=0.0))
    labels = torch.zeros(6, dtype=torch.long)
    added = noisy_objective(layer, logits, labels, soft_labels=soft) - noisy_objective(layer, logits, soft)
    expected = noisy_objective(None, logits, labels, soft_labels=soft) - noisy_objective(None, logits, soft)
    torch.testing.assert_close(added, expected, atol=1e-5, rtol=0)
