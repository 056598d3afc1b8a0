"""Where images lie: in files, in arrays, in a ``datasets`` table."""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps


class FileStore:
    """Image files below one folder.

    Args:
        root: The folder.
        paths: Of each row, relative to ``root`` or absolute.
    """

    needs_scan = True

    def __init__(self, root: Path, paths: pa.StringArray) -> None:
        self.root = root
        self.paths = paths

    def read(self, row: int) -> Image.Image:
        with Image.open(self.root / self.paths[row].as_py()) as image:
            return to_rgb(image)

    def path(self, row: int) -> str:
        return str(self.root / self.paths[row].as_py())

    def fingerprint(self, rows: np.ndarray) -> str:
        digest = hashlib.sha256()
        for row in rows.tolist():
            path = self.root / self.paths[row].as_py()
            digest.update(str(path).encode())
            if path.is_file():
                status = path.stat()
                digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
        return digest.hexdigest()


class ArrayStore:
    """Grey or RGB images in memory: (N, H, W) or (N, H, W, 3), uint8."""

    needs_scan = False

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def read(self, row: int) -> Image.Image:
        return Image.fromarray(self.pixels[row]).convert("RGB")

    def path(self, row: int) -> None:
        return None

    def fingerprint(self, rows: np.ndarray) -> str:
        return hashlib.sha256(self.pixels[rows].tobytes()).hexdigest()


class DatasetStore:
    """The image column of a ``datasets.Dataset``, read row by row from its memory-mapped Arrow file.

    Args:
        dataset: The data set.
        column: Of ``datasets.Image``, of bytes, or of paths.
        root: What relative paths are relative to.
    """

    needs_scan = True

    def __init__(self, dataset: Any, column: str, root: Path | None = None) -> None:
        import datasets

        feature = dataset.features[column]
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
        self.dataset = dataset.select_columns([column])
        self.column = column
        self.root = root or Path()

    def read(self, row: int) -> Image.Image:
        return decode_value(self.dataset[row][self.column], self.root)

    def path(self, row: int) -> str | None:
        value = self.dataset[row][self.column]
        path = value.get("path") if isinstance(value, dict) else value
        return path if isinstance(path, str) else None

    def fingerprint(self, rows: np.ndarray) -> str:
        return hashlib.sha256(self.dataset._fingerprint.encode() + rows.tobytes()).hexdigest()


def decode_value(value: Any, root: Path | None = None) -> Image.Image:
    """The image in a cell of a table: bytes, a path, or a struct of both; RGB.

    Args:
        value: The cell.
        root: What relative paths are relative to; without it the bytes must be there.

    Raises:
        ValueError: If the cell is empty.
    """
    data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (None, value)
    if isinstance(value, bytes):
        data = value
    if data is None and (path is None or root is None):
        raise ValueError("there is no image in this row")
    with Image.open(Path(str(root)) / str(path) if data is None else io.BytesIO(data)) as image:
        return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Decodes an image that was just opened into RGB: upright, transparency on white, 16-bit grey scaled to 8 bits."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image, dtype=np.float32)
        scale = 255 / 65535 if values.max(initial=0) > 255 else 1.0
        image = Image.fromarray((values * scale).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
