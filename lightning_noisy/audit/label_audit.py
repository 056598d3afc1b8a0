"""An audit as it lies in its folder: which labels are wrong, and what they should be."""

import shutil
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet

from lightning_noisy.audit.images import AuditImages
from lightning_noisy.audit.issues.kinds import COLUMNS_SCHEMA
from lightning_noisy.audit.plan import DEFAULT_KINDS
from lightning_noisy.audit.source import images_of
from lightning_noisy.audit.summary import SUMMARY_FILE, AuditSummary

if TYPE_CHECKING:
    import datasets

    from lightning_noisy.audit.cleaning import ManifestReport, Policy
    from lightning_noisy.data.table import LabelledImages
    from lightning_noisy.hub.push import PushReport

AUDIT_FILE = "audit.parquet"
PROBABILITIES_FILE = "probabilities.parquet"
REPORT_FILE = "report.html"
ISSUES_FILE = "issues.csv"
MANIFEST_FILE = "manifest.parquet"
RESULT_FILES = (AUDIT_FILE, PROBABILITIES_FILE, ISSUES_FILE, REPORT_FILE)
"""What an audit leaves beside its summary."""
READ_ROWS = 16_384
"""Rows of the table in memory at a time where only the first ones are wanted."""
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("path", pa.string()),
        pa.field("split", pa.string()),
        pa.field("row", pa.int64()),
        pa.field("given_label", pa.int32()),
        pa.field("given_class", pa.string()),
        pa.field("suggested_label", pa.int32()),
        pa.field("suggested_class", pa.string()),
        pa.field("p_given", pa.float32()),
        pa.field("p_suggested", pa.float32()),
        pa.field("clean_probability", pa.float32()),
        pa.field("is_issue", pa.bool_()),
        pa.field("rank", pa.int64()),
        *COLUMNS_SCHEMA,
    ]
)
"""``row`` is the image's place in its split; ``path`` is null where the image has no file of its own; ``rank`` is 1
for the most suspicious image."""


class LabelAudit:
    """Which labels are wrong: one row an image, the most suspicious first.

    Args:
        directory: What ``lightning-noisy audit`` wrote.
        splits: The images, where they are at hand; else they are read again from where they lay.
        temporary: The temporary folder that ``directory`` is, to be kept as long as this object.

    Raises:
        ValueError: If there is no finished audit.
    """

    def __init__(
        self,
        directory: str | Path,
        splits: "dict[str, LabelledImages] | None" = None,
        temporary: tempfile.TemporaryDirectory | None = None,
    ) -> None:
        self.directory = Path(directory).expanduser()
        self.summary = AuditSummary.read(self.directory)
        self._splits = splits
        self._temporary = temporary

    @cached_property
    def table(self) -> pa.Table:
        """All rows, in the columns of :data:`SCHEMA`."""
        return pyarrow.parquet.read_table(self.directory / AUDIT_FILE).cast(SCHEMA)

    @cached_property
    def images(self) -> AuditImages:
        """Reads the images: those at hand, else from where they lay when the audit was made.

        Raises:
            ValueError: If they lie there no more, or are others.
        """
        return AuditImages(images_of(self))

    def first_rows(self, most: int) -> list[dict[str, Any]]:
        """The most suspicious rows, read without the others."""
        head = pyarrow.dataset.dataset(self.directory / AUDIT_FILE).head(most, batch_size=READ_ROWS)
        return head.to_pylist()

    @property
    def probabilities_path(self) -> Path:
        """Where the posterior of all classes lies, if it was asked for: ``id`` and ``probabilities``, K numbers."""
        return self.directory / PROBABILITIES_FILE

    def write(self, directory: str | Path) -> Path:
        """Copies all files of the audit into a folder, which is made, and works on there; what else lies there stays.

        Raises:
            ValueError: If another audit lies there, or other files under the names of an audit's.
        """
        target = Path(directory).expanduser()
        is_audit = (target / SUMMARY_FILE).is_file()
        if is_audit and AuditSummary.read(target).audit_id != self.summary.audit_id:
            raise ValueError(
                f"Expected argument `directory` to be a new folder, but {str(target)!r} holds another audit. Name "
                "another folder, or remove this one."
            )
        others = [] if is_audit else [name for name in RESULT_FILES if (target / name).exists()]
        if others:
            raise ValueError(
                f"Expected argument `directory` to be a new folder, but {str(target)!r} holds {others[0]!r}, which no "
                "audit has left there. Name another folder."
            )
        target.mkdir(parents=True, exist_ok=True)
        if target.resolve() != self.directory.resolve():
            for path in (*RESULT_FILES, SUMMARY_FILE):  # the last says that all is there
                if (self.directory / path).is_file():
                    shutil.copyfile(self.directory / path, target / path)
        self.directory = target
        return target

    def apply(
        self,
        policy: "Policy",
        output: str | Path | None = None,
        decisions: str | Path | None = None,
        kinds: Sequence[str] = DEFAULT_KINDS,
    ) -> "ManifestReport":
        """Writes a manifest with cleaned labels: see :func:`~lightning_noisy.audit.manifest.write_manifest`.

        By default it is ``manifest.parquet`` beside the audit.
        """
        from lightning_noisy.audit.manifest import write_manifest

        return write_manifest(self, policy, output or self.directory / MANIFEST_FILE, decisions, kinds)

    def to_dataset(
        self,
        policy: "Policy" = "relabel",
        decisions: str | Path | None = None,
        kinds: Sequence[str] = DEFAULT_KINDS,
    ) -> "datasets.Dataset":
        """The images with cleaned labels: see :func:`~lightning_noisy.audit.dataset.to_dataset`."""
        from lightning_noisy.audit.dataset import to_dataset

        return to_dataset(self, policy, decisions, kinds)

    def push_to_hub(self, repo_id: str, **options: Any) -> "PushReport":
        """Pushes the images with cleaned labels: see :func:`~lightning_noisy.audit.dataset.push_to_hub`."""
        from lightning_noisy.audit.dataset import push_to_hub

        return push_to_hub(self, repo_id, **options)
