"""Opening every image once before the training, so that a broken one does not end it later."""

import csv
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from lightning_noisy.data.class_labels import check_every_class_has_images
from lightning_noisy.data.labelled_images import LabelledImages
from lightning_noisy.utils.atomic_files import write_text
from lightning_noisy.utils.rank_zero import rank_zero_warn

SHOW_PROGRESS_FROM = 2000


@dataclass(frozen=True)
class ImageScan:
    """What a look at all ``N`` images of a split has found.

    Args:
        broken: The reason for each broken image, by its index.
        digests: (N,) uint64 of each image's bytes as they lie there; 0 for a broken image, or one in memory.
    """

    broken: dict[int, str]
    digests: np.ndarray


def scan_images(images: LabelledImages, split: str) -> ImageScan:
    """Decodes every image once; the result is cached and read again while no file has changed.

    The cache lies in ``LIGHTNING_NOISY_CACHE``, by default ``~/.cache/lightning_noisy``.

    Args:
        images: The split.
        split: Its name, for the progress bar.
    """
    if not images.store.needs_scan:
        return ImageScan({}, np.zeros(len(images), dtype=np.uint64))
    fingerprint = images.store.fingerprint(np.asarray(images.rows))
    found = cached(f"images-{fingerprint}", lambda: _decode_all(images, f"Looking at the {split} images"))
    broken = {int(index): reason for index, reason in found["broken"].items()}
    return ImageScan(broken, np.frombuffer(bytes.fromhex(found["digests"]), ">u8").astype(np.uint64))


def cached(name: str, compute: Callable[[], Any]) -> Any:
    """What ``compute`` gives, in JSON's types; computed once for a name and read again afterwards.

    Args:
        name: A word, ``-``, and a text that tells one case from the other.
        compute: Takes long.
    """
    folder = Path(os.environ.get("LIGHTNING_NOISY_CACHE", Path.home() / ".cache" / "lightning_noisy"))
    kind, _, case = name.partition("-")
    path = folder / f"{kind}-{hashlib.sha256(case.encode()).hexdigest()[:32]}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    found = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(found))
    return found


def leave_out_broken(
    splits: dict[str, LabelledImages], scans: Mapping[str, ImageScan], source: str, on_broken: str, trainer: Any
) -> dict[str, LabelledImages]:
    """The splits without images that can't be decoded; those are listed in ``broken_images.csv`` beside the logs.

    Args:
        splits: By name.
        scans: At each of them.
        source: The user's name for the data, for messages.
        on_broken: ``"error"`` or ``"skip"``.
        trainer: The Trainer, which knows where the logs are; ``None`` writes into the working directory.

    Raises:
        ValueError: If one is broken and ``on_broken`` is ``"error"``, or a class has no image left.
    """
    reasons = {split: scans[split].broken for split in splits}
    count = sum(len(broken) for broken in reasons.values())
    if count == 0:
        return splits
    rows = {
        split: [(splits[split].ids[i].as_py(), splits[split].path(i) or "", why) for i, why in broken.items()]
        for split, broken in reasons.items()
    }
    path = (Path.cwd() if trainer is None else Path(trainer.log_dir or trainer.default_root_dir)) / "broken_images.csv"
    if trainer is None or trainer.is_global_zero:
        write_broken_images(path, rows)
    broken = list(chain(*rows.values()))
    if len(broken) == sum(map(len, splits.values())) and all(why.startswith("FileNotFound") for _, _, why in broken):
        name, place, _ = broken[0]
        raise ValueError(
            f"Expected the images of {source!r} where it says, but none of the {count} is there, the first of them "
            f"{name!r} as {place!r}. Paths in a table are read from the table's own folder on: correct them, or move "
            "the table."
        )
    first = "; ".join(f"{name} ({why})" for part in rows.values() for name, _, why in part[:3])
    message = (
        f"{count} of {sum(map(len, splits.values()))} images can't be decoded (argument `source` is "
        f"{source!r}), the first: {first}. All are listed"
    )
    if on_broken == "error":
        raise ValueError(
            f"{message} in {str(path)!r}. Repair them, or leave them out by `on_broken: skip` (`--data.on_broken "
            "skip`)."
        )
    rank_zero_warn(f"{message} in {str(path)!r} and left out.")
    kept = {
        split: images.select(np.setdiff1d(np.arange(len(images)), np.fromiter(reasons[split], np.int64)))
        for split, images in splits.items()
    }
    if "train" in kept:
        counts = np.bincount(kept["train"].noisy_labels, minlength=len(kept["train"].class_names))
        check_every_class_has_images(counts, kept["train"].class_names, source)
    return {split: images for split, images in kept.items() if len(images)}


def write_broken_images(path: Path, broken: dict[str, list[tuple[str, str, str]]]) -> None:
    """Writes a CSV with the columns ``split``, ``id``, ``path``, ``reason``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["split", "id", "path", "reason"])
        for split, rows in broken.items():
            writer.writerows((split, *row) for row in rows)


def _decode_all(images: LabelledImages, description: str) -> dict[str, Any]:
    broken: dict[str, str] = {}
    digests = bytearray()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        looks = pool.map(lambda index: _look_at(images, index), range(len(images)))
        hide = len(images) < SHOW_PROGRESS_FROM
        for index, (reason, digest) in enumerate(
            track(looks, description, total=len(images), disable=hide, transient=True)
        ):
            digests += digest
            if reason is not None:
                broken[str(index)] = reason
    return {"broken": broken, "digests": digests.hex()}


def _look_at(images: LabelledImages, index: int) -> tuple[str | None, bytes]:
    """Why an image is broken, if it is, and a digest of its bytes."""
    try:
        images.read(index)
        return None, hashlib.blake2b(images.encoded(index), digest_size=8).digest()
    except Exception as error:  # decoders raise many kinds, and each of them means a broken image
        return f"{type(error).__name__}: {error}".splitlines()[0], bytes(8)
