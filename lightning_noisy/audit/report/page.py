"""The report page of an audit: one file to look at and to review, without a network."""

import base64
import hashlib
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jinja2 import Environment, PackageLoader, StrictUndefined
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from rich.progress import track

from lightning_noisy.audit.folder import AuditFolder, AuditImages
from lightning_noisy.audit.issues.findings import SplitClass
from lightning_noisy.audit.report.rows import page_rows
from lightning_noisy.audit.schema import AUDIT_FILE, REPORT_FILE
from lightning_noisy.audit.summary import AuditSummary
from lightning_noisy.utils.atomic_files import write_text

MOST_MATRIX_CLASSES = 30
MOST_PAIRS = 12
SHOW_PROGRESS_FROM = 200
SCRIPTS = ("text.js", "kinds.js", "decisions.js", "overview.js", "grid.js", "selection.js", "review.js")


def write_report(audit: AuditFolder, images: AuditImages, most_images: int = 1000, thumbnail_size: int = 128) -> Path:
    """Writes ``report.html`` into the folder of the audit and gives its path.

    Args:
        audit: What was found.
        images: Reads the images; one that can't be read any more gets a tile that says so.
        most_images: So many images are in the page: the flagged ones, most suspicious first, then the others; copies,
            strangers and poor pictures have up to a fifth of it each.
        thumbnail_size: Longer side of the small pictures in pixels; smaller images stay as they are.

    Raises:
        ValueError: If a number is not positive.
    """
    for name, value in (("most_images", most_images), ("thumbnail_size", thumbnail_size)):
        if value < 1:
            raise ValueError(f"Expected argument `{name}` to be at least 1, but got {value}.")
    examples = [image for split in _split_classes(audit.summary) for group in split.examples for image in group]
    table = page_rows(audit.directory / AUDIT_FILE, most_images, examples)
    thumbnails = _thumbnails(images, table, thumbnail_size)
    missing = sum(thumbnail is None for thumbnail in thumbnails)
    if missing:
        rank_zero_warn(f"{missing} of {len(thumbnails)} images of the report can't be read; their tiles say so.")
    page = _render({"summary": _overview(audit.summary), "rows": _columns(table), "thumbnails": thumbnails})
    path = audit.directory / REPORT_FILE
    write_text(path, page)
    return path


def _thumbnails(images: AuditImages, table: pa.Table, size: int) -> list[list[Any] | None]:
    """``[side, WebP in base 64]`` of each row, ``None`` where the image can't be read."""

    def one(split: str, row: int) -> list[Any] | None:
        image = images.read(split, row)
        return None if image is None else _encode(image, size)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        encoded = pool.map(one, table["split"].to_pylist(), table["row"].to_pylist())
        hidden = len(table) < SHOW_PROGRESS_FROM
        return list(track(encoded, "Making small pictures", total=len(table), disable=hidden, transient=True))


def _encode(image: Image.Image, size: int) -> list[Any]:
    is_tiny = max(image.size) <= size // 2
    image.thumbnail((size, size))
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=is_tiny, quality=80, method=2)
    return [max(image.size), base64.b64encode(file.getvalue()).decode()]


def _overview(summary: AuditSummary) -> dict[str, Any]:
    """What the head of the page shows, small for a thousand classes too."""
    shown = _matrix_classes(summary)
    matrix = np.asarray(summary.transition_matrix, dtype=float).reshape(len(summary.class_names), -1)
    return {
        "audit_id": summary.audit_id,
        "class_names": summary.class_names,
        "images": summary.images,
        "issues": summary.issues,
        "errors": [summary.errors.value, summary.errors.low, summary.errors.high],
        "classes": [
            [each.images, each.issues, *_rounded([each.errors.value, each.errors.low, each.errors.high])]
            for each in summary.classes
        ],
        "matrix_classes": shown,
        "matrix": [_rounded(row) for row in matrix[np.ix_(shown, shown)].tolist()] if shown else [],
        "pairs": [[pair.given, pair.suggested, pair.count] for pair in summary.pairs[:MOST_PAIRS]],
        "judge": summary.judge,
        "caution": summary.caution,
        "findings": summary.findings,
        "similar_classes": [
            [pair.one, pair.other, pair.separability, pair.confused]
            for pair in (summary.found.similar_classes if summary.found else [])[:MOST_PAIRS]
        ],
        "split_classes": [
            [split.label, split.share, split.crossing, split.examples] for split in _split_classes(summary)
        ],
    }


def _split_classes(summary: AuditSummary) -> list[SplitClass]:
    return summary.found.split_classes[:MOST_PAIRS] if summary.found else []


def _matrix_classes(summary: AuditSummary) -> list[int]:
    """All classes, or those of the most confused pairs where they are too many for a picture."""
    if len(summary.class_names) <= MOST_MATRIX_CLASSES:
        return list(range(len(summary.class_names)))
    shown: set[int] = set()
    for pair in summary.pairs:
        if len(shown | {pair.given, pair.suggested}) > MOST_MATRIX_CLASSES:
            break
        shown |= {pair.given, pair.suggested}
    return sorted(shown)


def _columns(table: pa.Table) -> dict[str, list[Any]]:
    columns = table.drop_columns(["row"]).to_pydict()
    for name in ("p_given", "p_suggested", "clean_probability"):
        columns[name] = _rounded(columns[name])
    return columns


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 5) for value in values]


def _render(data: dict[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("lightning_noisy.audit.report", "page_files"), autoescape=True, undefined=StrictUndefined
    )
    style = _source(environment, "report.css")
    script = "\n".join(_source(environment, name) for name in SCRIPTS)
    template = environment.get_template("report.html.jinja")
    return template.render(
        data=data, style=style, script=script, style_hash=_csp_hash(style), script_hash=_csp_hash(script)
    )


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _csp_hash(text: str) -> str:
    """What a Content-Security-Policy names to allow exactly this text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
