"""The noise that is fitted by maximum likelihood, against noise that is known."""

import numpy as np
import pytest
import torch

from lightning_noisy.noise.latent import fit_noise


def drawn(matrix, rows=4000, sureness=4.0, seed=0):
    """Clean labels, what a perfect witness knows of the noisy ones, and noisy labels drawn from it."""
    generator = torch.Generator().manual_seed(seed)
    num_classes = len(matrix)
    clean_logits = sureness * torch.randn(rows, num_classes, generator=generator)
    clean = torch.multinomial(clean_logits.softmax(dim=1), 1, generator=generator).squeeze(1)
    noisy = torch.multinomial(matrix[clean], 1, generator=generator).squeeze(1)
    return clean_logits.log_softmax(dim=1), clean, noisy


@pytest.mark.parametrize("kind", ["uniform", "pair"])
def test_the_matrix_and_the_posterior_are_found(kind):
    matrix = 0.6 * torch.eye(4) + 0.1 if kind == "uniform" else 0.7 * torch.eye(4) + 0.3 * torch.eye(4).roll(1, 1)
    log_probs, clean, noisy = drawn(matrix)
    found = fit_noise([log_probs], noisy)
    torch.testing.assert_close(found.transition_matrix, matrix, atol=0.05, rtol=0)
    assert found.weights[0] == pytest.approx(1, abs=0.15)
    exact = (log_probs.double() + matrix.double().clamp_min(1e-12).log().T[noisy]).softmax(dim=1)
    p_given = found.posterior.gather(1, noisy[:, None]).squeeze(1)
    assert (p_given - exact.gather(1, noisy[:, None]).squeeze(1)).abs().mean() < 0.02
    assert 1 - p_given.mean() == pytest.approx(float((clean != noisy).float().mean()), abs=0.03)


def test_a_witness_that_is_too_unsure_is_sharpened():
    log_probs, _, noisy = drawn(0.6 * torch.eye(4) + 0.1)
    found = fit_noise([(log_probs / 2).log_softmax(dim=1)], noisy)
    assert found.weights[0] == pytest.approx(2, abs=0.3)


def test_a_witness_that_knows_nothing_counts_nothing():
    log_probs, _, noisy = drawn(0.6 * torch.eye(4) + 0.1)
    idle = torch.randn(len(noisy), 4, generator=torch.Generator().manual_seed(1)).log_softmax(dim=1)
    assert abs(fit_noise([log_probs, idle], noisy).weights[1]) < 0.15


def test_the_posterior_is_a_distribution_and_labels_of_one_class_alone_do_no_harm():
    found = fit_noise([torch.zeros(10, 3).log_softmax(dim=1)], torch.zeros(10, dtype=torch.long))
    np.testing.assert_allclose(found.posterior.sum(dim=1), 1, rtol=1e-5)
    assert bool(found.posterior.isfinite().all())


def test_shapes_that_do_not_fit_are_told():
    with pytest.raises(ValueError, match=r"one \(N, K\) tensor or more of one shape, but got \[\]"):
        fit_noise([], torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"`noisy_labels` to have shape \(4,\), but got \(3,\)"):
        fit_noise([torch.zeros(4, 2)], torch.zeros(3, dtype=torch.long))
