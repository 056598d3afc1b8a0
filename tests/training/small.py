"""Small real modules, data and trainers for the tests of trainings."""

import warnings

import lightning.pytorch as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_noisy import NoiseConfig, NoisyImageClassifier, NoisyImageDataModule, NoisyLabelMixin

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}


DEFAULT = NoiseConfig(3, warmup_epochs=1)


class OwnModule(NoisyLabelMixin, L.LightningModule):
    """What the README tells a user to write."""

    def __init__(self, noise=DEFAULT):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
        self.attach_noise_layer(noise)
        self.losses = []

    def training_step(self, batch, batch_idx):
        inputs, noisy_labels = batch
        loss = self.noisy_loss(self.model(inputs), noisy_labels)
        self.losses.append((self.current_epoch, loss.item()))
        return loss


def loader(batch_size=16, count=64):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 4, generator=generator)
    return DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(1)), batch_size=batch_size)


def tiny(**options):
    options = {"noise": {"warmup_epochs": 1}, **options}
    return NoisyImageClassifier(
        "timm:test_vit", num_classes=3, pretrained=False, image_size=16, backbone_kwargs={"patch_size": 4}, **options
    )


def tiny_data(photos, **options):
    return NoisyImageDataModule(str(photos), image_size=16, batch_size=12, num_workers=0, **options)


def fit(module, data, tmp_path, max_epochs=3, **options):
    trainer = L.Trainer(max_epochs=max_epochs, default_root_dir=tmp_path, **{**QUIET, **options})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, data)
    return trainer


class Validated(OwnModule):
    """One that learns, and whose validation tells the layer of the noisy labels that it has not seen."""

    def validation_step(self, batch, batch_idx):
        inputs, noisy_labels = batch
        self.log("val/loss", self.noisy_loss(self.model(inputs), noisy_labels))


def small_classifier(photos, init="confusion", **options):
    data = NoisyImageDataModule(str(photos), image_size=16, batch_size=12, num_workers=0, val_fraction=0.25, **options)
    model = NoisyImageClassifier(
        "timm:test_vit",
        3,
        ["ant", "bee", "cat"],
        pretrained=False,
        image_size=16,
        backbone_kwargs={"patch_size": 4},
        noise={"warmup_epochs": 1, "init": init},
    )
    return model, data
