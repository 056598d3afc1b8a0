"""Small real things for the tests of the audit: digits with wrong labels, and a network that has learned from them."""

import warnings

import lightning.pytorch as L
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from lightning_noisy import NoisyImageClassifier, NoisyImageDataModule

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


class SmallNetwork(nn.Module):
    """(B, 3, 16, 16) -> (B, 10)."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(768, 64), nn.ReLU(), nn.Linear(64, num_classes))

    def forward(self, images):
        return self.layers(images)


def digits(**options) -> NoisyImageDataModule:
    """1,300 digits of 16 x 16 pixels, a third of their labels wrong."""
    given = {"noise": "uniform:0.4", "image_size": 16, "batch_size": 64, "num_workers": 0, **options}
    return NoisyImageDataModule("digits", **given)


def trainer(**options) -> L.Trainer:
    """On the CPU, without a word."""
    return L.Trainer(accelerator="cpu", **{**QUIET, **options})


def trained_on(datamodule: NoisyImageDataModule, epochs: int = 20, seed: int = 0) -> NoisyImageClassifier:
    """A network that has learned the digits through the noise layer."""
    L.seed_everything(seed, verbose=False)
    model = NoisyImageClassifier(SmallNetwork(), datamodule.num_classes, datamodule.class_names, optimizer=adam)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer(max_epochs=epochs).fit(model, datamodule)
    return model


def adam(parameters):
    """At a rate for so small a network."""
    return torch.optim.AdamW(parameters, lr=2e-3)


def true_labels(ids: list[str]) -> np.ndarray:
    """(N,) what the digits really are, by their ids."""
    labels = load_digits(return_X_y=True)[1]
    return np.array([labels[int(name.split("/")[1])] for name in ids])
