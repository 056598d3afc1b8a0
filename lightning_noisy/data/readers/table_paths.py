"""Paths of images as tables hold them: written on Windows, or URLs."""

import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

URL = r"^[A-Za-z][A-Za-z0-9+.-]+://"
WINDOWS_ROOT = r"^([A-Za-z]:[\\/]|\\\\)"


def usable_paths(paths: pa.StringArray, root: Path, where: str, column: str) -> pa.StringArray:
    r"""The paths as this machine writes them: ``img\0.png`` is ``img/0.png`` where only that file is there.

    Args:
        paths: N paths, relative to ``root`` or absolute.
        root: The table's folder.
        where: The table's name for messages.
        column: The column's name for messages.

    Raises:
        ValueError: If one is a URL, or starts with a drive of another machine.
    """
    check_no_urls(paths, where, column)
    if os.sep == "\\":
        return paths
    row = _first_match(paths, WINDOWS_ROOT)
    if row is not None:
        raise ValueError(
            f"Expected the paths of {where!r} to lie on this machine, but row {row} has {paths[row].as_py()!r} in "
            f"column {column!r}, a path of Windows. Write the paths relative to the table's folder."
        )
    if not pc.any(pc.match_substring(paths, "\\")).as_py():
        return paths
    return pa.array([_with_slashes(root, path) for path in paths.to_pylist()], pa.string())


def check_no_urls(paths: pa.Array, where: str, column: str) -> None:
    """Raises a :class:`ValueError` that names the first path that is a URL."""
    row = _first_match(paths, URL)
    if row is not None:
        raise ValueError(
            f"Expected the images of {where!r} to be files, but row {row} has the URL {paths[row].as_py()!r} in column "
            f"{column!r}. Download the images first (img2dataset does it for a whole table) and give their paths, or "
            "stream shards of them by `StreamingImageDataModule`."
        )


def _first_match(paths: pa.Array, pattern: str) -> int | None:
    rows = np.flatnonzero(pc.fill_null(pc.match_substring_regex(paths, pattern), False).to_numpy(zero_copy_only=False))
    return int(rows[0]) if len(rows) else None


def _with_slashes(root: Path, path: str) -> str:
    if "\\" not in path or (root / path).exists():
        return path
    with_slashes = re.sub(r"\\+", "/", path)
    return with_slashes if (root / with_slashes).exists() else path
