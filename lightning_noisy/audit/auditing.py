"""One look at all given labels: from a trained model and its data to a finished audit."""

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as L

from lightning_noisy.audit import folds as fold_files
from lightning_noisy.audit import parts
from lightning_noisy.audit.folds import TrainFold, assign_folds, train_without
from lightning_noisy.audit.issues_csv import write_issues
from lightning_noisy.audit.label_audit import LabelAudit
from lightning_noisy.audit.model import AuditModule, check_classes, fingerprint, trained_model
from lightning_noisy.audit.predicting import AuditData, AuditedImages, predict
from lightning_noisy.audit.ranking import sum_up, write_ranking
from lightning_noisy.audit.source import describe_source
from lightning_noisy.audit.summary import SUMMARY_FILE, summarise
from lightning_noisy.data import NoisyImageDataModule
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
    _audit_arg_validation(datamodule, folds, train_fold)
    trained = trained_model(model)
    check_classes(trained, datamodule.class_names)
    images = AuditedImages({split: datamodule.splits[split] for split in audited_splits(datamodule)})
    audit_id = _audit_id(trained, images, folds)
    temporary = tempfile.TemporaryDirectory(prefix="lightning-noisy-audit-") if output is None else None
    directory = Path(output or cast(tempfile.TemporaryDirectory, temporary).name).expanduser()
    if not _is_finished(directory, audit_id, probabilities):
        trainer = trainer or L.Trainer(devices=1, logger=False, enable_checkpointing=False)
        total = _look_at_all(
            trainer, trained, datamodule, images, directory, audit_id, folds, train_fold, probabilities
        )
        if trainer.is_global_zero:
            _finish(datamodule, directory, audit_id, total, folds, probabilities)
        trainer.strategy.barrier()
    return LabelAudit(directory, images.splits, temporary)


def audited_splits(datamodule: NoisyImageDataModule) -> list[str]:
    """The splits whose labels are in doubt: training and validation, but for labels that were checked by hand."""
    return [split for split in ("train", "val") if split in datamodule.splits and split not in datamodule.clean_splits]


def _look_at_all(
    trainer: L.Trainer, trained: TrainedModel, datamodule: NoisyImageDataModule, images: AuditedImages, directory: Path,
    audit_id: str, folds: int, train_fold: TrainFold | None, probabilities: bool,
) -> int:  # fmt: skip
    """Fills the parts; how many images there are, broken ones left out."""
    directory.mkdir(parents=True, exist_ok=True)
    state = f"{audit_id}-with-probabilities" if probabilities else audit_id
    fold_of = assign_folds(images, folds, datamodule.seed)
    total = 0
    for fold in range(max(folds, 1)):
        finished = fold_files.images_of_finished(directory, fold, state)
        if finished is None:
            model = trained
            if train_fold is not None and folds:
                model = train_without(train_fold, datamodule, images, fold_of, fold, directory)
            # Of its own, so that the user's is not bound to the trainer of an audit.
            own = datamodule.with_splits(datamodule.splits)
            data = AuditData(own, images, fold_of == fold, directory, state)
            predict(trainer, AuditModule(model, probabilities), data)
            finished = int((data.readable & data.wanted).sum())
            if trainer.is_global_zero:
                fold_files.mark_finished(directory, fold, state, finished)
        total += finished
    return total


def _finish(
    datamodule: NoisyImageDataModule, directory: Path, audit_id: str, total: int, folds: int, probabilities: bool
) -> None:
    write_ranking(directory, datamodule.class_names, total, probabilities)
    sums = sum_up(directory, datamodule.num_classes)
    write_issues(directory)
    summary = summarise(sums, datamodule.class_names, audit_id, folds=folds, source=describe_source(datamodule))
    summary.write(directory)  # last: it says that all is there
    shutil.rmtree(directory / parts.FOLDER)
    shutil.rmtree(directory / fold_files.FOLDER, ignore_errors=True)


def _is_finished(directory: Path, audit_id: str, probabilities: bool) -> bool:
    if not (directory / SUMMARY_FILE).is_file():
        return False
    audit = LabelAudit(directory)
    if audit.summary.audit_id != audit_id:
        raise ValueError(
            f"Expected argument `output` to be a new folder or one of the same audit, but {str(directory)!r} holds the "
            "audit of another model or of other labels. Name another folder, or remove this one."
        )
    return audit.probabilities_path.is_file() or not probabilities


def _audit_id(trained: TrainedModel, images: AuditedImages, folds: int) -> str:
    digest = hashlib.sha256(f"{fingerprint(trained)} {folds} {trained.class_names}".encode())
    for ids, labels in images.blocks():
        digest.update("\0".join(ids.to_pylist()).encode())
        digest.update(labels.tobytes())
    return digest.hexdigest()[:32]


def _audit_arg_validation(datamodule: Any, folds: int, train_fold: TrainFold | None) -> None:
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
