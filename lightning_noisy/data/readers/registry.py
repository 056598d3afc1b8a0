"""From a source's name to the reader of its kind."""

import re
from dataclasses import replace
from pathlib import Path

from lightning_noisy.data.readers.base import Columns, RawSplit
from lightning_noisy.data.readers.digits import read_digits
from lightning_noisy.data.readers.folder import read_folder
from lightning_noisy.data.readers.idx import read_idx
from lightning_noisy.data.readers.published import READERS, read_published
from lightning_noisy.data.readers.table_paths import URL
from lightning_noisy.data.readers.tables import is_saved_dataset, read_hub, read_manifest


def read_source(
    source: str, columns: Columns, seed: int, argument: str = "source", on_empty_class: str = "error"
) -> dict[str, RawSplit]:
    """The splits (``train``, ``val``, ``test``) that a source has.

    Args:
        source: ``"digits"``, a folder, a manifest file, ``"hub:NAME"``, ``"idx:DIR"`` or a published data set.
        columns: Column names for tables.
        seed: Seeds the split of ``"digits"``.
        argument: The user's name for the source, for messages.
        on_empty_class: ``"error"``, or ``"skip"`` to leave out class folders without images.

    Raises:
        ValueError: If the source does not exist or can't be read.
    """
    if not isinstance(source, str | Path) or not str(source):
        raise ValueError(f"Expected argument `{argument}` to be {_KINDS}, but got {source!r}.")
    kind, _, rest = str(source).partition(":")
    if source == "digits":
        return read_digits(seed)
    if kind == "idx" and rest:
        return read_idx(Path(rest).expanduser(), argument)
    if kind == "hub" and rest:
        return read_hub(rest, columns, argument)
    if kind in READERS and rest:
        return read_published(kind, Path(rest).expanduser(), argument)
    if re.match(URL, str(source)):
        raise ValueError(
            f"Expected argument `{argument}` to be {_KINDS}, but got the URL {str(source)!r}. Download it first, or "
            "stream shards of images by `StreamingImageDataModule`."
        )
    path = Path(source).expanduser()
    if path.is_dir():
        if is_saved_dataset(path):
            return read_hub(str(path), columns, argument)
        return read_folder(path, columns, argument, on_empty_class)
    if path.is_file():
        return read_manifest(path, columns, argument)
    raise ValueError(f"Expected argument `{argument}` to be {_KINDS}, but {str(source)!r} does not exist.")


def read_other_source(split: str, source: str, columns: Columns, seed: int, on_empty_class: str = "error") -> RawSplit:
    """What the arguments ``val_source`` and ``test_source`` name: the images of one split.

    Raises:
        ValueError: If the source can't be read, or has several splits and none of this name.
    """
    found = read_source(source, replace(columns, strict=False), seed, f"{split}_source", on_empty_class)
    if split not in found and len(found) > 1:
        raise ValueError(
            f"Expected argument `{split}_source` to name images for one split, but {source!r} has the splits "
            f"{sorted(found)} and no {split!r}. Name the folder or the file of one of them."
        )
    return found.get(split) or next(iter(found.values()))


_KINDS = (
    "'digits', a folder, a manifest file (.csv, .tsv, .parquet, .jsonl), 'hub:NAME', 'idx:DIR' or a published data set "
    "('clothing1m:DIR', 'food101n:DIR', 'food101:DIR', 'webvision:DIR', 'mini-webvision:DIR', 'animal10n:DIR')"
)
