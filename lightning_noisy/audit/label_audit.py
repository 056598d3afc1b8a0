"""An audit as it lies in its folder: which labels are wrong, and what they should be."""

import tempfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet

from lightning_noisy.audit.summary import AuditSummary
from lightning_noisy.data.table import LabelledImages

if TYPE_CHECKING:
    import datasets

    from lightning_noisy.audit.cleaning import ManifestReport, Policy
    from lightning_noisy.hub.push import PushReport

AUDIT_FILE = "audit.parquet"
REPORT_FILE = "report.html"
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "path": pa.string(),
        "split": pa.string(),
        "row": pa.int64(),
        "given_label": pa.int32(),
        "given_class": pa.string(),
        "suggested_label": pa.int32(),
        "suggested_class": pa.string(),
        "p_given": pa.float32(),
        "p_suggested": pa.float32(),
        "clean_probability": pa.float32(),
        "is_issue": pa.bool_(),
        "rank": pa.int64(),
    }
)
"""``row`` is the image's place in its split; ``path`` is null where the image has no file of its own; ``rank`` is 1
for the most suspicious image."""


class LabelAudit:
    """Which labels are wrong: one row an image, the most suspicious first.

    Args:
        directory: What ``lightning-noisy audit`` wrote.
        splits: The images, where they are at hand; else they are read again from where they lay.

    Raises:
        ValueError: If there is no finished audit.
    """

    def __init__(self, directory: str | Path, splits: dict[str, LabelledImages] | None = None) -> None:
        self.directory = Path(directory)
        self.summary = AuditSummary.read(self.directory)
        self._splits = splits
        self._temporary: tempfile.TemporaryDirectory | None = None

    @cached_property
    def table(self) -> pa.Table:
        """All rows, in the columns of :data:`SCHEMA`."""
        return pyarrow.parquet.read_table(self.directory / AUDIT_FILE)

    def apply(
        self, policy: "Policy", output: str | Path | None = None, decisions: str | Path | None = None
    ) -> "ManifestReport":
        """Writes a manifest with cleaned labels: see :func:`~lightning_noisy.audit.manifest.write_manifest`.

        Without ``output`` it is ``manifest.parquet`` in the audit's own folder.
        """
        from lightning_noisy.audit.manifest import write_manifest

        return write_manifest(self, policy, output or self.directory / "manifest.parquet", decisions)

    def to_dataset(self, policy: "Policy" = "relabel", decisions: str | Path | None = None) -> "datasets.Dataset":
        """The images with cleaned labels: see :func:`~lightning_noisy.audit.dataset.to_dataset`."""
        from lightning_noisy.audit.dataset import to_dataset

        return to_dataset(self, policy, decisions)

    def push_to_hub(self, repo_id: str, **options: Any) -> "PushReport":
        """Pushes the images with cleaned labels: see :func:`~lightning_noisy.audit.dataset.push_to_hub`."""
        from lightning_noisy.audit.dataset import push_to_hub

        return push_to_hub(self, repo_id, **options)
