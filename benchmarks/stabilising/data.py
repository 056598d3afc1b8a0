"""The data and the networks of the stability benchmark: (N, C, H, W) or (N, D) float32, normalised, and labels."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from cifar_features import WEIGHTS, build_backbone
from denoising.cells import _cifar_features, _cifar_images, _mnist, mlp
from prepare_data import FILES
from stabilising.configurations import PEOPLES, Configuration
from torch import Tensor, nn

from lightning_noisy.noise.synthetic import corrupt_labels, transition_matrix_from_spec

TEST_IMAGES = 2000
PHOTO_SIDE = 32


@dataclass
class Data:
    """Training images with noisy labels, a validation of such, clean test images, and the network for them."""

    images: Tensor
    noisy_labels: Tensor
    val_images: Tensor
    val_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    network: Callable[[], nn.Module]
    num_classes: int


def load(configuration: Configuration, data_dir: Path) -> Data:
    """The data of a configuration: which images, and which labels are wrong, depends on its number alone."""
    images, labels, test_images, test_labels, peoples = READERS[configuration.data](configuration, data_dir)
    generator = torch.Generator().manual_seed(configuration.number)
    rows = torch.randperm(len(images), generator=generator)
    if configuration.imbalance > 1:
        share = configuration.imbalance ** (-labels[rows] / max(configuration.num_classes - 1, 1))
        rows = rows[torch.rand(len(rows), generator=generator) < share]
    rows = rows[: configuration.images]
    images, labels = images[rows], labels[rows]
    if configuration.noise in PEOPLES:
        noisy = peoples[configuration.noise][rows]
    else:
        matrix = transition_matrix_from_spec(configuration.noise, configuration.num_classes, configuration.number)
        noisy = torch.from_numpy(corrupt_labels(labels.numpy(), matrix, configuration.number))
    network = partial(build_network, configuration, tuple(images.shape[1:]), data_dir)
    held_out = len(images) // 10 if configuration.validated else 0
    return Data(
        images[held_out:], noisy[held_out:], images[:held_out], noisy[:held_out], test_images, test_labels, network,
        configuration.num_classes,
    )  # fmt: skip


def build_network(configuration: Configuration, shape: tuple[int, ...], data_dir: Path) -> nn.Module:
    """(B, *shape) -> (B, K) logits."""
    kind, width, outputs = configuration.network, configuration.width, configuration.num_classes
    inputs = int(np.prod(shape))
    if kind == "linear":
        return mlp(inputs, [], outputs)
    if kind.startswith("mlp"):
        return mlp(inputs, [width, width], outputs, batch_norm="batch norm" in kind)
    if kind.startswith("cnn"):
        return cnn(shape[0], width // 8, outputs, shape[1], batch_norm="batch norm" in kind)
    if kind == "vit":
        from timm.models.vision_transformer import VisionTransformer

        options = {"embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": outputs}
        return VisionTransformer(img_size=shape[1], patch_size=shape[1] // 4, in_chans=shape[0], **options)
    backbone = build_backbone(data_dir / WEIGHTS)
    return nn.Sequential(backbone, nn.Linear(backbone.num_features, outputs))


def cnn(channels: int, width: int, outputs: int, side: int, batch_norm: bool) -> nn.Module:
    layers: list[nn.Module] = []
    for size in (width, 2 * width):
        layers += [nn.Conv2d(channels, size, 3, padding=1), *([nn.BatchNorm2d(size)] if batch_norm else [])]
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        channels = size
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(channels * (side // 4) ** 2, 64), nn.ReLU(), nn.Linear(64, outputs)
    )


def shift(images: Tensor) -> Tensor:
    """(B, C, H, W), each shifted by up to an eighth of its side."""
    batch, _, height, width = images.shape
    most = max(height // 8, 1)
    padded = F.pad(images, (most, most, most, most), mode="replicate")
    rows = torch.randint(0, 2 * most + 1, (batch, 1)) + torch.arange(height)
    columns = torch.randint(0, 2 * most + 1, (batch, 1)) + torch.arange(width)
    return padded[torch.arange(batch)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


Loaded = tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Tensor]]


@cache
def _pooled_mnist(data_dir: Path) -> Loaded:
    train_x, train_y, test_x, test_y = _mnist(data_dir)
    small = [F.avg_pool2d(images[:, None], 2) for images in (train_x[:15_000], test_x[:TEST_IMAGES])]
    return small[0], train_y[:15_000], small[1], test_y[:TEST_IMAGES], {}


@cache
def _digits() -> Loaded:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images = torch.from_numpy(pixels[order] / 16).float().reshape(-1, 1, 8, 8)
    classes = torch.from_numpy(labels[order]).long()
    return images[:1297], classes[:1297], images[1297:], classes[1297:], {}


@cache
def _shapes() -> Loaded:
    """Six shapes of any size and place, drawn in grey on a noisy ground of 16 x 16 pixels."""
    generator = np.random.default_rng(0)
    count = 8_000
    labels = generator.integers(6, size=count)
    y, x = np.mgrid[:16, :16]
    images = generator.normal(0, 0.5, size=(count, 1, 16, 16))
    for row, label in enumerate(labels):
        centre_y, centre_x, size = generator.uniform(5, 11), generator.uniform(5, 11), generator.uniform(2, 5)
        down, right = y - centre_y, x - centre_x
        far = np.hypot(down, right)
        drawn = (
            far < size,
            np.maximum(abs(down), abs(right)) < size,
            abs(down) + abs(right) < size,
            (abs(down) < size / 3) & (abs(right) < size),
            (abs(right) < size / 3) & (abs(down) < size),
            abs(far - size) < 1,
        )[label]
        images[row, 0] += drawn * generator.uniform(0.7, 1.5)
    pixels, classes = torch.from_numpy(images).float(), torch.from_numpy(labels).long()
    return pixels[TEST_IMAGES:], classes[TEST_IMAGES:], pixels[:TEST_IMAGES], classes[:TEST_IMAGES], {}


def _clouds(configuration: Configuration) -> Loaded:
    """Gaussian clouds around random centres in 32 dimensions, which overlap more or less."""
    generator = torch.Generator().manual_seed(configuration.number)
    centres = torch.randn(configuration.num_classes, 32, generator=generator)
    spread = 1.0 + torch.rand(1, generator=generator)

    def sample(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(configuration.num_classes, (count,), generator=generator)
        return centres[labels] + spread * torch.randn(count, 32, generator=generator), labels

    return *sample(3 * configuration.images), *sample(max(TEST_IMAGES, 5 * configuration.num_classes)), {}


@cache
def _features(data_dir: Path) -> Loaded:
    found = _cifar_features(data_dir)
    peoples = {name: found[name][:15_000] for name in PEOPLES}
    test = found["test"][:TEST_IMAGES], found["test_clean"][:TEST_IMAGES]
    return found["train"][:15_000], found["clean"][:15_000], *test, peoples


@cache
def _photos(data_dir: Path) -> Loaded:
    columns, read_train = _cifar_images(data_dir / FILES["cifar10n_train"])
    test_columns, read_test = _cifar_images(data_dir / FILES["cifar10_test"])

    def small(pixels: Tensor) -> Tensor:
        return F.avg_pool2d(pixels.float(), pixels.shape[-1] // PHOTO_SIDE) / 127.5 - 1

    rows, test_rows = torch.arange(20_000, 24_000), torch.arange(1000)
    peoples = {name: columns[name][rows] for name in PEOPLES}
    test = small(read_test(test_rows)), test_columns["clean"][test_rows]
    return small(read_train(rows)), columns["clean"][rows], *test, peoples


READERS: dict[str, Callable[[Configuration, Path], Loaded]] = {
    "mnist": lambda _, data_dir: _pooled_mnist(data_dir),
    "digits": lambda _, data_dir: _digits(),
    "shapes": lambda _, data_dir: _shapes(),
    "clouds": lambda configuration, _: _clouds(configuration),
    "features": lambda _, data_dir: _features(data_dir),
    "photos": lambda _, data_dir: _photos(data_dir),
    "fine-tuning": lambda _, data_dir: _photos(data_dir),
}
