"""Small models and data for the tests of the transformers way."""

import dataclasses

import torch
from torch.utils.data import Dataset
from transformers import TrainingArguments, ViTConfig, ViTForImageClassification

from lightning_noisy import NoiseConfig, models
from lightning_noisy.hf import NoisyForImageClassification

NAMES = {0: "ant", 1: "bee", 2: "cat"}
SIDE = 32
NO_WARMUP = NoiseConfig(warmup_epochs=0, dropout=0.0)
PAPER = dataclasses.replace(NoiseConfig.paper(), dropout=0.0)
STOCHASTIC = NoiseConfig(
    noise_type="stochastic", warmup_epochs=0, transition_matrix=[[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]]
)


def tiny_vit(num_labels=3, seed=0, **config):
    torch.manual_seed(seed)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    return ViTForImageClassification(
        ViTConfig(image_size=SIDE, patch_size=8, num_labels=num_labels, **size, **config)
    ).eval()


def saved_timm(folder, name="test_resnet", num_classes=5, **kwargs):
    torch.manual_seed(0)
    model = models.build_backbone(
        f"timm:{name}", num_classes, pretrained=False, image_size=SIDE, backbone_kwargs=kwargs
    )
    models.save_backbone(model, folder, [f"old {label}" for label in range(num_classes)])
    return str(folder)


def noisy_vit(noise=NO_WARMUP, seed=0):
    return NoisyForImageClassification.from_backbone(tiny_vit(seed=seed), noise=noise, id2label=NAMES)


def batch(count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, SIDE, SIDE, generator=generator), torch.arange(count) % 3


class Images(Dataset):
    """Images whose channel tells the class; each fifth label is wrong."""

    def __init__(self, count=24):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        pixels = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(index))
        pixels[index % 3] += 1.5
        return {"pixel_values": pixels, "labels": (index + (index % 5 == 0)) % 3}


def arguments(folder, **options):
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "seed": 0}
    steps = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2}
    return TrainingArguments(str(folder), **{**quiet, **steps, **options})
