"""One training of one method in one configuration: by a loop that all methods share, or by the public trainers."""

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from denoising.methods import METHODS, ByNoiseLayer, Method
from stabilising.configurations import Configuration
from stabilising.data import Data, load, shift
from torch import Tensor, nn

from lightning_noisy.noise.synthetic import uniform_matrix

LOST_BELOW = 0.1
"""A class is lost when it is predicted for fewer than this share of its own number of test images."""
COMPARED = ("cross-entropy", "GCE", "ELR", "layer as published", "noise layer")
SGD_FACTOR = 30
"""The learning rate of SGD with momentum over that of AdamW."""


def measure(configuration: Configuration, method: str, seed: int, data_dir: Path) -> dict[str, Any]:
    """Trains and looks at the clean test images after the last epoch; a line of results."""
    data = load(configuration, data_dir)
    torch.manual_seed(1000 * configuration.number + seed)
    if configuration.trainer == "loop":
        network, layer = by_loop(configuration, data, METHODS[method])
    else:
        network, layer = by_public_trainer(configuration, data, method == "noise layer", seed)
    predicted = predict(network, data.test_images).argmax(dim=1)
    of_class = torch.bincount(data.test_labels, minlength=data.num_classes)
    lost = torch.bincount(predicted, minlength=data.num_classes) < LOST_BELOW * of_class
    return {
        "accuracy": round(float((predicted == data.test_labels).double().mean()), 4),
        "lost": torch.nonzero(lost).flatten().tolist(),
        "share": None if layer is None else layer.share,
        "step_backs": None if layer is None else layer.step_backs,
    }


def by_loop(configuration: Configuration, data: Data, kind: type[Method]) -> tuple[nn.Module, Any]:
    """The network, and the noise layer where the method has one."""
    network = data.network()
    images, labels, size = data.images, data.noisy_labels, min(configuration.batch_size, len(data.images))
    batches = len(images) // size
    matrix = uniform_matrix(data.num_classes, 0.0)
    method = kind(data.num_classes, len(images), configuration.epochs, batches, matrix)
    optimizer = build_optimizer(configuration, network, method.parameter_groups)
    steps = -(-batches // configuration.accumulation) * configuration.epochs
    scheduler = build_scheduler(configuration, optimizer, steps)
    takes_soft_labels = kind is Method or issubclass(kind, ByNoiseLayer)
    for epoch in range(configuration.epochs):
        network.train()
        order = torch.randperm(len(images))[: batches * size]
        for number, batch in enumerate(order.split(size), start=1):
            pixels = shift(images[batch]) if configuration.augmented else images[batch]
            targets: Tensor = labels[batch]
            if configuration.mixup and takes_soft_labels:
                pixels, targets = mix(pixels, targets, data.num_classes, configuration.mixup)
            loss = method.loss(network(pixels), targets, batch, epoch)
            (loss / configuration.accumulation).backward()
            if number % configuration.accumulation == 0 or number == batches:
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
        if configuration.validated:
            method.validated(predict(network, data.val_images), data.val_labels)
    return network, getattr(method, "layer", None)


def by_public_trainer(configuration: Configuration, data: Data, has_layer: bool, seed: int) -> tuple[nn.Module, Any]:
    """The network and the noise layer after a training by what users call."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        if configuration.trainer == "transformers":
            from stabilising.by_transformers import train

            return train(configuration, data, has_layer, seed, Path(folder))
        from stabilising.by_lightning import train as train_by_lightning

        return train_by_lightning(configuration, data, has_layer, seed, Path(folder))


def build_optimizer(
    configuration: Configuration, network: nn.Module, more: Any = lambda lr: []
) -> torch.optim.Optimizer:
    lr = configuration.learning_rate
    if configuration.optimizer == "adamw":
        groups = [{"params": network.parameters(), "weight_decay": 0.01}, *more(lr)]
        return torch.optim.AdamW(groups, lr=lr)
    groups = [{"params": network.parameters(), "weight_decay": 5e-4}, *more(SGD_FACTOR * lr)]
    return torch.optim.SGD(groups, lr=SGD_FACTOR * lr, momentum=0.9)


def build_scheduler(configuration: Configuration, optimizer: torch.optim.Optimizer, steps: int) -> Any:
    if configuration.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def mix(images: Tensor, labels: Tensor, num_classes: int, alpha: float) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018, arXiv 1710.09412): (B, ...) and (B,) -> (B, ...) and soft labels (B, K)."""
    share = torch.distributions.Beta(alpha, alpha).sample()
    other = torch.randperm(len(images))
    soft = F.one_hot(labels, num_classes).float()
    return share * images + (1 - share) * images[other], share * soft + (1 - share) * soft[other]


@torch.no_grad()
def predict(network: nn.Module, images: Tensor) -> Tensor:
    """(M, K) logits, in evaluation mode."""
    network.eval()
    return torch.cat([network(part) for part in images.split(500)])
