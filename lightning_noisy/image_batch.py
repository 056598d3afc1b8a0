"""A batch of images and labels: what every loader of this package gives, and every training takes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class ImageBatch:
    """A batch; unpacks into ``images, noisy_labels``.

    Args:
        images: (B, 3, H, W) float32, normalised.
        noisy_labels: (B,) int64, the given labels.
        clean_labels: (B,) int64, -1 where unknown; ``None`` where the split has none.
        ids: B strings.
        weights: (B,) float32, what each image weighs in the training loss; ``None`` where the data have no weights.
        soft_labels: (B, K) float32, what to train on in place of ``noisy_labels``; ``None`` where that is those.
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
