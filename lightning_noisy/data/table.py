"""A split of a data set: images that are read when they are needed, and their labels in small columns."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

UNKNOWN = -1
"""The clean label of an image whose clean label nobody knows, and both labels of one that no metric counts."""


class ImageStore(Protocol):
    """Where the images of a source lie; rows are numbered from 0."""

    needs_scan: bool

    def read(self, row: int) -> Image.Image:
        """The decoded image, RGB."""

    def path(self, row: int) -> str | None:
        """The absolute path of its file, where it has one of its own whose name is text."""

    def encoded(self, row: int) -> bytes:
        """The image as the bytes of a file: its own as they are, or PNG."""

    def fingerprint(self, rows: np.ndarray) -> str:
        """A text that changes when the images of these rows change."""


@dataclass(frozen=True)
class LabelledImages:
    """``N`` images with their labels; columns, so that a million rows stay small and forked workers share them.

    Args:
        ids: N strings, each stable from run to run and unique.
        noisy_labels: (N,) int64, the given labels.
        clean_labels: (N,) int64, -1 where unknown.
        class_names: The K names.
        store: Reads the images.
        rows: (N,) int64, the store's row of each image.
        weights: (N,) float32, what each image weighs in the training loss; ``None`` is one.
        soft_labels: (N, K), what is trained on in the place of the given labels; rows sum to one.
    """

    ids: pa.StringArray
    noisy_labels: np.ndarray
    clean_labels: np.ndarray
    class_names: list[str]
    store: ImageStore
    rows: np.ndarray
    weights: np.ndarray | None = None
    soft_labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.noisy_labels)

    def read(self, index: int) -> Image.Image:
        """The image, decoded, RGB."""
        return self.store.read(int(self.rows[index]))

    def path(self, index: int) -> str | None:
        """The image's file, where it has one of its own."""
        return self.store.path(int(self.rows[index]))

    def encoded(self, index: int) -> bytes:
        """The image as the bytes of a file."""
        return self.store.encoded(int(self.rows[index]))

    def select(self, indices: np.ndarray) -> "LabelledImages":
        """The images at ``indices``, in their order."""
        return replace(
            self,
            ids=self.ids.take(pa.array(indices, pa.int64())),
            noisy_labels=self.noisy_labels[indices],
            clean_labels=self.clean_labels[indices],
            rows=self.rows[indices],
            weights=None if self.weights is None else self.weights[indices],
            soft_labels=None if self.soft_labels is None else self.soft_labels[indices],
        )

    @property
    def has_clean_labels(self) -> bool:
        """Whether the clean label of at least one image is known."""
        return bool((self.clean_labels != UNKNOWN).any())


@dataclass
class ImageBatch:
    """A batch; unpacks into ``images, noisy_labels``.

    Args:
        images: (B, 3, H, W) float32, normalised.
        noisy_labels: (B,) int64, the given labels.
        clean_labels: (B,) int64, -1 where unknown; ``None`` where the split has none.
        ids: B strings.
        weights: (B,) float32, what each image weighs in the training loss; ``None`` where the data have no weights.
        soft_labels: (B, K) float32, what to train on in the place of ``noisy_labels``; ``None`` where that is those.
    """

    images: Tensor
    noisy_labels: Tensor
    clean_labels: Tensor | None
    ids: list[str]
    weights: Tensor | None = None
    soft_labels: Tensor | None = None

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.images, self.noisy_labels))

    def __len__(self) -> int:
        return len(self.noisy_labels)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "ImageBatch":
        """The same batch on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "ImageBatch":
        """The same batch in page-locked memory."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "ImageBatch":
        return ImageBatch(
            change(self.images),
            change(self.noisy_labels),
            None if self.clean_labels is None else change(self.clean_labels),
            self.ids,
            None if self.weights is None else change(self.weights),
            None if self.soft_labels is None else change(self.soft_labels),
        )


def unique_ids(names: Sequence[str] | pa.Array) -> pa.StringArray:
    """The names as ids: the second ``a.jpg`` becomes ``a.jpg#2``."""
    ids = names.cast(pa.string()) if isinstance(names, pa.Array) else pa.array(names, pa.string())
    if len(ids.unique()) == len(ids):
        return ids
    seen: dict[str, int] = {}
    unique = []
    for name in ids.to_pylist():
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return pa.array(unique, pa.string())
