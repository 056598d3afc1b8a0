"""How many images and which labels lie in shards, known before they are read: schedules and classes depend on it."""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import fsspec
import fsspec.core
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from rich.progress import track

from lightning_noisy.data.broken_images import cached
from lightning_noisy.data.class_labels import check_class_names, class_names_from, numbers_are_names
from lightning_noisy.data.readers.base import Columns
from lightning_noisy.noise.functional import NO_LABEL
from lightning_noisy.streaming.find import KINDS, shard_name, suffix_of
from lightning_noisy.streaming.layout import Layout, member_value, parquet_layout, tar_layout, tar_samples
from lightning_noisy.utils.text import first_line

SHOW_PROGRESS_FROM = 50
SIZES_FILE = "sizes.json"
"""By convention it lies beside a WebDataset and tells the number of samples of each shard."""
Label = int | str | None
Pair = tuple[Label, Label]


@dataclass(frozen=True, eq=False)
class Shards:
    """``N`` images in ``S`` shards.

    Args:
        urls: The S files; empty ones are left out.
        rows: (S,) how many images each holds.
        layout: What their rows look like.
        pairs: How many images carry each given and each clean label, and a shard where it is so; ``None`` where only
            reading all of them would tell.
        where: The source's name for messages.
    """

    urls: list[str]
    rows: np.ndarray
    layout: Layout
    pairs: dict[Pair, tuple[int, str]] | None
    where: str

    def __len__(self) -> int:
        return int(self.rows.sum())


def scan_shards(urls: list[str], columns: Columns, where: str) -> Shards:
    """Counts images and labels by the footers of Parquet files, the headers of local .tar files or ``sizes.json``.

    The result is cached and read again while no shard has changed.

    Raises:
        ValueError: If one can't be read, has no label for an image or lacks a column, or nothing tells its size.
    """
    is_table = KINDS[suffix_of(urls[0])] == "parquet"
    look = parquet_layout if is_table else tar_layout
    layout = _guarded(lambda url: look(url, columns, where), urls[0], where)
    if not is_table and "://" in urls[0]:
        counts: dict[str, Any] = {"rows": _read_sizes(urls, where), "pairs": None}
    else:
        prints = _for_all(urls, _fingerprint, where, "Looking for the shards")
        name = f"shards-{[layout.label_fields, *zip(urls, prints, strict=True)]}"
        counts = cached(name, lambda: _count_all(urls, _parquet_pairs if is_table else _tar_pairs, layout, where))
    pairs = counts["pairs"] and {(label, clean): (times, url) for label, clean, times, url in counts["pairs"]}
    rows = np.asarray(counts["rows"], dtype=np.int64)
    if not rows.any():
        raise ValueError(f"{where!r} has no images: its {len(urls)} shards are empty.")
    return Shards([urls[i] for i in np.flatnonzero(rows)], rows[rows > 0], layout, pairs, where)


def find_shard_classes(shards: Shards, class_names: Sequence[str] | None) -> list[str]:
    """The names of the classes: given, told by the shards, or read from their labels.

    Raises:
        ValueError: If nothing tells them.
    """
    if class_names is not None:
        return check_class_names(class_names)
    if shards.layout.class_names is not None:
        return list(shards.layout.class_names)
    if shards.pairs is None:
        raise ValueError(
            f"Expected argument `class_names` to be given, since nothing but reading all shards of {shards.where!r} "
            "would tell the classes."
        )
    labels = list({label for label, _ in shards.pairs})
    if len({type(label) for label in labels}) > 1:
        raise ValueError(f"Expected the labels of {shards.where!r} to be all names or all numbers, but got both.")
    return class_names_from(pa.array(labels), shards.where)


def count_pairs(
    shards: Shards, class_names: list[str], split: str = "train"
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Given labels, clean labels (-1 where unknown) and how many images carry both, (M,) each; ``None`` if unknown.

    Args:
        shards: The images.
        class_names: The K names.
        split: Which one they are, for messages.

    Raises:
        ValueError: If a label is none of the classes.
    """
    if shards.pairs is None:
        return None
    number = LabelNumbers(class_names, shards.layout, split)
    found = [
        (number(label, shard_name(url)), NO_LABEL if clean is None else number(clean, shard_name(url)), times)
        for (label, clean), (times, url) in shards.pairs.items()
    ]
    noisy, clean, times = np.array(found, dtype=np.int64).T
    return noisy, clean, times


class LabelNumbers:
    """From a label in a shard to its class number.

    Args:
        class_names: The K names.
        layout: Of the shards, which may have names and numbers of their own.
        split: Which one they are, for messages.
    """

    def __init__(self, class_names: list[str], layout: Layout, split: str = "train") -> None:
        self.split = split
        self.own_names = layout.class_names if layout.class_names != class_names else None
        self.by_name = layout.class_names is None and numbers_are_names(class_names)
        self.numbers = {name: number for number, name in enumerate(class_names)}

    def __call__(self, label: Label, place: str) -> int:
        """Raises a :class:`ValueError` that names the place of a label that is none of the classes."""
        if isinstance(label, int) and self.own_names is not None and 0 <= label < len(self.own_names):
            label = self.own_names[label]
        if isinstance(label, int) and self.by_name:
            label = str(label)
        if isinstance(label, int) and 0 <= label < len(self.numbers):
            return label
        if isinstance(label, str) and label in self.numbers:
            return self.numbers[label]
        if label is None:
            raise ValueError(f"{place!r} has no label. Fill it in, or drop the image.")
        if self.split != "train":
            raise ValueError(
                f"Expected the {self.split} images to be of the {len(self.numbers)} classes that the training images "
                f"have, but {place!r} has {label!r}. Add training images of it, or take those {self.split} images out."
            )
        raise ValueError(
            f"Expected the labels to be among the {len(self.numbers)} classes, names or numbers from 0 to "
            f"{len(self.numbers) - 1}, but {place!r} has {label!r}. Correct it, or give all `class_names`."
        )


def plain_label(value: Any) -> Label:
    """A label as a whole number or a name; ``None`` where it is missing.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(value, bytes):
        value = value.decode()
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, int | float) and float(value).is_integer():
        return int(value)
    raise ValueError(f"Expected labels to be class names or whole numbers, but got {value!r}.")


Pairs = Iterator[tuple[Any, Any, int]]


def _count_all(urls: list[str], read: Callable[[str, Layout], Pairs], layout: Layout, where: str) -> dict[str, Any]:
    counts = _for_all(urls, lambda url: _count_labels(read(url, layout)), where, "Counting the images")
    pairs: dict[Pair, list[Any]] = {}
    for url, counted in zip(urls, counts, strict=True):
        for pair, times in counted.items():
            pairs.setdefault(pair, [0, url])[0] += times
    return {
        "rows": [counted.total() for counted in counts],
        "pairs": [[*pair, *known] for pair, known in pairs.items()],
    }


def _count_labels(pairs: Pairs) -> Counter[Pair]:
    counted: Counter[Pair] = Counter()
    for label, clean, times in pairs:
        counted[plain_label(label), plain_label(clean)] += times
    missing = sum(times for (label, _), times in counted.items() if label is None)
    if missing:
        raise ValueError(f"{missing} of its {counted.total()} images have no label. Fill them in or drop them.")
    return counted


def _parquet_pairs(url: str, layout: Layout) -> Pairs:
    names = list(dict.fromkeys(field.name for field in layout.label_fields))
    with fsspec.open(url) as file:
        table = pyarrow.parquet.ParquetFile(file).read(columns=names)
    for group in table.group_by(names).aggregate([([], "count_all")]).to_pylist():
        clean = None if layout.clean_label is None else layout.clean_label.of(group)
        yield layout.label.of(group), clean, group["count_all"]


def _tar_pairs(url: str, layout: Layout) -> Pairs:
    names = [field.name for field in layout.label_fields]
    with open(url, "rb") as file:
        for sample in tar_samples(file, names):
            clean = None if layout.clean_label is None else member_value(layout.clean_label, sample)
            yield member_value(layout.label, sample), clean, 1


def _read_sizes(urls: list[str], where: str) -> list[int]:
    """The number of images of remote .tar files, which only reading all of them would tell otherwise."""
    folder, query = urls[0].rpartition("/")[0], urls[0].partition("?")[2]
    path = f"{folder}/{SIZES_FILE}" + (f"?{query}" if query else "")
    try:
        with fsspec.open(path, "rb") as file:
            sizes = {str(name): int(size) for name, size in json.load(file).items()}
    except Exception as error:  # file systems, the network and parsers raise many kinds
        raise ValueError(
            f"Expected a file {SIZES_FILE!r} beside the shards of {where!r}, such as "
            f"{{{json.dumps(shard_name(urls[0]))}: 1000}}, that tells how many images each of them holds, but it can't "
            f"be read: {first_line(error)} Write one, or use Parquet shards, which tell it themselves."
        ) from error
    missing = next((shard_name(url) for url in urls if shard_name(url) not in sizes), None)
    if missing is not None:
        raise ValueError(
            f"Expected {SIZES_FILE!r} beside the shards of {where!r} to tell how many images each of them holds, but "
            f"it lacks {missing!r}. Add it."
        )
    return [sizes[shard_name(url)] for url in urls]


def _fingerprint(url: str) -> list[str]:
    fs, path = fsspec.core.url_to_fs(url)
    facts = fs.info(path)
    return [str(facts.get(name)) for name in ("size", "mtime", "ETag", "LastModified", "blob_id")]


def _for_all(urls: list[str], function: Callable[[str], Any], where: str, description: str) -> list[Any]:
    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        results = pool.map(lambda url: _guarded(function, url, where), urls)
        hide = len(urls) < SHOW_PROGRESS_FROM
        return list(track(results, description, total=len(urls), disable=hide, transient=True))


def _guarded(function: Callable[[str], Any], url: str, where: str) -> Any:
    """What ``function`` gives for a shard; an error names it."""
    try:
        return function(url)
    except Exception as error:  # file systems and decoders raise many kinds
        if isinstance(error, ValueError) and str(error).startswith("Expected argument"):
            raise
        raise ValueError(f"The shard {shard_name(url)!r} of {where!r} can't be used: {first_line(error)}") from error
