"""One look at all given labels: from a trained model and its data to a finished audit."""

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pyarrow as pa
from lightning.pytorch.utilities import rank_zero_info

from lightning_noisy.audit.issues.columns import Pictures, issue_columns
from lightning_noisy.audit.issues.counting import summarise_issues
from lightning_noisy.audit.issues.duplicates import find_duplicates
from lightning_noisy.audit.judging import folds as fold_files
from lightning_noisy.audit.judging.copies import judge_copies_together
from lightning_noisy.audit.judging.folds import TrainFold, assign_folds, train_without
from lightning_noisy.audit.judging.model import (
    AuditModule,
    LookAtPictures,
    check_classes,
    evidence,
    fingerprint,
    trained_model,
)
from lightning_noisy.audit.label_audit import LabelAudit
from lightning_noisy.audit.run import AuditRun, LabelScan, images_to_audit, one_device
from lightning_noisy.audit.schema import LOG_PROBS, SPLITS, part_schema
from lightning_noisy.data import NoisyImageDataModule
from lightning_noisy.data.loader import world
from lightning_noisy.export.trained_model import TrainedModel
from lightning_noisy.inference import parts
from lightning_noisy.inference.facts import FACTS_SCHEMA, facts_arrays, read_facts
from lightning_noisy.inference.images import AllImages, unique_over_splits
from lightning_noisy.inference.predicting import EveryImage, predict

OTHERS_FOLDER = "others"
"""Within that of the parts: what the images tell whose labels are not in doubt."""


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

    The training images and those held out for validation are looked at once, not augmented. Those for testing are read
    too, for pictures that are among the audited ones. In several processes every one of them must call it. A run that
    was killed resumes where it stopped, given the same ``output``.

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
    images = images_to_audit(datamodule)
    others = _others(datamodule, images)
    trainer = trainer or one_device()
    audit_id = _audit_id(trained, datamodule, images, others, trainer, folds, train_fold)
    judge = f"{folds} models, each trained without the images that it judges" if folds else "the trained model"
    run = AuditRun(trainer, datamodule, images, audit_id, judge, folds, probabilities)
    look = _LookByModels(trainer, trained, datamodule, images, others, folds, train_fold, probabilities)
    return run.make(output, look.at_all, look.with_issues)


@dataclass
class _LookByModels:
    """A look at all labels by one model, or by one for each fold."""

    trainer: L.Trainer
    trained: TrainedModel
    datamodule: NoisyImageDataModule
    images: AllImages
    others: AllImages
    folds: int
    train_fold: TrainFold | None
    probabilities: bool

    def at_all(self, directory: Path) -> None:
        """Fills the parts; broken images are left out."""
        fold_of = assign_folds(self.images, self.folds, self.datamodule.seed)
        for fold in range(max(self.folds, 1)):
            if fold_files.images_in_finished_fold(directory, fold) is None:
                self._look_at(fold_of, fold, directory)
        self._look_at_others(directory / parts.PARTS_FOLDER / OTHERS_FOLDER)

    def _look_at_others(self, folder: Path) -> None:
        """Only at the pictures themselves: whether they are among the audited ones."""
        if not len(self.others):
            return
        if self.trainer.is_global_zero:
            (folder / parts.PARTS_FOLDER).mkdir(parents=True, exist_ok=True)
        own = self.datamodule.with_splits(unique_over_splits(self.datamodule.splits))
        data = EveryImage(own, self.others, np.ones(len(self.others), dtype=bool), folder)
        module = LookAtPictures(AuditModule(self.trained).data_config)
        predict(self.trainer, module, data, pa.schema([pa.field("position", pa.int64()), *FACTS_SCHEMA]))

    def with_issues(self, directory: Path) -> LabelScan:
        """What the pictures themselves tell; without features."""
        in_folds = [fold_files.images_in_finished_fold(directory, fold) or 0 for fold in range(max(self.folds, 1))]
        audited, positions = _pictures(self.images, directory)
        others, _ = _pictures(self.others, directory / parts.PARTS_FOLDER / OTHERS_FOLDER)
        facts = {name: np.concatenate([values, others.facts[name]]) for name, values in audited.facts.items()}
        labels, splits = (
            np.concatenate([getattr(audited, name), getattr(others, name)]) for name in ("labels", "splits")
        )
        pictures = Pictures(facts, labels, splits)
        rank_zero_info(f"Looking for duplicates among {len(labels):,} images")
        duplicates = find_duplicates(facts)
        group = duplicates.group[: len(positions)]
        judge_copies_together(directory, positions, audited.labels, group, evidence(self.trained))
        rows = np.arange(len(positions))
        issues = issue_columns(pictures, duplicates)
        found = summarise_issues(issues, pictures, duplicates, rows)
        return LabelScan(
            sum(in_folds), issues.take(pa.array(rows)).append_column("position", pa.array(positions)), found
        )

    def _look_at(self, fold_of: np.ndarray, fold: int, directory: Path) -> None:
        model = self.trained
        if self.train_fold is not None and self.folds:
            model = train_without(self.train_fold, self.datamodule, self.images, fold_of, fold, directory)
        # Of its own, so that the user's is not bound to the trainer of an audit.
        own = self.datamodule.with_splits(self.images.splits)
        data = EveryImage(own, self.images, fold_of == fold, directory)
        log_probs = pa.field(LOG_PROBS, pa.list_(pa.float32(), len(self.trained.class_names)))
        schema = pa.schema([*part_schema(self.probabilities), log_probs, *FACTS_SCHEMA])
        predict(self.trainer, AuditModule(model, self.probabilities), data, schema)
        if self.trainer.is_global_zero:
            images = int((data.wanted & parts.positions_done(directory, len(self.images))).sum())
            fold_files.mark_finished(directory, fold, images)


def _others(datamodule: NoisyImageDataModule, images: AllImages) -> AllImages:
    """The images of all splits that are not audited."""
    splits = unique_over_splits(datamodule.splits)
    return AllImages({split: part for split, part in splits.items() if split not in images.splits})


def _pictures(images: AllImages, directory: Path) -> tuple[Pictures, np.ndarray]:
    """Those in the parts of a folder, and their positions."""
    splits = images.splits
    positions = np.flatnonzero(parts.positions_done(directory, len(images)))
    labels = np.concatenate([np.empty(0, np.int64), *(part.noisy_labels for part in splits.values())])
    split_of = np.repeat(
        np.array([SPLITS.index(split) for split in splits], dtype=np.int64), [len(part) for part in splits.values()]
    )
    return Pictures(facts_arrays(read_facts(directory)), labels[positions], split_of[positions]), positions


def _audit_id(
    trained: TrainedModel, datamodule: NoisyImageDataModule, images: AllImages, others: AllImages, trainer: L.Trainer,
    folds: int, train_fold: TrainFold | None,
) -> str:  # fmt: skip
    """Changes with all that the numbers depend on: weights, noise, images, labels, how they are read and computed."""
    settings: list[Any] = [fingerprint(trained), trained.class_names, str(trainer.precision), folds]
    settings += [AuditModule(trained).data_config, datamodule.image_size, datamodule.on_broken]
    if folds:
        # A `partial` carries the settings of the trainings.
        settings += [datamodule.seed, repr(train_fold.args) if isinstance(train_fold, partial) else ""]
    parts_of_all = [*images.splits.values(), *others.splits.values()]
    settings += [part.store.fingerprint(np.asarray(part.rows)) for part in parts_of_all]
    digest = hashlib.sha256(json.dumps(settings, default=str).encode())
    for ids, labels in (*images.blocks(), *others.blocks()):
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
