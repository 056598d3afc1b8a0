"""The images of an audit as cells of a table: paths, or the bytes of their files."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from lightning_noisy.audit.folder import AuditFolder

if TYPE_CHECKING:
    from lightning_noisy.data.labelled_images import LabelledImages


def check_files(rows: pa.Table) -> None:
    """Raises a :class:`ValueError` that names the first image whose file is gone; each row has a path."""
    for name, path in zip(rows["id"].to_pylist(), rows["path"].to_pylist(), strict=True):
        if not os.path.isfile(path):
            raise _vanished(name, f"{path!r} is not there")


def with_images(rows: pa.Table, audit: AuditFolder, embed: bool) -> pa.Table:
    """Rows of an audit with a column ``image`` as ``datasets.Image`` stores it: a path, or the bytes of a file.

    Args:
        rows: With the columns ``id``, ``path``, ``split`` and ``row``.
        audit: The audit.
        embed: Whether to take the bytes where there is a file, too.

    Raises:
        ValueError: If an image is gone.
    """
    cells: list[dict[str, Any]] = []
    for row in rows.select(["id", "path", "split", "row"]).to_pylist():
        path = row["path"]
        if path is None:
            cells.append({"bytes": _encoded(audit.splits, row["split"], row["row"], row["id"]), "path": None})
        elif embed:
            cells.append({"bytes": _content(row["id"], path), "path": os.path.basename(path)})
        else:
            cells.append({"bytes": None, "path": path})
    if not embed:
        check_files(rows.filter(pc.is_valid(rows["path"])))
    return rows.append_column("image", pa.array(cells, pa.struct({"bytes": pa.binary(), "path": pa.string()})))


def _content(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _vanished(name, error) from error


def _encoded(splits: "Mapping[str, LabelledImages]", split: str, row: int, name: str) -> bytes:
    images = splits.get(split)
    found = images.ids[row].as_py() if images is not None and 0 <= row < len(images) else None
    if images is None or found != name:
        place = f"{found!r} is there" if found is not None else "there is no such row"
        raise ValueError(
            f"Expected row {row} of the {split} images to be {name!r} as when the audit was made, but {place}. The "
            "images have changed since: run the audit again."
        )
    try:
        return images.encoded(row)
    except (OSError, ValueError) as error:
        raise _vanished(name, error) from error


def _vanished(name: str, why: object) -> ValueError:
    return ValueError(
        f"The image {name!r} can't be read any more ({why}). Put it back, or run the audit again without it."
    )
