"""Trainings of the stability benchmark by transformers' own Trainer."""

from pathlib import Path
from typing import Any

import torch
from stabilising.configurations import Configuration
from stabilising.data import Data
from stabilising.training import SGD_FACTOR
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification, set_seed

from lightning_noisy.hf import NoisyForImageClassification


class Rows(Dataset):
    """Images and labels as the Trainer takes them."""

    def __init__(self, data: Data) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data.images)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"pixel_values": self.data.images[row], "labels": int(self.data.noisy_labels[row])}


class Logits(nn.Module):
    """(B, C, H, W) -> (B, K) of a model of transformers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=images).logits


def train(configuration: Configuration, data: Data, has_layer: bool, seed: int, folder: Path) -> tuple[nn.Module, Any]:
    """The network and its noise layer."""
    set_seed(1000 * configuration.number + seed)
    channels, side = data.images.shape[1], data.images.shape[2]
    names = {label: str(label) for label in range(data.num_classes)}
    config = ViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96, image_size=side,
        patch_size=side // 4, num_channels=channels, id2label=names, label2id={name: k for k, name in names.items()},
    )  # fmt: skip
    options = {} if has_layer else {"noise": None}
    model = NoisyForImageClassification.from_backbone(ViTForImageClassification(config), **options)
    is_adamw = configuration.optimizer == "adamw"
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=configuration.epochs,
        per_device_train_batch_size=configuration.batch_size,
        learning_rate=configuration.learning_rate * (1 if is_adamw else SGD_FACTOR),
        optim="adamw_torch" if is_adamw else "sgd",
        lr_scheduler_type="cosine" if configuration.schedule == "cosine" else "constant",
        weight_decay=0.01 if is_adamw else 0.0,
        seed=1000 * configuration.number + seed,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    Trainer(model=model, args=arguments, train_dataset=Rows(data)).train()
    return Logits(model), model.noise_layer
