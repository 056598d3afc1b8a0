"""An audit, and what is made of it: a copy, a manifest, a data set."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_noisy.audit.cleaning.manifest import write_manifest
from lightning_noisy.audit.cleaning.plan import DEFAULT_KINDS
from lightning_noisy.audit.folder import AuditFolder
from lightning_noisy.audit.schema import MANIFEST_FILE, RESULT_FILES, SUMMARY_FILE
from lightning_noisy.audit.summary import AuditSummary

if TYPE_CHECKING:
    import datasets

    from lightning_noisy.audit.cleaning.cleaning import ManifestReport, Policy
    from lightning_noisy.hub.push import PushReport


class LabelAudit(AuditFolder):
    """Which labels are wrong, and what is made of it. The arguments are those of :class:`AuditFolder`."""

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
        """Writes a manifest with cleaned labels: see :func:`~lightning_noisy.audit.cleaning.manifest.write_manifest`.

        By default it is ``manifest.parquet`` beside the audit.
        """
        return write_manifest(self, policy, output or self.directory / MANIFEST_FILE, decisions, kinds)

    def to_dataset(
        self,
        policy: "Policy" = "relabel",
        decisions: str | Path | None = None,
        kinds: Sequence[str] = DEFAULT_KINDS,
    ) -> "datasets.Dataset":
        """The images with cleaned labels: see :func:`~lightning_noisy.audit.cleaning.dataset.to_dataset`."""
        from lightning_noisy.audit.cleaning.dataset import to_dataset

        return to_dataset(self, policy, decisions, kinds)

    def push_to_hub(self, repo_id: str, **options: Any) -> "PushReport":
        """Pushes the images with cleaned labels: see :func:`~lightning_noisy.audit.cleaning.dataset.push_to_hub`."""
        from lightning_noisy.audit.cleaning.dataset import push_to_hub

        return push_to_hub(self, repo_id, **options)
