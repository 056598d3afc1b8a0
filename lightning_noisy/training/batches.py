"""A batch of images and their labels, in the forms in which people's loaders give it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_noisy.image_batch import ImageBatch

IMAGE_KEYS = ("pixel_values", "images", "image")
LABEL_KEYS = ("noisy_labels", "labels", "label")


def as_image_batch(batch: Any, needs_labels: bool = True) -> ImageBatch:
    """An :class:`~lightning_noisy.image_batch.ImageBatch` from what a loader gave.

    Args:
        batch: An :class:`~lightning_noisy.image_batch.ImageBatch`; a mapping with images as ``pixel_values``,
            ``images`` or ``image`` and labels as ``labels``, ``label`` or ``noisy_labels``; or a tuple, named or not,
            or a list whose first two are images and labels. Images are (B, C, H, W) and floating, labels (B,) and
            integers.
        needs_labels: Whether a batch of images alone is a mistake; otherwise its labels are -1.

    Raises:
        ValueError: If it is something else.
    """
    if isinstance(batch, ImageBatch):
        return batch
    images, labels = _images_and_labels(batch)
    if labels is None and not needs_labels and isinstance(images, Tensor):
        labels = torch.full((len(images),), -1, device=images.device)
    _batch_validation(batch, images, labels)
    return ImageBatch(images, labels.long(), None, [])


def _images_and_labels(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, Mapping):
        return tuple(next((batch[key] for key in keys if key in batch), None) for keys in (IMAGE_KEYS, LABEL_KEYS))  # type: ignore[return-value]
    if isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch):
        return batch[0], batch[1] if len(batch) > 1 else None
    return batch, None


def _batch_validation(batch: Any, images: Any, labels: Any) -> None:
    is_right = (
        isinstance(images, Tensor)
        and images.ndim == 4
        and images.is_floating_point()
        and isinstance(labels, Tensor)
        and labels.shape == images.shape[:1]
        and not labels.is_floating_point()
    )
    if not is_right:
        raise ValueError(
            "Expected a batch to be images (B, C, H, W) of floats and labels (B,) of integers, as a tuple or as a dict "
            f"with one of the keys {list(IMAGE_KEYS)} and one of {list(LABEL_KEYS)}, but got {_describe(batch)}. Let "
            "the loader's `collate_fn` give that, or take NoisyImageDataModule."
        )


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return "a dict of " + (", ".join(f"{key!r}: {_describe(part)}" for key, part in value.items()) or "nothing")
    if isinstance(value, list | tuple):
        parts = ", ".join(_describe(part) for part in value[:3])
        return f"a {type(value).__name__} of {parts}{', ...' if len(value) > 3 else ''}"
    return type(value).__name__
