"""The situations of the denoising benchmark: data, their noisy labels, and the network that is trained on them."""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from cifar_features import WEIGHTS, build_backbone
from PIL import Image
from prepare_data import FILES, LABELS
from torch import Tensor, nn

from lightning_noisy.noise.synthetic import corrupt_labels, transition_matrix_from_spec

MNIST_NOISES = ("uniform:0", "uniform:0.3", "uniform:0.5", "uniform:0.7", "nonuniform:0.3", "nonuniform:0.5")
MNIST_NOISES += ("nonuniform:0.7", "pair:0.2", "pair:0.4")
GAUSSIAN_CLASSES = 100
IMAGES = 12_000
"""Training images of a cell that has more: what 2 CPU cores can repeat for all methods and seeds."""
VALIDATION_SHARE = 0.1


@dataclass
class Cell:
    """One situation with one seed. ``N`` training images as rows of features or pixels, ``K`` classes.

    Args:
        images: (N, ...) float32, already normalised.
        noisy_labels: (N,) what is trained on.
        clean_labels: (N,) the truth, for measuring alone.
        test_images: (M, ...).
        test_labels: (M,) clean.
        transition_matrix: (K, K) the true one; ``None`` where the noise depends on the image.
        network: Builds the network.
        epochs: Length of the training.
        learning_rate: Of AdamW, decayed to zero by a cosine.
        batch_size: Images in a step.
        augment: What changes the images (B, ...) of a training step by chance; ``None`` leaves them as they are.
    """

    images: Tensor
    noisy_labels: Tensor
    clean_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    transition_matrix: Tensor
    network: Callable[[], nn.Module]
    epochs: int
    learning_rate: float = 1e-3
    batch_size: int = 128
    augment: Callable[[Tensor], Tensor] | None = None

    @property
    def num_classes(self) -> int:
        return len(self.transition_matrix)

    def to(self, device: str) -> "Cell":
        """The same with its images and labels there."""
        names = ("images", "noisy_labels", "clean_labels", "test_images", "test_labels")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def hold_out(self, seed: int) -> tuple[Tensor, Tensor]:
        """Rows to train on, and rows whose noisy labels validate."""
        order = torch.randperm(len(self.images), generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
        size = int(len(order) * VALIDATION_SHARE)
        return order[size:], order[:size]


def mlp(inputs: int, hidden: list[int], outputs: int, batch_norm: bool = False) -> nn.Module:
    """Fully connected, ReLU; no hidden layer is a linear classifier."""
    layers: list[nn.Module] = [nn.Flatten()]
    for size in hidden:
        layers += [nn.Linear(inputs, size), *([nn.BatchNorm1d(size)] if batch_norm else []), nn.ReLU()]
        inputs = size
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def digits_cell(noise: str, seed: int, data_dir: Path, imbalanced: bool = False) -> Cell:
    """Handwritten digits of scikit-learn, 1,300 of them; ``imbalanced`` as :func:`keep_imbalanced` says."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels / 16, labels, test_size=497, random_state=seed, stratify=labels
    )
    if imbalanced:
        kept = keep_imbalanced(train_y, seed)
        train_x, train_y = train_x[kept], train_y[kept]
    arrays = _to_tensors(train_x, train_y, test_x, test_y)
    return _synthetic(arrays, noise, seed, partial(mlp, 64, [256, 256], 10), epochs=60)


def keep_imbalanced(labels: np.ndarray, seed: int) -> np.ndarray:
    """(N,) of ten classes -> which to keep, (N,): of class k a share that falls from 1 to 1/10."""
    return np.random.default_rng(seed).random(len(labels)) < 10 ** (-labels / 9)


def mnist_cell(noise: str, seed: int, data_dir: Path, imbalanced: bool = False) -> Cell:
    """MNIST and the network of the paper's re-implementation: two hidden layers of 512, 20 epochs, batches of 128."""
    train_x, train_y, *test = _mnist(data_dir)
    rows = torch.randperm(len(train_x), generator=torch.Generator().manual_seed(seed))[:IMAGES]
    if imbalanced:
        rows = rows[torch.from_numpy(keep_imbalanced(train_y[rows].numpy(), seed))]
    arrays = (train_x[rows], train_y[rows], *test)
    return _synthetic(arrays, noise, seed, partial(mlp, 784, [512, 512], 10), epochs=20)


def cifar_cell(labels: str, seed: int, data_dir: Path, hidden: tuple[int, ...] = ()) -> Cell:
    """Frozen features of a pretrained backbone and CIFAR-10N's labels; a linear head or an MLP.

    ``labels`` is a column of CIFAR-10N, or ``"worse-matrix"``: labels drawn with the transition matrix of ``worse``.
    """
    features = _cifar_features(data_dir)
    train, test = features["train"], features["test"]
    clean = features["clean"]
    noisy = features["worse" if labels == "worse-matrix" else labels]
    matrix = matrix_of(clean, noisy)
    if labels == "worse-matrix":
        noisy = torch.from_numpy(corrupt_labels(clean.numpy(), matrix, seed))
    rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:IMAGES]
    network = partial(mlp, train.shape[1], list(hidden), 10)
    parts = (train[rows], noisy[rows], clean[rows], test, features["test_clean"], matrix)
    return Cell(*parts, network=network, epochs=12)


def fine_tuning_cell(labels: str, seed: int, data_dir: Path, augmented: bool = False) -> Cell:
    """CIFAR-10N at 64 px, 6,000 images: the whole pretrained backbone is trained, 8 epochs of batches of 64.

    ``augmented`` shifts each image by up to an eighth of its side and mirrors half of them, anew in each epoch.
    """
    columns, read_train = _cifar_images(data_dir / FILES["cifar10n_train"])
    test_columns, read_test = _cifar_images(data_dir / FILES["cifar10_test"])
    rows = torch.randperm(len(columns["clean"]), generator=torch.Generator().manual_seed(seed))[:6000]
    test_rows = torch.arange(2000)
    clean, noisy = columns["clean"], columns[labels]
    return Cell(
        read_train(rows), noisy[rows], clean[rows], read_test(test_rows), test_columns["clean"][test_rows],
        matrix_of(clean, noisy), partial(_pretrained, data_dir / WEIGHTS), epochs=8, batch_size=64,
        augment=shift_and_mirror if augmented else None,
    )  # fmt: skip


def shift_and_mirror(images: Tensor) -> Tensor:
    """Each of (B, 3, H, W) shifted by up to an eighth of its side, the edge reflected, and mirrored or not."""
    batch, _, height, width = images.shape
    most = height // 8
    padded = F.pad(images.float(), (most, most, most, most), mode="reflect").to(images.dtype)
    rows = torch.randint(0, 2 * most + 1, (batch, 1), device=images.device)
    rows = rows + torch.arange(height, device=images.device)
    columns = torch.randint(0, 2 * most + 1, (batch, 1), device=images.device)
    columns = columns + torch.arange(width, device=images.device)
    is_mirrored = torch.rand(batch, 1, device=images.device) < 0.5
    columns = torch.where(is_mirrored, columns.flip(1), columns)
    number = torch.arange(batch, device=images.device)[:, None, None]
    return padded[number, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def gaussian_cell(noise: str, seed: int, data_dir: Path) -> Cell:
    """A hundred classes: Gaussian clouds around random centres in 64 dimensions, which overlap."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(GAUSSIAN_CLASSES, 64, generator=generator)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % GAUSSIAN_CLASSES
        return centres[labels] + 2.0 * torch.randn(count, 64, generator=generator), labels

    (train_x, train_y), (test_x, test_y) = draw(20_000), draw(5_000)
    return _synthetic((train_x, train_y, test_x, test_y), noise, seed, partial(mlp, 64, [256], 100), epochs=20)


CELLS: dict[str, Callable[[int, Path], Cell]] = {
    **{f"digits {noise}": partial(digits_cell, noise) for noise in MNIST_NOISES},
    "digits, imbalanced, uniform:0.5": partial(digits_cell, "uniform:0.5", imbalanced=True),
    **{f"mnist {noise}": partial(mnist_cell, noise) for noise in MNIST_NOISES},
    **{
        f"mnist, imbalanced, {noise}": partial(mnist_cell, noise, imbalanced=True)
        for noise in ("uniform:0", "uniform:0.5")
    },
    **{
        f"cifar10n {labels}, {head}": partial(cifar_cell, labels, hidden=hidden)
        for head, hidden in {"linear": (), "mlp": (256,)}.items()
        for labels in ("clean", "aggre", "random1", "worse", "worse-matrix")
    },
    **{
        f"cifar10n {labels}, fine-tuning{ending}": partial(fine_tuning_cell, labels, augmented=bool(ending))
        for ending in ("", ", augmented")
        for labels in ("clean", "worse")
    },
    **{f"100 clouds {noise}": partial(gaussian_cell, noise) for noise in ("uniform:0", "uniform:0.5", "pair:0.3")},
}


def _synthetic(
    arrays: tuple[Tensor, ...], noise: str, seed: int, network: Callable[[], nn.Module], epochs: int
) -> Cell:
    train_x, train_y, test_x, test_y = arrays
    matrix = transition_matrix_from_spec(noise, int(test_y.max()) + 1, seed)
    noisy = torch.from_numpy(corrupt_labels(train_y.numpy(), matrix, seed))
    return Cell(train_x, noisy, train_y, test_x, test_y, matrix, network, epochs)


def _to_tensors(train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray) -> tuple[Tensor, ...]:
    images = [torch.from_numpy(x).float() for x in (train_x, test_x)]
    labels = [torch.from_numpy(y).long() for y in (train_y, test_y)]
    return images[0], labels[0], images[1], labels[1]


def matrix_of(clean: Tensor, noisy: Tensor) -> Tensor:
    """(K, K) float64, the transition matrix that two columns of labels have, (N,) each."""
    counts = torch.zeros(10, 10, dtype=torch.float64)
    counts.index_put_((clean, noisy), torch.ones(len(clean), dtype=torch.float64), accumulate=True)
    return counts / counts.sum(dim=1, keepdim=True)


class _Scaled(nn.Module):
    """Bytes (B, 3, H, W) -> [-1, 1], what the pretrained backbone takes."""

    def forward(self, images: Tensor) -> Tensor:
        return images.float() / 127.5 - 1


def _pretrained(weights: Path) -> nn.Module:
    backbone = build_backbone(weights)
    return nn.Sequential(_Scaled(), backbone, nn.Linear(backbone.num_features, 10))


@cache
def _cifar_images(file: Path) -> tuple[dict[str, Tensor], Callable[[Tensor], Tensor]]:
    """Label columns, and what reads rows (N,) -> (N, 3, 64, 64) uint8."""
    with np.load(file, allow_pickle=False) as arrays:
        data, offset = arrays["jpeg"].tobytes(), arrays["offset"]
        columns = {name: torch.from_numpy(arrays[name].astype(np.int64)) for name in LABELS if name in arrays}

    def read(rows: Tensor) -> Tensor:
        images = [Image.open(io.BytesIO(data[offset[row] : offset[row + 1]])) for row in rows.tolist()]
        pixels = [np.asarray(image.convert("RGB").resize((64, 64), Image.BICUBIC)) for image in images]
        return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()

    return columns, read


@cache
def _mnist(data_dir: Path) -> tuple[Tensor, ...]:
    from lightning_noisy import NoisyImageDataModule

    splits = NoisyImageDataModule(f"idx:{data_dir / 'mnist'}", val_fraction=0.0).splits
    arrays: list[np.ndarray] = []
    for split in ("train", "test"):
        images = splits[split]
        pixels = np.stack([np.asarray(images.read(row).convert("L")) for row in range(len(images))])
        arrays += [(pixels / 255 - 0.1307) / 0.3081, images.noisy_labels]
    return _to_tensors(*arrays)


@cache
def _cifar_features(data_dir: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    path = data_dir / "cifar10n_features.safetensors"
    if not path.is_file():
        raise SystemExit(f"Expected {path}: write it by `python benchmarks/cifar_features.py --data-dir {data_dir}`.")
    features = load_file(path)
    mean, deviation = features["train"].float().mean(dim=0), features["train"].float().std(dim=0)
    return {
        name: (value.float() - mean) / deviation if name in ("train", "test") else value
        for name, value in features.items()
    }
