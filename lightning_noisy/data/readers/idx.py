"""Files in the format of MNIST."""

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lightning_noisy.data.image_stores import ArrayStore
from lightning_noisy.data.readers.base import RawSplit


def read_idx(root: Path, argument: str) -> dict[str, RawSplit]:
    """The images and labels of ``train-*-ubyte`` and, where they are there, ``t10k-*-ubyte``; gzipped or not.

    Args:
        root: Their folder.
        argument: The user's name for the source, for messages.

    Raises:
        ValueError: If files are missing or broken.
    """
    splits = {}
    for split, prefix in {"train": "train", "test": "t10k"}.items():
        images, labels = (_find_idx(root, f"{prefix}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
        if images is None or labels is None:
            if split == "train":
                raise ValueError(
                    f"Expected argument `{argument}` to name a folder with MNIST-style files 'train-images-idx3-ubyte' "
                    f"and 'train-labels-idx1-ubyte' (or .gz), but {str(root)!r} does not hold both."
                )
            continue
        pixels, numbers = _read_idx(images), _read_idx(labels)
        if len(pixels) != len(numbers):
            raise ValueError(f"{images.name!r} holds {len(pixels)} images, but {labels.name!r} {len(numbers)} labels.")
        splits[split] = RawSplit(
            store=ArrayStore(pixels),
            ids=pa.array([f"{split}/{row}" for row in range(len(numbers))]),
            labels=pa.array(numbers.astype(np.int64)),
            is_clean=True,
            where=str(root),
        )
    return splits


def _find_idx(root: Path, name: str) -> Path | None:
    candidates: Sequence[Path] = [root / name, root / f"{name}.gz", root / name.replace("-idx", ".idx")]
    return next((path for path in candidates if path.is_file()), None)


def _read_idx(path: Path) -> np.ndarray:
    """Reads unsigned bytes in the idx format: two zero bytes, the type, the number of dimensions, then each size."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise ValueError(f"{str(path)!r} can't be read as an idx file: {error}.") from error
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise ValueError(f"{str(path)!r} is no idx file of unsigned bytes: it starts with {data[:4]!r}.")
    dimensions = data[3]
    shape: Any = np.frombuffer(data, ">u4", count=dimensions, offset=4).astype(int)
    if len(data) != 4 + 4 * dimensions + shape.prod():
        raise ValueError(
            f"{str(path)!r} is truncated: its header promises {shape.prod()} values, but they are not there."
        )
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
