"""The table of features as it lies in its folder: one tensor, one row an image, and what each row is of."""

import json
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lightning_noisy.inference.facts import FACTS_SCHEMA
from lightning_noisy.utils.atomic_files import atomic_path, write_table, write_text

FEATURES_FILE = "features.safetensors"
IMAGES_FILE = "images.parquet"
INFO_FILE = "features.json"
FEATURE_FILES = (INFO_FILE, FEATURES_FILE, IMAGES_FILE)
"""The first is written last: it says that the others are whole."""
TENSOR = "features"
FORMAT_VERSION = 2
IMAGES_SCHEMA = pa.schema([pa.field("id", pa.string()), *FACTS_SCHEMA])


@dataclass(frozen=True)
class Features:
    """``N`` images as a frozen backbone sees them.

    Args:
        values: (N, D) float16, mapped from its file: only what is looked at is read.
        ids: The N ids of the images.
        facts: N rows of :data:`~lightning_noisy.inference.facts.FACTS_SCHEMA`, what the pictures themselves tell.
        info: What they were made by: ``backbone``, ``data_config``, ``precision``, and ``key``, which changes with all
            that the features depend on.
    """

    values: Tensor
    ids: pa.StringArray
    facts: pa.Table
    info: dict[str, Any]

    def __len__(self) -> int:
        return len(self.values)

    def rows_of(self, ids: pa.StringArray) -> np.ndarray:
        """(M,) int64, the row of each of some images; -1 where there is none, as of a broken image."""
        return pc.fill_null(pc.index_in(ids, value_set=self.ids), -1).to_numpy().astype(np.int64)


def read_features(directory: str | Path) -> Features:
    """What :func:`~lightning_noisy.features.extract.extract_features` wrote.

    Raises:
        ValueError: If there are no finished features.
    """
    folder = Path(directory).expanduser()
    if not (folder / INFO_FILE).is_file():
        raise ValueError(
            f"Expected argument `features` to be a folder that `lightning-noisy features` has written to its end, but "
            f"{str(directory)!r} has no {INFO_FILE}."
        )
    try:
        info = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
        if info.pop("format_version") != FORMAT_VERSION:
            raise ValueError("they are of another version")
        images = pyarrow.parquet.read_table(folder / IMAGES_FILE, partitioning=None).cast(IMAGES_SCHEMA)
        with safe_open(folder / FEATURES_FILE, framework="pt") as file:
            values = file.get_tensor(TENSOR)
        if len(values) != len(images):
            raise ValueError(f"there are {len(values)} features of {len(images)} images")
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError, pa.ArrowException) as error:
        raise ValueError(
            f"Expected {str(directory)!r} to hold features, but they can't be read ({error}). Remove the folder, and "
            "make them again."
        ) from error
    return Features(values, images["id"].combine_chunks(), images.drop_columns(["id"]), info)


def write_features(
    directory: Path,
    images: pa.Table,
    size: int,
    parts: Iterable[tuple[np.ndarray, np.ndarray]],
    info: dict[str, Any],
) -> None:
    """Writes the table; only one part is in memory at a time.

    Args:
        directory: Its folder.
        images: N rows, the id and the facts of each image.
        size: Number of features ``D``.
        parts: Rows (M,) and their features (M, D) float16, each row once.
        info: As of :class:`Features`.
    """
    with atomic_path(directory / FEATURES_FILE) as temporary:
        values = _new_tensor_file(temporary, (len(images), size))
        for rows, part in parts:
            values[rows] = part
        values.flush()
        del values
    write_table(directory / IMAGES_FILE, images.cast(IMAGES_SCHEMA))
    write_text(directory / INFO_FILE, json.dumps({"format_version": FORMAT_VERSION, **info}, indent=1))


def _new_tensor_file(path: Path, shape: tuple[int, int]) -> np.memmap:
    """A safetensors file with one float16 tensor that is filled afterwards; the library wants it in memory whole.

    The format: the length of the header (8 bytes), the header, the tensor's bytes.
    """
    size = 2 * shape[0] * shape[1]
    entry = {TENSOR: {"dtype": "F16", "shape": list(shape), "data_offsets": [0, size]}}
    header = json.dumps(entry, separators=(",", ":")).encode()
    header += b" " * (-(8 + len(header)) % 64)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        if hasattr(os, "posix_fallocate"):  # so that a full disk is an error here, not a signal later
            os.posix_fallocate(file.fileno(), 0, 8 + len(header) + size)
        file.truncate(8 + len(header) + size)
    return np.memmap(path, dtype=np.float16, mode="r+", offset=8 + len(header), shape=shape)
