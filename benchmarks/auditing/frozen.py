"""Images as a frozen pretrained backbone sees them, each computed once."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import timm
import torch
from cifar_features import WEIGHTS, build_backbone, features
from prepare_data import FILES, LABELS
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

FIRST_ROW = 10_000
"""The images before it are those on which the product's thresholds were chosen."""
EFFICIENTNET = "tf_efficientnet_lite0.imagenet.features.safetensors"


def _efficientnet(data_dir: Path) -> nn.Module:
    model = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    weights = load_file(data_dir / EFFICIENTNET).items()
    model.load_state_dict({name: value.float() if value.is_floating_point() else value for name, value in weights})
    return model.eval()


BACKBONES: dict[str, Callable[[Path], nn.Module]] = {
    "mobilenetv2_035": lambda data_dir: build_backbone(data_dir / WEIGHTS),
    "efficientnet_lite0": _efficientnet,
}


def _cifar(backbone: nn.Module, data_dir: Path, first: int, last: int, title: str) -> dict[str, Tensor]:
    with np.load(data_dir / FILES["cifar10n_train"], allow_pickle=False) as arrays:
        offset = arrays["offset"][first : last + 1]
        found = {"features": features(backbone, arrays["jpeg"].tobytes(), offset, title)}
        return found | {name: torch.from_numpy(arrays[name][first:last].astype(np.int64)) for name in LABELS}


def _mnist(backbone: nn.Module, data_dir: Path, first: int, last: int, title: str) -> dict[str, Tensor]:
    from lightning_noisy import NoisyImageDataModule

    images = NoisyImageDataModule(f"idx:{data_dir / 'mnist'}", val_fraction=0).splits["train"]
    found = []
    with torch.inference_mode():
        for start in range(first, last, 256):
            rows = range(start, min(start + 256, last))
            pixels = np.stack([np.asarray(images.read(row).resize((96, 96))) for row in rows])
            found.append(backbone(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1).half())
    return {"features": torch.cat(found), "clean": torch.from_numpy(images.noisy_labels[first:last])}


DATA = {"cifar10n": _cifar, "mnist": _mnist}


@cache
def frozen_features(
    data: str, backbone: str, data_dir: Path, seed: int, count: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """(N, D) float16 features of the images of a seed, and their columns of labels.

    Args:
        data: Of :data:`DATA`.
        backbone: Of :data:`BACKBONES`.
        data_dir: Where the images and weights are; the features are kept beside them.
        seed: Each has images of its own.
        count: How many.
    """
    path = data_dir / f"frozen_{data}_{backbone}_{seed}_{count}.safetensors"
    if not path.is_file():
        first = FIRST_ROW + seed * count
        found = DATA[data](BACKBONES[backbone](data_dir), data_dir, first, first + count, f"{data}, {backbone}, {seed}")
        save_file({name: value.contiguous() for name, value in found.items()}, path)
    columns = load_file(path)
    return columns.pop("features"), columns
