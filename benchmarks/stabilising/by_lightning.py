"""Trainings of the stability benchmark by Lightning: the mixin in one's own module, and NoisyImageClassifier."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from stabilising.configurations import Configuration
from stabilising.data import Data
from stabilising.training import SGD_FACTOR, build_optimizer, build_scheduler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_noisy import NoisyImageClassifier, NoisyLabelMixin


class Module(NoisyLabelMixin, L.LightningModule):
    """What a user would write."""

    def __init__(self, configuration: Configuration, network: nn.Module, num_classes: int, has_layer: bool) -> None:
        super().__init__()
        self.configuration = configuration
        self.model = network
        self.attach_noise_layer(num_classes if has_layer else None)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        images, noisy_labels = batch
        return self.noisy_loss(self.model(images), noisy_labels)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        images, noisy_labels = batch
        self.validated(self.model(images), noisy_labels)

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.configuration, self.model, self.noise_parameter_groups)
        scheduler = build_scheduler(self.configuration, optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def train(configuration: Configuration, data: Data, has_layer: bool, seed: int, folder: Path) -> tuple[nn.Module, Any]:
    """The network and its noise layer."""
    L.seed_everything(1000 * configuration.number + seed, verbose=False)
    network = data.network()
    module: Any
    if configuration.trainer == "mixin":
        module = Module(configuration, network, data.num_classes, has_layer)
    else:
        module = NoisyImageClassifier(
            network,
            data.num_classes,
            optimizer=_optimizer(configuration),
            lr_scheduler="cosine" if configuration.schedule == "cosine" else None,
            **({} if has_layer else {"noise": None}),
        )
    loader = DataLoader(
        TensorDataset(data.images, data.noisy_labels),
        batch_size=max(min(configuration.batch_size, len(data.images)) // configuration.processes, 1),
        shuffle=True,
        drop_last=True,
    )
    trainer = L.Trainer(
        max_epochs=configuration.epochs,
        accumulate_grad_batches=configuration.accumulation,
        accelerator="cpu",
        devices=configuration.processes,
        strategy="ddp_fork" if configuration.processes > 1 else "auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    validation = DataLoader(TensorDataset(data.val_images, data.val_labels), batch_size=500)
    trainer.fit(module, loader, validation if configuration.validated else None)
    return network if configuration.trainer == "mixin" else module, module.noise_layer


def _optimizer(configuration: Configuration) -> Any:
    def build(groups: Any) -> torch.optim.Optimizer:
        if configuration.optimizer == "adamw":
            return torch.optim.AdamW(groups, lr=configuration.learning_rate, weight_decay=0.01)
        lr = SGD_FACTOR * configuration.learning_rate
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, weight_decay=5e-4)

    return build
