"""Where images lie: in files, in arrays, in a ``datasets`` table."""

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps


class FileStore:
    """Image files below one folder.

    Args:
        root: The folder.
        paths: Of each row, relative to ``root`` or absolute; bytes where a name is not UTF-8.
    """

    needs_scan = True

    def __init__(self, root: Path, paths: pa.StringArray | pa.BinaryArray) -> None:
        self.root = root
        self.paths = paths

    def read(self, row: int) -> Image.Image:
        with Image.open(self._file(row)) as image:
            return to_rgb(image)

    def path(self, row: int) -> str | None:
        return _text_path(self._file(row))

    def encoded(self, row: int) -> bytes:
        return self._file(row).read_bytes()

    def fingerprint(self, rows: np.ndarray) -> str:
        digest = hashlib.sha256()
        for row in rows.tolist():
            path = self._file(row)
            digest.update(os.fsencode(path))
            if path.is_file():
                status = path.stat()
                digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
        return digest.hexdigest()

    def _file(self, row: int) -> Path:
        return self.root / os.fsdecode(self.paths[row].as_py())


class ArrayStore:
    """Grey or RGB images in memory: (N, H, W) or (N, H, W, 3), uint8."""

    needs_scan = False

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def read(self, row: int) -> Image.Image:
        return Image.fromarray(self.pixels[row]).convert("RGB")

    def path(self, row: int) -> None:
        return None

    def encoded(self, row: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(self.pixels[row]).save(file, "PNG")
        return file.getvalue()

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
        data, path = _cell(self.dataset[row][self.column])
        return _text_path(self.root / path) if data is None and isinstance(path, str) else None

    def encoded(self, row: int) -> bytes:
        data, path = _cell(self.dataset[row][self.column])
        if data is None and path is None:
            raise ValueError("there is no image in this row")
        return (self.root / str(path)).read_bytes() if data is None else data

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
    data, path = _cell(value)
    if data is None and (path is None or root is None):
        raise ValueError("there is no image in this row")
    with Image.open(Path(str(root)) / str(path) if data is None else io.BytesIO(data)) as image:
        return to_rgb(image)


def _cell(value: Any) -> tuple[bytes | None, Any]:
    """The bytes and the path that a cell of a table has."""
    if isinstance(value, dict):
        return value.get("bytes"), value.get("path")
    return (value, None) if isinstance(value, bytes) else (None, value)


def _text_path(path: Path) -> str | None:
    """The absolute path, unless it is not UTF-8: then no table and no log can hold it."""
    absolute = os.path.abspath(path)
    return absolute if is_utf8(absolute) else None


def is_utf8(path: str) -> bool:
    """Whether a path as Python gives it is text; bytes that are not UTF-8 come as lone surrogates."""
    return path.isascii() or not any("\ud800" <= character <= "\udfff" for character in path)


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
