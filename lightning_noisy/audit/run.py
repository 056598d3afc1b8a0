"""What every audit does, however it comes to know the labels: its folder, its parts, and the files that stay."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import lightning.pytorch as L
import pyarrow as pa

from lightning_noisy.audit.files_for_people import write_histogram, write_issues
from lightning_noisy.audit.issues.findings import IssueFindings
from lightning_noisy.audit.label_audit import LabelAudit
from lightning_noisy.audit.ranking import agreement, label_sums, write_ranking
from lightning_noisy.audit.schema import RESULT_FILES, SUMMARY_FILE
from lightning_noisy.audit.summary import Share, summarise
from lightning_noisy.data import NoisyImageDataModule
from lightning_noisy.inference import parts
from lightning_noisy.inference.images import AllImages, unique_over_splits

AUDIT_FILES = (SUMMARY_FILE, *RESULT_FILES)


@dataclass(frozen=True)
class LabelScan:
    """What a look at all labels has given, beside the parts in the folder.

    Args:
        images: How many images are in the parts.
        issues: A row for each, :data:`~lightning_noisy.audit.schema.ISSUES_SCHEMA` and ``position``.
        found: What these say, in few numbers.
        errors: The share of wrong labels, where it is known better than from the parts.
    """

    images: int
    issues: pa.Table
    found: IssueFindings
    errors: Share | None = None


@dataclass(frozen=True)
class AuditRun:
    """An audit that is to be made; every process has the same.

    Args:
        trainer: Decides on devices and processes.
        datamodule: Where the images come from.
        images: Those that are looked at.
        audit_id: Changes with all that the numbers depend on.
        judge: What judges the labels, in words.
        folds: How many models judge the images that they have not seen; 0 is one that has.
        probabilities: Whether the posterior of all classes is kept.
    """

    trainer: L.Trainer
    datamodule: NoisyImageDataModule
    images: AllImages
    audit_id: str
    judge: str
    folds: int
    probabilities: bool

    def make(
        self, output: str | Path | None, look_at_all: Callable[[Path], None], judge_all: Callable[[Path], LabelScan]
    ) -> LabelAudit:
        """The finished audit; one that was killed is resumed, one that is finished is not made again.

        Args:
            output: Its folder; a temporary one by default.
            look_at_all: Looks at all images; every process does.
            judge_all: Fills the parts of the folder with what this says of the labels; the first process does, and the
                others wait.

        Raises:
            ValueError: If ``output`` holds another audit, or can't be written to.
        """
        temporary = tempfile.TemporaryDirectory(prefix="lightning-noisy-audit-") if output is None else None
        directory = Path(output or cast(tempfile.TemporaryDirectory, temporary).name).expanduser()
        if not self._is_finished(directory):
            parts.begin(directory, f"{self.audit_id} {self.probabilities}", self.trainer.is_global_zero, AUDIT_FILES)
            look_at_all(directory)
            if self.trainer.is_global_zero:
                self._finish(directory, judge_all(directory))
            else:
                parts.wait_for_first_process(lambda: self._is_finished(directory), directory)
            self.trainer.strategy.barrier()
        if self.trainer.is_global_zero:
            shutil.rmtree(directory / parts.PARTS_FOLDER, ignore_errors=True)
        return LabelAudit(directory, self.images.splits, temporary)

    def _is_finished(self, directory: Path) -> bool:
        if not (directory / SUMMARY_FILE).is_file():
            return False
        audit = LabelAudit(directory)
        if audit.summary.audit_id != self.audit_id:
            raise ValueError(
                f"Expected argument `output` to be a new folder or one of the same audit, but {str(directory)!r} holds "
                "the audit of another model or of other labels. Name another folder, or remove this one."
            )
        return audit.summary.has_probabilities or not self.probabilities

    def _finish(self, directory: Path, look: LabelScan) -> None:
        """From the parts to the files that stay."""
        names = self.datamodule.class_names
        write_ranking(directory, names, look.images, self.probabilities, look.issues)
        agrees = agreement(directory, len(names), is_out_of_sample=self.folds > 0)
        write_issues(directory)
        write_histogram(directory)
        summary = summarise(
            label_sums(directory, len(names)), names, self.audit_id, look.errors, judge=self.judge, agreement=agrees,
            folds=self.folds, has_probabilities=self.probabilities,
            left_out=_left_out(self.datamodule, list(self.images.splits)), source=self.datamodule.arguments(),
            found=look.found,
        )  # fmt: skip
        summary.write(directory)  # last: it says that all is there


def images_to_audit(datamodule: NoisyImageDataModule) -> AllImages:
    """The images of the splits whose labels are in doubt."""
    splits = unique_over_splits(datamodule.splits)
    return AllImages({split: splits[split] for split in audited_splits(datamodule)})


def audited_splits(datamodule: NoisyImageDataModule) -> list[str]:
    """Training and validation, but for labels that were checked by hand."""
    return [split for split in ("train", "val") if split in datamodule.splits and split not in datamodule.clean_splits]


def _left_out(datamodule: NoisyImageDataModule, audited: list[str]) -> list[str]:
    """What the data hold beside the audited images and their labels, in words."""
    words = {"val": "the validation images, whose labels were checked", "test": "the test images"}
    found = [words[split] for split in ("val", "test") if split in datamodule.splits and split not in audited]
    if datamodule.splits["train"].weights is not None:
        found.append("the weights of the training images")
    if datamodule.noise is None and any(datamodule.splits[split].has_clean_labels for split in audited):
        found.append("the clean labels")
    return found


def one_device() -> L.Trainer:
    """The trainer of an audit for which none was given."""
    return L.Trainer(devices=1, logger=False, enable_checkpointing=False)
