"""What a look at all images has found: told once in a table, and kept as a file of the run."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lightning_noisy.data.broken_images import ImageScan
from lightning_noisy.data.labelled_images import LabelledImages
from lightning_noisy.data.similar_classes import similar_names, spelling_key

FINDINGS_FILE = "data_scan.json"
NOT_OPENED = ("FileNotFoundError", "PermissionError", "IsADirectoryError", "NotADirectoryError")
"""Errors that tell nothing of the image, since its file can't be opened."""
PLACEHOLDERS = {
    "?", "misc", "n/a", "nan", "newfolder", "none", "null", "other", "temp", "tmp", "todo", "undefined", "unknown",
    "unlabeled", "unlabelled", "unsorted", "untitled", "untitledfolder",
}  # fmt: skip
"""Names that people give to what they have not labelled, without spaces."""
COPY = r"(?i)( - copy|\bcopy of | \([0-9]+\)\.)"
NOT_UTF8 = r"\\x[0-9a-f]{2}"
SHOWN_CLASSES = 20
SHOWN_NAMES = 3


@dataclass(frozen=True)
class Findings:
    """What the images of a source are like; counts are by split.

    Args:
        source: The user's name for the data.
        images: How many there are.
        classes: Of each class, how many.
        not_opened: How many files are not there or may not be read.
        not_decoded: How many are damaged, or no images.
        two_labels: Groups of images with the same bytes and different labels, each image with its ``split``, ``id`` and
            ``label``: all labels but one are wrong for certain.
        suspicious_names: Of classes and files, in words.
        not_read: Files in the folders that are no images, or have no class, by split and kind (a suffix, or words):
            how many ``files``, and the ``first``.
    """

    source: str
    images: dict[str, int]
    classes: dict[str, dict[str, int]]
    not_opened: dict[str, int]
    not_decoded: dict[str, int]
    two_labels: list[list[dict[str, str]]]
    suspicious_names: list[str]
    not_read: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)


def collect_findings(
    splits: Mapping[str, LabelledImages],
    scans: Mapping[str, ImageScan],
    source: str,
    not_read: Mapping[str, Mapping[str, tuple[int, str]]] | None = None,
) -> Findings:
    """What a look at the images of each split, their names and their labels tell.

    Args:
        splits: By name; ``train`` is among them.
        scans: At each of them.
        source: The user's name for the data.
        not_read: By split, what :class:`~lightning_noisy.data.readers.base.RawSplit` tells of files that are no images.
    """
    names = splits["train"].class_names
    counts = {split: np.bincount(images.noisy_labels, minlength=len(names)) for split, images in splits.items()}
    reasons = {split: list(scans[split].broken.values()) for split in splits}
    not_opened = {split: sum(why.startswith(NOT_OPENED) for why in found) for split, found in reasons.items()}
    return Findings(
        source,
        {split: len(images) for split, images in splits.items()},
        {name: {split: int(counts[split][k]) for split in splits} for k, name in enumerate(names)},
        not_opened,
        {split: len(found) - not_opened[split] for split, found in reasons.items()},
        _same_bytes_under_two_labels(splits, scans),
        [*_suspicious_classes(names), *_suspicious_files(splits)],
        {
            split: {kind: {"files": number, "first": first} for kind, (number, first) in kinds.items()}
            for split, kinds in (not_read or {}).items()
            if kinds
        },
    )


def findings_table(findings: Findings) -> Table:
    """The findings as people read them; of many classes the largest and the smallest."""
    table = Table()
    table.add_column("class", overflow="fold")
    for split in findings.images:
        table.add_column(split, justify="right")

    def add(name: str, counts: Mapping[str, int], style: str | None = None) -> None:
        table.add_row(name, *(f"{counts[split]:,}" for split in findings.images), style=style)

    by_size = sorted(findings.classes, key=lambda name: -findings.classes[name].get("train", 0))
    half = SHOWN_CLASSES // 2
    if len(by_size) <= SHOWN_CLASSES:
        for name in findings.classes:
            add(escape(name), findings.classes[name])
    else:
        for name in by_size[:half]:
            add(escape(name), findings.classes[name])
        table.add_row(f"… {len(by_size) - 2 * half:,} classes between these …")
        for name in by_size[-half:]:
            add(escape(name), findings.classes[name])
    table.add_section()
    add(f"all {len(by_size):,} classes", findings.images)
    for words, counts in (("can't be opened", findings.not_opened), ("can't be decoded", findings.not_decoded)):
        add(words, counts, style="yellow" if any(counts.values()) else None)
    in_conflict = [image["split"] for group in findings.two_labels for image in group]
    conflicts = {split: in_conflict.count(split) for split in findings.images}
    add("same file under two labels", conflicts, style="yellow" if in_conflict else None)
    if findings.not_read:
        kinds = {split: findings.not_read.get(split, {}).values() for split in findings.images}
        add("files that are not read", {split: sum(kind["files"] for kind in kinds[split]) for split in kinds})
    return table


def show_findings(findings: Findings, console: Console, file: Path | None) -> None:
    """Prints the source, the table, what is suspicious, and where the file with all of it lies."""
    console.print(f"The images of {findings.source}", markup=False, highlight=False, soft_wrap=True)
    console.print(findings_table(findings))
    for group in findings.two_labels[:SHOWN_NAMES]:
        words = ", ".join(f"{image['id']} is {image['label']!r}" for image in group[:SHOWN_NAMES])
        console.print(f"Same file, two labels: {words}", markup=False, highlight=False, soft_wrap=True)
    for kinds in findings.not_read.values():
        named = sorted(kinds.items(), key=lambda kind: -kind[1]["files"])[:SHOWN_NAMES]
        words = "; ".join(f"{found['files']:,} ({kind}) such as {found['first']!r}" for kind, found in named)
        console.print(f"Not read: {words}", markup=False, highlight=False, soft_wrap=True)
    for words in findings.suspicious_names:
        console.print(f"Suspicious: {words}", markup=False, highlight=False, soft_wrap=True)
    if file is not None:
        console.print(f"All of it is in {file}", markup=False, highlight=False, soft_wrap=True)


def write_findings(findings: Findings, path: Path) -> None:
    """Writes them as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = dataclasses.asdict(findings)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def _same_bytes_under_two_labels(
    splits: Mapping[str, LabelledImages], scans: Mapping[str, ImageScan]
) -> list[list[dict[str, str]]]:
    digests = np.concatenate([scans[split].digests for split in splits])
    labels = np.concatenate([images.noisy_labels for images in splits.values()])
    split_of_row = np.concatenate([np.full(len(images), split) for split, images in splits.items()])
    ids = pa.chunked_array([images.ids for images in splits.values()], pa.string())
    names = splits["train"].class_names
    order = np.lexsort((labels, digests))
    is_same = (digests[order][1:] == digests[order][:-1]) & (digests[order][1:] != 0)
    differs = is_same & (labels[order][1:] != labels[order][:-1])
    groups = []
    for digest in np.unique(digests[order][1:][differs]):
        rows = order[np.searchsorted(digests, digest, "left", order) : np.searchsorted(digests, digest, "right", order)]
        groups.append(
            [
                {"split": str(split_of_row[row]), "id": ids[row].as_py(), "label": names[labels[row]]}
                for row in rows.tolist()
            ]
        )
    return groups


def _suspicious_classes(names: list[str]) -> list[str]:
    found = [f"the classes {', '.join(map(repr, group))} are called alike" for group in similar_names(names)]
    placeholders = [repr(name) for name in names if spelling_key(name) in PLACEHOLDERS]
    if placeholders:
        found.append(f"classes with names of what has no label: {', '.join(placeholders[:SHOWN_NAMES])}")
    padded = [repr(name) for name in names if name != name.strip() or not name.isprintable()]
    if padded:
        found.append(f"classes with spaces around their names or invisible letters: {', '.join(padded[:SHOWN_NAMES])}")
    return found


def _suspicious_files(splits: Mapping[str, LabelledImages]) -> list[str]:
    ids = pa.chunked_array([images.ids for images in splits.values()], pa.string())
    found = []
    for words, pattern in (("called a copy of another", COPY), ("with names that are not UTF-8", NOT_UTF8)):
        named = ids.filter(pc.match_substring_regex(ids, pattern))
        if len(named):
            found.append(f"{len(named):,} images {words}, such as {named[0].as_py()!r}")
    return found
