"""Where the images of an audit come from, and reading them again."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from lightning_noisy.inference.images import unique_over_splits

if TYPE_CHECKING:
    from lightning_noisy.audit.label_audit import LabelAudit
    from lightning_noisy.data.datamodule import NoisyImageDataModule
    from lightning_noisy.data.table import LabelledImages


def describe_source(datamodule: Any) -> dict[str, Any]:
    """The arguments of :class:`NoisyImageDataModule` that give the same images in the same splits and rows again.

    Paths are absolute, all values are JSON's, and what is at its default is left out. A data module of another kind
    can't be described: that is an empty dict.
    """
    from lightning_noisy.data.datamodule import NoisyImageDataModule

    if not isinstance(datamodule, NoisyImageDataModule):
        return {}
    columns = datamodule.columns
    arguments = {
        "source": _absolute_source(datamodule.source),
        "label_column": columns.label,
        "clean_label_column": columns.clean_label,
        "id_column": columns.id,
        "image_column": columns.image,
        "split_column": columns.split,
        "class_names": datamodule.given_class_names and [str(name) for name in datamodule.given_class_names],
        "val_source": _absolute_source(datamodule.other_sources["val"]),
        "test_source": _absolute_source(datamodule.other_sources["test"]),
        "noise": _absolute_source(datamodule.noise, kinds=("matrix",)) if datamodule.noise else None,
        "max_train_images": datamodule.max_train_images,
        "merge_similar_classes": datamodule.merge_similar_classes or None,
        "on_empty_class": None if datamodule.on_empty_class == "error" else datamodule.on_empty_class,
    }
    drawn = {"val_fraction": datamodule.val_fraction, "seed": datamodule.seed, "on_broken": datamodule.on_broken}
    return {name: value for name, value in arguments.items() if value is not None} | drawn


def read_again(source: Mapping[str, Any]) -> "dict[str, LabelledImages]":
    """The splits that :func:`describe_source` describes.

    Raises:
        ValueError: If nothing is described, or the images are no longer there.
    """
    if not source:
        raise ValueError(
            "This audit does not say where its images come from, and so they can't be read again: make it from a "
            "`NoisyImageDataModule`."
        )
    from lightning_noisy.data.datamodule import NoisyImageDataModule  # the images of files are read without it

    try:
        return unique_over_splits(NoisyImageDataModule(**source).splits)
    except (ValueError, TypeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"The images of this audit can't be read again from where they lay: {reason}") from error


def left_out(datamodule: "NoisyImageDataModule", audited: Sequence[str]) -> list[str]:
    """What the data hold beside the audited images and their labels, in words."""
    words = {"val": "the validation images, whose labels were checked", "test": "the test images"}
    found = [words[split] for split in ("val", "test") if split in datamodule.splits and split not in audited]
    if datamodule.splits["train"].weights is not None:
        found.append("the weights of the training images")
    if datamodule.noise is None and any(datamodule.splits[split].has_clean_labels for split in audited):
        found.append("the clean labels")
    return found


def images_of(audit: "LabelAudit") -> "dict[str, LabelledImages]":
    """The splits that the rows of an audit are about: those at hand, else read again, once.

    Raises:
        ValueError: If the images are no longer there.
    """
    if audit._splits is None:
        audit._splits = read_again(audit.summary.source)
    return audit._splits


def check_files(rows: pa.Table) -> None:
    """Raises a :class:`ValueError` that names the first image whose file is gone; each row has a path."""
    for name, path in zip(rows["id"].to_pylist(), rows["path"].to_pylist(), strict=True):
        if not os.path.isfile(path):
            raise _vanished(name, f"{path!r} is not there")


def with_images(rows: pa.Table, audit: "LabelAudit", embed: bool) -> pa.Table:
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
            cells.append({"bytes": _encoded(images_of(audit), row["split"], row["row"], row["id"]), "path": None})
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


def _absolute_source(source: str | None, kinds: tuple[str, ...] | None = None) -> str | None:
    from lightning_noisy.data.published import READERS

    kinds = kinds or ("idx", "hub", *READERS)
    if source is None or source == "digits":
        return source
    kind, colon, rest = source.partition(":")
    if not (colon and rest and kind in kinds):
        return source if kinds == ("matrix",) else _absolute(source)
    if kind == "hub" and not Path(rest).expanduser().is_dir():
        return source
    return f"{kind}:{_absolute(rest)}"


def _absolute(path: str) -> str:
    return os.path.abspath(Path(path).expanduser())
