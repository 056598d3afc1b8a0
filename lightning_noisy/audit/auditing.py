"""One look at all given labels: from a trained model and its data to a finished audit."""

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as L
import numpy as np

from lightning_noisy.audit import folds as fold_files
from lightning_noisy.audit import parts
from lightning_noisy.audit.folds import TrainFold, assign_folds, train_without
from lightning_noisy.audit.issues_csv import write_issues
from lightning_noisy.audit.label_audit import LabelAudit
from lightning_noisy.audit.model import AuditModule, check_classes, fingerprint, trained_model
from lightning_noisy.audit.predicting import AuditData, AuditedImages, predict
from lightning_noisy.audit.ranking import sum_up, write_ranking
from lightning_noisy.audit.source import describe_source, left_out, unique_over_splits
from lightning_noisy.audit.summary import SUMMARY_FILE, summarise
from lightning_noisy.data import NoisyImageDataModule
from lightning_noisy.data.loading import world
from lightning_noisy.hub.trained_model import TrainedModel


def audit_labels(
    model: Any,
    datamodule: NoisyImageDataModule,
    output: str | Path | None = None,
    *,
    trainer: L.Trainer | None = None,
    folds: int = 0,
    train_fold: TrainFold | None = None,
    probabilities: bool = False,
) -> LabelAudit:
    """Which of the given labels are wrong, and what they should be.

    The training images and those held out for validation are looked at once, not augmented. In several processes every
    one of them must call it. A run that was killed goes on where it was, given the same ``output``.

    Args:
        model: A checkpoint's path, a :class:`~lightning.pytorch.LightningModule`, or a model of transformers or of
            timm, trained on these labels.
        datamodule: The images and their given labels.
        output: A folder for the audit, which all processes share; without it the audit is kept in a temporary one until
            it is written.
        trainer: Decides on devices, processes and precision; by default one device of the best kind.
        folds: 0 takes the probabilities of ``model``. From 2 on so many new models are trained, each without the images
            that it then looks at.
        train_fold: How to train such a model: ``train_fold(datamodule, directory) -> model``.
        probabilities: Whether to keep the posterior of all classes too, in ``probabilities.parquet``.

    Raises:
        ValueError: If the model and the data do not fit together, or ``output`` holds another audit.
    """
    _audit_arg_validation(datamodule, folds, train_fold, trainer)
    trained = trained_model(model)
    check_classes(trained, datamodule.class_names)
    splits = unique_over_splits(datamodule.splits)
    images = AuditedImages({split: splits[split] for split in audited_splits(datamodule)})
    trainer = trainer or L.Trainer(devices=1, logger=False, enable_checkpointing=False)
    audit_id = _audit_id(trained, datamodule, images, trainer, folds, train_fold)
    temporary = tempfile.TemporaryDirectory(prefix="lightning-noisy-audit-") if output is None else None
    directory = Path(output or cast(tempfile.TemporaryDirectory, temporary).name).expanduser()
    if not _is_finished(directory, audit_id, probabilities):
        run = _Run(trainer, trained, datamodule, images, directory, folds, train_fold, probabilities)
        parts.begin(directory, f"{audit_id} {probabilities}", trainer.is_global_zero)
        total = run.look_at_all()
        if trainer.is_global_zero:
            run.finish(audit_id, total)
        trainer.strategy.barrier()
    if trainer.is_global_zero:
        shutil.rmtree(directory / parts.FOLDER, ignore_errors=True)
    return LabelAudit(directory, images.splits, temporary)


def audited_splits(datamodule: NoisyImageDataModule) -> list[str]:
    """The splits whose labels are in doubt: training and validation, but for labels that were checked by hand."""
    return [split for split in ("train", "val") if split in datamodule.splits and split not in datamodule.clean_splits]


@dataclass
class _Run:
    """An audit under way."""

    trainer: L.Trainer
    trained: TrainedModel
    datamodule: NoisyImageDataModule
    images: AuditedImages
    directory: Path
    folds: int
    train_fold: TrainFold | None
    probabilities: bool

    def look_at_all(self) -> int:
        """Fills the parts; how many images there are, broken ones left out."""
        fold_of = assign_folds(self.images, self.folds, self.datamodule.seed)
        total = 0
        for fold in range(max(self.folds, 1)):
            finished = fold_files.images_of_finished(self.directory, fold)
            total += self._look_at(fold_of, fold) if finished is None else finished
        return total

    def finish(self, audit_id: str, total: int) -> None:
        """From the parts to the files that stay."""
        names = self.datamodule.class_names
        write_ranking(self.directory, names, total, self.probabilities)
        sums = sum_up(self.directory, len(names))
        write_issues(self.directory)
        summary = summarise(
            sums, names, audit_id, folds=self.folds, has_probabilities=self.probabilities,
            left_out=left_out(self.datamodule, list(self.images.splits)), source=describe_source(self.datamodule),
        )  # fmt: skip
        summary.write(self.directory)  # last: it says that all is there

    def _look_at(self, fold_of: np.ndarray, fold: int) -> int:
        model = self.trained
        if self.train_fold is not None and self.folds:
            model = train_without(self.train_fold, self.datamodule, self.images, fold_of, fold, self.directory)
        # Of its own, so that the user's is not bound to the trainer of an audit.
        own = self.datamodule.with_splits(self.images.splits)
        data = AuditData(own, self.images, fold_of == fold, self.directory)
        predict(self.trainer, AuditModule(model, self.probabilities), data)
        if not self.trainer.is_global_zero:
            return 0
        done = parts.positions_done(self.directory, len(self.images))
        missing = int((data.wanted & data.readable & ~done).sum())
        if missing:
            raise ValueError(
                f"The rows of {missing} images are missing in {str(self.directory)!r}. All processes must write to one "
                "folder that they share, and the trainer must not limit the batches (`limit_predict_batches`, "
                "`fast_dev_run`); then run the same again."
            )
        images = int((data.wanted & done).sum())
        fold_files.mark_finished(self.directory, fold, images)
        return images


def _is_finished(directory: Path, audit_id: str, probabilities: bool) -> bool:
    if not (directory / SUMMARY_FILE).is_file():
        return False
    audit = LabelAudit(directory)
    if audit.summary.audit_id != audit_id:
        raise ValueError(
            f"Expected argument `output` to be a new folder or one of the same audit, but {str(directory)!r} holds the "
            "audit of another model or of other labels. Name another folder, or remove this one."
        )
    return audit.summary.has_probabilities or not probabilities


def _audit_id(
    trained: TrainedModel, datamodule: NoisyImageDataModule, images: AuditedImages, trainer: L.Trainer, folds: int,
    train_fold: TrainFold | None,
) -> str:  # fmt: skip
    """Changes with all that the numbers depend on: weights, noise, images, labels, how they are read and computed."""
    settings: list[Any] = [fingerprint(trained), trained.class_names, str(trainer.precision), folds]
    settings += [AuditModule(trained).data_config, datamodule.image_size, datamodule.on_broken]
    if folds:
        # A `partial` carries the settings of the trainings.
        settings += [datamodule.seed, repr(train_fold.args) if isinstance(train_fold, partial) else ""]
    settings += [part.store.fingerprint(np.asarray(part.rows)) for part in images.splits.values()]
    digest = hashlib.sha256(json.dumps(settings, default=str).encode())
    for ids, labels in images.blocks():
        digest.update("\0".join(ids.to_pylist()).encode())
        digest.update(labels.tobytes())
    return digest.hexdigest()[:32]


def _audit_arg_validation(datamodule: Any, folds: int, train_fold: TrainFold | None, trainer: L.Trainer | None) -> None:
    if not isinstance(datamodule, NoisyImageDataModule):
        raise ValueError(
            f"Expected argument `datamodule` to be a NoisyImageDataModule, but got {type(datamodule).__name__}. Images "
            "in shards are audited through a manifest of their files."
        )
    if folds < 0 or folds == 1:
        raise ValueError(f"Expected argument `folds` to be 0 or an integer of at least 2, but got {folds}.")
    if folds and train_fold is None:
        raise ValueError(
            f"Expected argument `train_fold` to be given where `folds` is {folds}: a function that trains a new model, "
            "`train_fold(datamodule, directory) -> model`."
        )
    if trainer is None and world()[0] > 1:
        raise ValueError(
            f"Expected argument `trainer` to be given where {world()[0]} processes audit together. Give the one that "
            "they train by."
        )
