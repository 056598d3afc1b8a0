"""The layer's measured behaviour on real images: handwritten digits, a fully connected network, three seeds."""

import itertools

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_noisy import NoiseConfig, NoisyImageDataModule, NoisyLabelMixin

from .small import QUIET

pytestmark = pytest.mark.slow
SEEDS = (0, 1, 2)
EPOCHS = 60


class FullyConnected(NoisyLabelMixin, L.LightningModule):
    def __init__(self, noise):
        super().__init__()
        widths = (64, 256, 256)
        layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.model = nn.Sequential(*layers, nn.Linear(256, 10))
        self.attach_noise_layer(noise)

    def training_step(self, batch, batch_idx):
        return self.noisy_loss(self.model(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameter_groups(lr=1e-3))


def run(noise, label_noise, seed):
    """Clean test accuracy of the last epoch, and how many classes the network predicts on the training images."""
    L.seed_everything(seed, verbose=False)
    data = NoisyImageDataModule("digits", noise=label_noise, seed=seed, val_fraction=0.0)
    pixels = torch.tensor(load_digits().data / 16, dtype=torch.float32)
    rows = {name: [int(key.split("/")[1]) for key in split.ids.to_pylist()] for name, split in data.splits.items()}
    train = TensorDataset(pixels[rows["train"]], torch.tensor(data.splits["train"].noisy_labels))
    module = FullyConnected(noise)
    trainer = L.Trainer(max_epochs=EPOCHS, **QUIET)
    trainer.fit(module, DataLoader(train, batch_size=100, shuffle=True))
    with torch.no_grad():
        predicted = module.model(pixels[rows["test"]]).argmax(1).numpy()
        seen = module.model(train.tensors[0]).argmax(1)
    return (predicted == data.splits["test"].clean_labels).mean(), len(seen.unique())


@pytest.fixture(scope="module")
def accuracy():
    found = {}

    def mean_accuracy(noise, label_noise):
        key = (str(noise), label_noise)
        if key not in found:
            found[key] = [run(noise, label_noise, seed) for seed in SEEDS]
        return np.mean([accuracy for accuracy, _ in found[key]]), [classes for _, classes in found[key]]

    return mean_accuracy


DEFAULT = NoiseConfig(10)


@pytest.mark.parametrize(
    ("label_noise", "plain_at_most", "layer_at_least"),
    [("uniform:0.5", 0.82, 0.90), ("uniform:0.7", 0.64, 0.80), ("pair:0.4", 0.68, 0.85)],
)
def test_the_default_recovers_what_cross_entropy_loses(accuracy, label_noise, plain_at_most, layer_at_least):
    plain, _ = accuracy(None, label_noise)
    layer, classes = accuracy(DEFAULT, label_noise)
    assert plain < plain_at_most
    assert layer > layer_at_least
    assert classes == [10, 10, 10]


def test_without_noise_the_default_does_no_harm(accuracy):
    plain, _ = accuracy(None, "uniform:0.0")
    layer, classes = accuracy(DEFAULT, "uniform:0.0")
    assert abs(plain - layer) < 0.005
    assert classes == [10, 10, 10]


def test_the_layer_as_published_loses_a_class_and_the_guard_says_so(accuracy):
    with pytest.warns(UserWarning, match="does not predict class"):
        _, classes = accuracy(NoiseConfig.paper(10), "uniform:0.0")
    assert min(classes) < 10
