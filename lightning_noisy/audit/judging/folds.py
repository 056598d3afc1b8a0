"""Out-of-sample probabilities: each image is looked at by a model that was trained without it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as L
import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from lightning_noisy.audit.judging.model import trained_model
from lightning_noisy.data import NoisyImageDataModule
from lightning_noisy.export.trained_model import TrainedModel
from lightning_noisy.inference import parts
from lightning_noisy.inference.images import AllImages
from lightning_noisy.utils.atomic_files import write_text

FOLDS_FOLDER = "folds"
"""Within that of the parts: the trainings belong to one audit as the parts do."""

TrainFold = Callable[[NoisyImageDataModule, Path], L.LightningModule]
"""Trains a new model on the images of a data module, with its files in a folder of its own."""


def assign_folds(images: AllImages, folds: int, seed: int) -> np.ndarray:
    """(N,) the fold of each image: training images class by class, the held-out ones, which none learns from, to 0.

    Args:
        images: All images.
        folds: Their number; below 2 all are in fold 0.
        seed: Seeds the draw.

    Raises:
        ValueError: If there are more folds than images.
    """
    fold_of = np.zeros(len(images), dtype=np.int64)
    if folds > len(images.splits["train"]):
        raise ValueError(
            f"Expected argument `folds` to be at most the number of training images, {len(images.splits['train'])}, "
            f"but got {folds}."
        )
    if folds > 1:
        from sklearn.model_selection import StratifiedKFold  # takes a second that every command would wait for

        labels = images.splits["train"].noisy_labels
        for fold, (_, rows) in enumerate(StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels)):
            fold_of[images.positions("train", rows)] = fold
    return fold_of


def train_without(
    train_fold: TrainFold, datamodule: NoisyImageDataModule, images: AllImages, fold_of: np.ndarray, fold: int,
    directory: Path,
) -> TrainedModel:  # fmt: skip
    """The model of a fold.

    Args:
        train_fold: Trains it.
        datamodule: All images.
        images: The same, by position.
        fold_of: (N,) the fold of each image.
        fold: The one whose images it must not see.
        directory: The audit's folder.
    """
    rank_zero_info(f"Fold {fold + 1} of {fold_of.max() + 1}")
    train = datamodule.splits["train"]
    rows = np.flatnonzero(fold_of[images.positions("train", np.arange(len(train)))] != fold)
    others = datamodule.with_splits({**datamodule.splits, "train": train.select(rows)})
    return trained_model(train_fold(others, directory / parts.PARTS_FOLDER / FOLDS_FOLDER / str(fold)))


def images_in_finished_fold(directory: Path, fold: int) -> int | None:
    """How many images a fold has whose rows are all there; ``None`` where they are not."""
    path = _marker(directory, fold)
    return json.loads(path.read_text(encoding="utf-8"))["images"] if path.is_file() else None


def mark_finished(directory: Path, fold: int, images: int) -> None:
    """Says so; the fold's own files go."""
    write_text(_marker(directory, fold), json.dumps({"images": images}))
    shutil.rmtree(directory / parts.PARTS_FOLDER / FOLDS_FOLDER / str(fold), ignore_errors=True)


def _marker(directory: Path, fold: int) -> Path:
    return directory / parts.PARTS_FOLDER / f"fold-{fold}.json"
