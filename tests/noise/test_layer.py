import copy
import math

import pytest
import torch
from torch import nn

from lightning_noisy.noise import NoiseConfig, NoiseLayer
from lightning_noisy.noise.synthetic import pair_matrix, uniform_matrix

NOISE_TYPES = ["softmax", "stochastic"]


def test_at_the_start_it_is_the_papers_layer():
    layer = NoiseLayer(NoiseConfig(10, init_scale=1.0))
    assert torch.equal(layer.weight, torch.eye(10))
    logits = torch.randn(8, 10)
    layer.eval()
    assert torch.allclose(layer(logits).exp(), logits.softmax(1).softmax(1), atol=1e-6)


@pytest.mark.parametrize("noise_type", NOISE_TYPES)
@pytest.mark.parametrize("num_classes", [2, 10, 1000])
@pytest.mark.parametrize("size", [1.0, 100.0, 1e4])
def test_values_and_gradients_are_finite(noise_type, num_classes, size):
    layer = NoiseLayer(NoiseConfig(num_classes, noise_type=noise_type))
    generator = torch.Generator().manual_seed(0)
    logits = (torch.rand(16, num_classes, generator=generator) * 2 - 1) * size
    logits.requires_grad_()
    loss = layer.loss(logits, torch.randint(0, num_classes, (16,), generator=generator))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("noise_type", NOISE_TYPES)
def test_a_matrix_with_zeros_stays_finite(noise_type):
    layer = NoiseLayer(NoiseConfig(transition_matrix=pair_matrix(5, 0.4).tolist(), noise_type=noise_type, dropout=0.0))
    logits = (torch.eye(5) * 1e4).requires_grad_()
    layer.loss(logits, torch.tensor([4, 3, 2, 1, 0])).backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("noise_type", NOISE_TYPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_and_models_leave_the_layer_in_float32(noise_type, dtype):
    layer = NoiseLayer(NoiseConfig(4, noise_type=noise_type, dropout=0.0))
    model = nn.Sequential(nn.Linear(3, 4), layer).to(dtype)
    assert layer.weight.dtype == torch.float32
    assert model[0].weight.dtype == dtype
    logits = torch.randn(5, 4).to(dtype)
    assert torch.equal(layer(logits), layer(logits.float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = layer(logits)
    assert under_autocast.dtype == torch.float32
    assert torch.equal(under_autocast, layer(logits.float()))


@pytest.mark.parametrize(
    ("noise_type", "dropout_on"),
    [("softmax", "output"), ("softmax", "input"), ("softmax", "weight"), ("stochastic", "output")],
)
def test_compiles_without_a_graph_break_and_gives_the_same(noise_type, dropout_on):
    layer = NoiseLayer(NoiseConfig(4, noise_type=noise_type, dropout_on=dropout_on, dropout=0.3))
    compiled = torch.compile(layer.loss, fullgraph=True, backend="aot_eager")
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    layer.eval()
    assert compiled(logits, labels).item() == pytest.approx(layer.loss(logits, labels).item(), rel=1e-5)


def test_dropout_fires_in_training_only():
    layer = NoiseLayer(NoiseConfig(4, dropout=0.5))
    logits = torch.randn(6, 4)
    assert not torch.equal(layer(logits), layer(logits))
    layer.eval()
    assert torch.equal(layer(logits), layer(logits))


@pytest.mark.parametrize("noise_type", NOISE_TYPES)
def test_the_true_matrix_makes_a_certain_network_give_its_rows(noise_type):
    transition_matrix = uniform_matrix(6, 0.5)
    layer = NoiseLayer(NoiseConfig(6, noise_type=noise_type, dropout=0.0))
    layer.reset(transition_matrix)
    assert torch.allclose(layer.transition_matrix().double(), transition_matrix, atol=1e-6)
    assert torch.allclose(layer(torch.eye(6) * 1e4).exp().double(), transition_matrix, atol=1e-6)
    layer.reset()
    assert torch.equal(layer.weight, NoiseLayer(layer.config).weight)


@pytest.mark.parametrize("noise_type", NOISE_TYPES)
@pytest.mark.parametrize("num_classes", [2, 10, 1000])
def test_the_transition_matrix_is_detached_and_stochastic(noise_type, num_classes):
    matrix = NoiseLayer(NoiseConfig(num_classes, noise_type=noise_type)).transition_matrix()
    assert matrix.shape == (num_classes, num_classes)
    assert not matrix.requires_grad
    assert (matrix >= 0).all()
    assert torch.allclose(matrix.sum(1), torch.ones(num_classes), atol=1e-6)


@pytest.mark.parametrize("num_classes", [10, 100, 1000])
def test_the_automatic_scale_keeps_the_largest_probability(num_classes):
    largest = {"softmax": math.e / (math.e + 9), "stochastic": math.e**3 / (math.e**3 + 9)}
    for noise_type, expected in largest.items():
        layer = NoiseLayer(NoiseConfig(num_classes, noise_type=noise_type))
        assert layer.transition_matrix().diagonal().numpy() == pytest.approx(expected, rel=1e-5)


def test_the_layer_is_in_the_state_dict_and_can_be_copied_and_fixed():
    layer = NoiseLayer(NoiseConfig(3, trainable=False))
    assert list(layer.state_dict()) == ["weight", "label_weights", "progress"]
    assert not layer.weight.requires_grad
    assert torch.equal(copy.deepcopy(layer).weight, layer.weight)


def test_learning_recovers_a_known_matrix_from_labels():
    """With a perfect classifier the maximum-likelihood matrix is the counted one."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(0, 4, (4000,), generator=generator)
    noisy = torch.multinomial(pair_matrix(4, 0.3)[clean], 1, generator=generator)[:, 0]
    counted = torch.zeros(4, 4).index_put_((clean, noisy), torch.ones(4000), accumulate=True)
    counted = counted / counted.sum(1, keepdim=True)
    for noise_type in NOISE_TYPES:
        layer = NoiseLayer(NoiseConfig(4, noise_type=noise_type, dropout=0.0))
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.2)
        for _ in range(300):
            optimizer.zero_grad()
            layer.loss(torch.eye(4)[clean] * 1e3, noisy).backward()
            optimizer.step()
        assert torch.allclose(layer.transition_matrix(), counted, atol=0.01), noise_type


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(2, 4), torch.zeros(2).long(), r"`clean_logits` to have shape \(B, 3\).*got \(2, 4\)"),
        (
            torch.zeros(2, 3),
            torch.zeros(3).long(),
            r"`noisy_labels` to be integers of shape \(2,\).*int64 of shape \(3,\)",
        ),
        (torch.zeros(2, 3), torch.zeros(2), r"`noisy_labels`.*float32 of shape \(2,\)"),
        (torch.zeros(2, 3), torch.zeros(2, 3).long(), r"`noisy_labels`.*int64 of shape \(2, 3\)"),
    ],
)
def test_wrong_shapes_are_named(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        NoiseLayer(3).loss(logits, labels)


def test_the_posterior_wants_integer_labels_and_gives_rows_that_sum_to_one():
    layer = NoiseLayer(NoiseConfig(3, noise_type="stochastic"))
    posterior = layer.label_posterior(torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1]))
    assert torch.allclose(posterior.sum(1), torch.ones(5))
    with pytest.raises(ValueError, match="integers of shape"):
        layer.label_posterior(torch.randn(5, 3), torch.rand(5, 3))
