"""A small audit in a folder, with images in memory, for the tests of its report."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from lightning_noisy.audit.folder import AuditImages
from lightning_noisy.audit.label_audit import LabelAudit
from lightning_noisy.audit.schema import AUDIT_FILE, AUDIT_SCHEMA, KINDS_SCHEMA
from lightning_noisy.audit.summary import LabelSums, summarise
from lightning_noisy.data.image_stores import ArrayStore
from lightning_noisy.data.labelled_images import LabelledImages


class VanishingStore(ArrayStore):
    """Images in memory, every fifth of which is gone."""

    def read(self, row):
        if row % 5 == 4:
            raise FileNotFoundError(f"image {row}")
        return super().read(row)


def write_audit(
    directory: Path, images: int, names: Sequence[str], ids: Sequence[str] | None = None, row_group_size: int = 7
) -> tuple[LabelAudit, AuditImages]:
    """Two of three images are flagged; the flagged ones are not all in front."""
    generator = np.random.default_rng(0)
    ids = list(ids or [f"{row}.png" for row in range(images)])
    given = generator.integers(0, len(names), images)
    flagged = np.arange(images) % 3 != 2
    suggested = np.where(flagged, (given + 1) % len(names), given)
    columns = {
        "id": ids,
        "path": [f"photos/{name}" for name in ids],
        "split": ["train"] * images,
        "row": np.arange(images),
        "given_label": given.astype(np.int32),
        "given_class": [names[label] for label in given],
        "suggested_label": suggested.astype(np.int32),
        "suggested_class": [names[label] for label in suggested],
        "p_given": np.linspace(0.01, 0.5, images).astype(np.float32),
        "p_suggested": np.linspace(0.9, 0.5, images).astype(np.float32),
        "clean_probability": np.full(images, 0.25, np.float32),
        "is_issue": flagged,
        "rank": np.arange(1, images + 1),
    }
    directory.mkdir(parents=True, exist_ok=True)
    columns |= {"is_label_issue": flagged, "label_issue_score": columns["p_given"]}
    others = {name: pa.nulls(images) for name in KINDS_SCHEMA.names if name not in columns}
    table = pa.table({**columns, **others}).select(AUDIT_SCHEMA.names).cast(AUDIT_SCHEMA)
    pyarrow.parquet.write_table(table, directory / AUDIT_FILE, row_group_size=row_group_size)
    likeliest, issues = np.zeros((2, len(names), len(names)), dtype=int)
    np.add.at(likeliest, (suggested, given), 1)
    np.add.at(issues, (suggested[flagged], given[flagged]), 1)
    doubts = np.bincount(given, flagged, len(names))
    summarise(LabelSums(issues, likeliest, doubts, doubts), names, f"audit of {directory.name}").write(directory)
    pixels = generator.integers(0, 255, (images, 8, 8, 3), dtype=np.uint8)
    labelled = LabelledImages(pa.array(ids), given, given, list(names), VanishingStore(pixels), np.arange(images))
    return LabelAudit(directory), AuditImages({"train": labelled})
