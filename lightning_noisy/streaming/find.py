"""Shards: files that hold many images each and are read from front to back by ``datasets``."""

import gc
import glob
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import fsspec.core

from lightning_noisy.data.readers.tables import is_saved_dataset
from lightning_noisy.streaming.layout import Layout
from lightning_noisy.utils.text import first_line

KINDS = {".parquet": "parquet", ".tar": "webdataset"}
"""The suffix of a shard, and the builder of ``datasets`` that reads it."""
ROWS_AT_ONCE = 16
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
HTTP = ("http://", "https://")


def names_shards(source: str) -> bool:
    """Whether a source of images for evaluation is one of shards; a single local table is a manifest."""
    if source.startswith("hub:"):
        name = source.removeprefix("hub:")
        return not is_saved_dataset(Path(name).expanduser()) and _hub_has_shards(name)
    if "://" in source or source.endswith(".tar") or RANGE.search(source):
        return True
    path = Path(source).expanduser()
    if path.is_dir():
        return not is_saved_dataset(path) and any(file.suffix in KINDS for file in path.iterdir())
    return not path.exists() and glob.has_magic(source)


def find_shards(source: str, argument: str) -> dict[str, list[str]]:
    """The shards of each split, in the order of their names.

    Args:
        source: A folder, a file, a glob or a URL, in which ``{000..099}`` stands for all these numbers; all of it is
            ``train`` then. ``"hub:NAME"`` or ``"hub:NAME:CONFIG"`` has the splits of the Hub's data set.
        argument: The user's name for the source, for messages.

    Raises:
        ValueError: If there are none, or of both kinds.
    """
    expected = (
        f"Expected argument `{argument}` to name shards (.parquet or .tar) by a folder, a glob, a URL or 'hub:NAME'"
    )
    try:
        splits = _hub_files(source.removeprefix("hub:")) if source.startswith("hub:") else {"train": _files(source)}
    except Exception as error:  # file systems, the network and `datasets` raise many kinds
        raise ValueError(f"{expected}, but {source!r} can't be read: {first_line(error)}") from error
    found = {split: [url for url in urls if suffix_of(url) in KINDS] for split, urls in splits.items()}
    for split, urls in found.items():
        suffixes = sorted({suffix_of(url) for url in urls})
        if len(suffixes) > 1:
            raise ValueError(
                f"{expected}, all of one kind, but {source!r} ({split}) has both {' and '.join(suffixes)}."
            )
    found = {split: sorted(urls) for split, urls in found.items() if urls}
    if not found:
        raise ValueError(f"{expected}, but there are none in {source!r}.")
    return found


def suffix_of(url: str) -> str:
    """``".tar"`` of ``"https://host/0.tar?key=1"``."""
    return Path(url.partition("?")[0] if url.startswith(HTTP) else url).suffix


def shard_name(url: str) -> str:
    """The file's name without its folder, for messages and ids."""
    return (url.partition("?")[0] if url.startswith(HTTP) else url).rpartition("/")[2]


def read_rows(url: str, layout: Layout, skip: int = 0) -> Iterator[dict[str, Any]]:
    """The rows of a shard behind the first ``skip``, images undecoded; few at a time are held in memory."""
    from datasets.data_files import DataFilesDict, DataFilesList
    from datasets.packaged_modules.parquet.parquet import Parquet
    from datasets.packaged_modules.webdataset.webdataset import WebDataset

    # `load_dataset` asks the Hub and the shard's server some things each time, which no shard should wait for.
    file = {"data_files": DataFilesDict(train=DataFilesList([url], [()])), "features": layout.features}
    names = list(layout.features)
    if KINDS[suffix_of(url)] == "parquet":
        stream = Parquet(columns=names, **file).as_streaming_dataset(split="train")
    else:
        stream = WebDataset(**file).as_streaming_dataset(split="train").select_columns(names)
    if skip:
        stream = stream.skip(skip)
    # Iterated over without `iter` in a worker of a DataLoader, it would give its one shard to the first worker alone.
    for batch in stream.iter(batch_size=ROWS_AT_ONCE):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def close_connections(urls: Sequence[str]) -> None:
    """Closes the connections of this process to the servers of remote shards, before it forks.

    A worker that inherits them takes them out of an event loop that it shares, and the next answer never arrives.
    """
    protocols = {url.partition("://")[0] for url in urls if "://" in url}
    for protocol in protocols:
        fsspec.get_filesystem_class(protocol).clear_instance_cache()
    if protocols:
        gc.collect()  # files that were read hold their file system, and it them


def _files(source: str) -> list[str]:
    return [url for pattern in _without_ranges(source) for url in _matches(pattern)]


def _without_ranges(source: str) -> list[str]:
    """``a{08..10}`` -> ``a08``, ``a09``, ``a10``: how WebDatasets are named where a server lists no folder."""
    found = RANGE.search(source)
    if found is None:
        return [source]
    first, last = found.groups()
    numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    return [
        expanded
        for number in numbers
        for expanded in _without_ranges(source[: found.start()] + number + source[found.end() :])
    ]


def _matches(pattern: str) -> Sequence[str]:
    if pattern.startswith(HTTP) and suffix_of(pattern) in KINDS and "*" not in pattern:
        return [pattern]
    fs, path = fsspec.core.url_to_fs(pattern if "://" in pattern else str(Path(pattern).expanduser()))
    if pattern.startswith(HTTP):
        files = fs.glob(path) if "*" in path else fs.ls(path, detail=False)
    elif fs.isfile(path):
        files = [path]
    else:
        files = fs.ls(path, detail=False) if fs.isdir(path) else fs.glob(path)
    is_local = "file" in fs.protocol
    return [file if is_local else fs.unstrip_protocol(file) for file in files]


def _hub_files(name: str) -> dict[str, list[str]]:
    import datasets

    from lightning_noisy.data.readers.base import SPLIT_NAMES

    folder = Path(name).expanduser()
    repository, _, config = (str(folder), "", "") if folder.is_dir() else name.partition(":")
    builder = datasets.load_dataset_builder(repository, config or None)
    files = builder.config.data_files or {}
    return {SPLIT_NAMES[split]: list(urls) for split, urls in files.items() if split in SPLIT_NAMES}


def _hub_has_shards(name: str) -> bool:
    try:
        return any(suffix_of(url) in KINDS for urls in _hub_files(name).values() for url in urls)
    except Exception:  # `find_shards` says what it is
        return True
