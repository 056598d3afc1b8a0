"""What a picture itself tells, before any network sees it: size, content, light, sharpness."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from PIL import Image, ImageFilter, ImageStat

from lightning_noisy.inference.parts import part_files

FACTS_SCHEMA = pa.schema(
    {
        "width": pa.int64(),
        "height": pa.int64(),
        "pixel_digest": pa.int64(),
        "thumbnail": pa.list_(pa.uint8(), 256),
        "mean_colour": pa.list_(pa.uint8(), 3),
        "brightest": pa.float32(),
        "darkest": pa.float32(),
        "entropy": pa.float32(),
        "edges": pa.float32(),
        "histogram_spread": pa.float32(),
    }
)
"""The columns of :func:`image_facts`."""
PERCEIVED = np.array([0.241, 0.691, 0.068], dtype=np.float32)
"""What red, green and blue count for brightness."""
SAMPLED_SIDE = 128
SMALL_SIDE = 64
THUMBNAIL_SIDE = 16


def image_facts(image: Image.Image) -> dict[str, Any]:
    """The facts of one RGB image; brightness, entropy and sharpness as CleanVision 0.3 measures them.

    ``width`` and ``height`` in pixels; ``pixel_digest``, the same for the same pixels; ``thumbnail``, 16 x 16 shades of
    grey; ``mean_colour``, red, green and blue; ``brightest`` and ``darkest``, the 99th and the 5th percentile of
    perceived brightness in [0, 1]; ``entropy`` of the grey histogram in bits; ``edges``, the standard deviation of the
    edges of the picture in grey at 64 pixels; ``histogram_spread``, that of the counts of its histogram there.
    """
    darkest, brightest = np.percentile(_brightness(image), (5, 99))
    grey = image.convert("L")
    small = grey.resize(_within(image.size, SMALL_SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return {
        "width": np.int64(image.width),
        "height": np.int64(image.height),
        "pixel_digest": _pixel_digest(image),
        "thumbnail": np.array(small.resize((THUMBNAIL_SIDE,) * 2, Image.Resampling.BILINEAR)).ravel(),
        "mean_colour": np.array(image.resize((1, 1), Image.Resampling.BOX, reducing_gap=3.0)).ravel(),
        "brightest": np.float32(brightest),
        "darkest": np.float32(darkest),
        "entropy": np.float32(grey.entropy()),
        "edges": np.float32(np.sqrt(ImageStat.Stat(small.filter(ImageFilter.FIND_EDGES)).var[0])),
        "histogram_spread": np.float32(np.std(small.histogram())),
    }


def facts_arrays(table: pa.Table) -> dict[str, np.ndarray]:
    """Columns of :data:`FACTS_SCHEMA` in memory, (N,) each; lists are (N, L)."""
    arrays = {}
    for name in FACTS_SCHEMA.names:
        column = table[name].combine_chunks()
        is_list = pa.types.is_fixed_size_list(column.type)
        arrays[name] = (
            column.flatten().to_numpy().reshape(len(table), column.type.list_size) if is_list else column.to_numpy()
        )
    return arrays


def _brightness(image: Image.Image) -> np.ndarray:
    """Of some thousand pixels of the image, in [0, 1]."""
    sampled = image.resize(_within(image.size, SAMPLED_SIDE), Image.Resampling.NEAREST)
    return np.sqrt(np.square(np.asarray(sampled, dtype=np.float32)) @ PERCEIVED) / 255


def _pixel_digest(image: Image.Image) -> np.int64:
    digest = hashlib.blake2b(f"{image.width} {image.height} ".encode(), digest_size=8)
    digest.update(image.tobytes())
    return np.frombuffer(digest.digest(), dtype="<i8")[0].astype(np.int64)


def _within(size: tuple[int, int], side: int) -> tuple[int, int]:
    """The size at which the longer side is at most ``side``."""
    ratio = max(max(size) / side, 1.0)
    return max(int(size[0] // ratio), 1), max(int(size[1] // ratio), 1)


def read_facts(directory: Path) -> pa.Table:
    """The facts in the parts of a pass, in the order of the positions of the images."""
    columns = ["position", *FACTS_SCHEMA.names]
    tables = [pyarrow.parquet.read_table(path, columns=columns, partitioning=None) for path in part_files(directory)]
    table = (
        pa.concat_tables(tables)
        if tables
        else pa.schema([pa.field("position", pa.int64()), *FACTS_SCHEMA]).empty_table()
    )
    return table.take(pc.sort_indices(table["position"])).drop_columns(["position"])
