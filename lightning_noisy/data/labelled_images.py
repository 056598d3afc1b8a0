"""A split of a data set: images that are read when they are needed, and their labels in small columns."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pyarrow as pa
from PIL import Image

from lightning_noisy.noise.functional import NO_LABEL


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
        soft_labels: (N, K), what is trained on in place of the given labels; rows sum to one.
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
        return bool((self.clean_labels != NO_LABEL).any())


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
