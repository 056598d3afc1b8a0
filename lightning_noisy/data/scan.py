"""Opening every image once before the training, so that a broken one does not end it later."""

import csv
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from rich.progress import track

from lightning_noisy.data.table import LabelledImages

SHOW_PROGRESS_FROM = 2000


def scan_images(images: LabelledImages, description: str) -> dict[int, str]:
    """Decodes every image once; the result is cached and read again while no file has changed.

    The cache lies in ``LIGHTNING_NOISY_CACHE``, by default ``~/.cache/lightning_noisy``.

    Returns:
        The reason for each broken image, by its index.
    """
    if not images.store.needs_scan:
        return {}
    path = _cache_file(images)
    if path.is_file():
        return {int(index): reason for index, reason in json.loads(path.read_text(encoding="utf-8")).items()}
    broken = _decode_all(images, description)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(broken), encoding="utf-8")
    temporary.replace(path)
    return broken


def write_broken_images(path: Path, broken: dict[str, list[tuple[str, str, str]]]) -> None:
    """Writes a CSV with the columns ``split``, ``id``, ``path``, ``reason``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["split", "id", "path", "reason"])
        for split, rows in broken.items():
            writer.writerows((split, *row) for row in rows)


def _decode_all(images: LabelledImages, description: str) -> dict[int, str]:
    broken: dict[int, str] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        reasons = pool.map(lambda index: _why_broken(images, index), range(len(images)))
        for index, reason in enumerate(
            track(reasons, description, total=len(images), disable=len(images) < SHOW_PROGRESS_FROM, transient=True)
        ):
            if reason is not None:
                broken[index] = reason
    return broken


def _why_broken(images: LabelledImages, index: int) -> str | None:
    try:
        images.read(index)
    except Exception as error:  # decoders raise many kinds, and each of them means a broken image
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def _cache_file(images: LabelledImages) -> Path:
    folder = Path(os.environ.get("LIGHTNING_NOISY_CACHE", Path.home() / ".cache" / "lightning_noisy"))
    fingerprint = images.store.fingerprint(np.asarray(images.rows))
    return folder / f"scan-{hashlib.sha256(fingerprint.encode()).hexdigest()[:32]}.json"
