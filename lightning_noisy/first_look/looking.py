"""A look at all images that takes seconds: files and names are told of all, what is inside them as time allows."""

import hashlib
import os
import re
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from lightning_noisy.data.broken_images import ImageScan
from lightning_noisy.data.class_labels import find_class_names, leave_out_empty_classes, number_labels
from lightning_noisy.data.findings import Findings, collect_findings
from lightning_noisy.data.labelled_images import LabelledImages
from lightning_noisy.data.readers.base import Columns
from lightning_noisy.data.readers.registry import read_source

SECONDS = 3.0
"""For opening images: some ten thousand of 256 pixels on two cores."""
MOST_OPENED, FEW_OPENED = 50_000, 100
"""Images; few where they are in memory, so that none can be broken."""
EMPTY_CLASS = "Class .* has no images .*left out"
"""In these words the readers tell of a class without images."""
OWN_CODE = Path(__file__).parents[1]
TAIL = 4096
"""Bytes at the end of a file; those at its start are often the same in all files of one camera."""


@dataclass(frozen=True)
class FirstLook:
    """What a look at the images of a source has found.

    Args:
        splits: By name; ``train`` is among them.
        findings: Counts, broken files (of those that were opened), one file under two labels, suspicious names.
        opened: How many images were opened, drawn at random where time did not allow all.
        sides: (M, 2) int64, width and height in pixels of those that could be.
        copies: How many images have the same bytes as another one before them.
        in_two_splits: How many pictures lie in several splits.
        warnings: What the readers had to say, a sentence each.
        has_empty_class: Whether a class has no training image.
    """

    splits: dict[str, LabelledImages]
    findings: Findings
    opened: int
    sides: np.ndarray
    copies: int
    in_two_splits: int
    warnings: list[str]
    has_empty_class: bool

    @property
    def images(self) -> int:
        """How many there are."""
        return sum(self.findings.images.values())

    @property
    def class_counts(self) -> np.ndarray:
        """(K,) training images of each class."""
        train = self.splits["train"]
        return np.bincount(train.noisy_labels, minlength=len(train.class_names))


def look_first(source: str, columns: Columns, console: Console, seconds: float = SECONDS) -> FirstLook:
    """Reads a source and looks at its images.

    Args:
        source: As of :class:`~lightning_noisy.NoisyImageDataModule`.
        columns: Of a table.
        console: For the progress.
        seconds: How long images may be opened.

    Raises:
        ValueError: If the source can't be read, or is no data set of labelled images.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        raw = read_source(source, columns, seed=0, on_empty_class="skip")
        names = find_class_names(raw["train"], None)
        numbered = {split: number_labels(part, names, is_clean=False, split=split) for split, part in raw.items()}
        splits = leave_out_empty_classes(numbered, source)
    broken, sides, opened = _open_images(splits, console, seconds)
    digests = _digests(splits)
    looks = {split: ImageScan(broken[split], digests[split]) for split in splits}
    not_read = {split: part.not_read for split, part in raw.items()}
    copies, in_two_splits = _count_copies(digests)
    sentences = [str(warning.message) for warning in said if Path(warning.filename).is_relative_to(OWN_CODE)]
    return FirstLook(
        splits, collect_findings(splits, looks, source, not_read), opened, sides, copies, in_two_splits, sentences,
        has_empty_class=any(re.match(EMPTY_CLASS, sentence) for sentence in sentences),
    )  # fmt: skip


def _open_images(
    splits: dict[str, LabelledImages], console: Console, seconds: float
) -> tuple[dict[str, dict[int, str]], np.ndarray, int]:
    """Why images are broken, by split and index; width and height of the others; how many were opened."""
    broken: dict[str, dict[int, str]] = {split: {} for split in splits}
    places = [(split, index) for split, images in splits.items() for index in range(len(images))]
    most = MOST_OPENED if splits["train"].store.needs_scan else FEW_OPENED
    order = np.random.default_rng(0).permutation(len(places))[:most]
    sides, opened, end = [], 0, time.monotonic() + seconds
    hidden = not console.is_terminal
    with (
        Progress(console=console, transient=True, disable=hidden) as progress,
        ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool,
    ):
        drawn = [places[number] for number in order.tolist()]
        looks = pool.map(lambda place: _open(splits[place[0]], place[1]), drawn)
        for (split, index), (reason, side) in zip(
            drawn, progress.track(looks, len(drawn), description="Opening images"), strict=True
        ):
            opened += 1
            if reason is None:
                sides.append(side)
            else:
                broken[split][index] = reason
            if time.monotonic() > end:
                pool.shutdown(cancel_futures=True)
                break
    return broken, np.array(sides, dtype=np.int64).reshape(-1, 2), opened


def _open(images: LabelledImages, index: int) -> tuple[str | None, tuple[int, int]]:
    try:
        return None, images.read(index).size
    except Exception as error:  # decoders raise many kinds, and each of them means a broken image
        return f"{type(error).__name__}: {error}".splitlines()[0], (0, 0)


def _digests(splits: dict[str, LabelledImages]) -> dict[str, np.ndarray]:
    """(N,) uint64 of each split: equal where the bytes of two images are; 0 for an image that has no like.

    Files of one length and one ending are few, and only these are read as a whole.
    """
    found = {split: np.zeros(len(images), dtype=np.uint64) for split, images in splits.items()}
    places = [
        (split, index) for split, images in splits.items() if images.store.needs_scan for index in range(len(images))
    ]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        for look_closer in (_length, _tail, _digest):
            keys = list(pool.map(lambda place: look_closer(splits[place[0]], place[1]), places))  # noqa: B023
            counts = Counter(keys)
            likes = [(place, key) for place, key in zip(places, keys, strict=True) if key and counts[key] > 1]
            places = [place for place, _ in likes]
    for (split, index), digest in likes:
        found[split][index] = digest
    return found


def _length(images: LabelledImages, index: int) -> int:
    path = images.path(index)
    try:
        return len(images.encoded(index)) if path is None else os.stat(path).st_size
    except (OSError, ValueError):  # a file or a cell that is not there
        return 0


def _tail(images: LabelledImages, index: int) -> bytes:
    path = images.path(index)
    if path is None:
        return images.encoded(index)[-TAIL:]
    with open(path, "rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - TAIL, 0))
        return file.read()


def _digest(images: LabelledImages, index: int) -> int:
    return int.from_bytes(hashlib.blake2b(images.encoded(index), digest_size=8).digest(), "big")


def _count_copies(digests: dict[str, np.ndarray]) -> tuple[int, int]:
    """How many images have the bytes of one before them, and how many pictures lie in several splits."""
    splits_of: dict[int, list[str]] = {}
    for split, values in digests.items():
        for digest in values[values != 0].tolist():
            splits_of.setdefault(digest, []).append(split)
    copies = sum(len(found) - 1 for found in splits_of.values())
    return copies, sum(len(set(found)) > 1 for found in splits_of.values())
