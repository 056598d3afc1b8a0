"""Callbacks that leave files behind: the clean model, pictures of the noise, predictions."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_noisy import models
from lightning_noisy.matrix_files import COUNTED, LEARNED, write_matrices
from lightning_noisy.noise.counting import counts_to_shares
from lightning_noisy.pictures import draw_training_curves
from lightning_noisy.pictures.heatmaps import TRUE
from lightning_noisy.training.callbacks.run_recorder import describe_run
from lightning_noisy.training.classifier import NoisyImageClassifier
from lightning_noisy.training.earlier_training import keep_earlier_training
from lightning_noisy.training.loggers.wandb_artifacts import log_model_artifacts
from lightning_noisy.training.sharding import is_sharded
from lightning_noisy.utils.text import relative_path

FILES_OF_A_RUN = (
    "clean_model",
    "config.yaml",
    "label_counts.csv",
    "metrics.csv",
    "training_curves.png",
    "transition_matrix.csv",
    "transition_matrix.png",
)
"""What a training writes into a folder that it may not be the first in; folders of logs are numbered by default."""


class RunFiles(L.Callback):
    """Writes what remains of a training when it ends.

    ``clean_model/`` is the backbone alone in its library's own format, ``transition_matrix.csv`` what the noise layer
    has learned, ``label_counts.csv`` how often each predicted class carries each label (the last epoch, each row as
    shares), ``transition_matrix.png`` both of them, beside the true matrix where the data know it, and
    ``training_curves.png`` the course of accuracies, losses and the layer's share. A W&B run gets the clean model as an
    artifact. What an earlier training has left there is moved into ``earlier-DATE-TIME/`` when one begins anew.

    Args:
        directory: Where to write; the logger's directory by default.
    """

    def __init__(self, directory: str | None = None) -> None:
        self.directory = directory
        self.written: Path | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        directory = output_directory(trainer, self.directory)
        keep_earlier_training(trainer, directory, FILES_OF_A_RUN)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if getattr(trainer, "fast_dev_run", False) or not isinstance(pl_module, NoisyImageClassifier):
            return
        # Where the model is sharded these ask all processes.
        directory = output_directory(trainer, self.directory)
        learned, shown = _learned_matrix(pl_module), pl_module.epoch_counts.latest
        counted = None if shown is None else counts_to_shares(shown.label_counts)
        clean_model = pl_module.clean_model() if trainer.is_global_zero or is_sharded(pl_module) else None
        if clean_model is None or not trainer.is_global_zero:
            return
        directory.mkdir(parents=True, exist_ok=True)
        models.save_backbone(clean_model, directory / "clean_model", pl_module.class_names)
        true_matrix = getattr(getattr(trainer, "datamodule", None), "transition_matrix", None)
        headings = {LEARNED: learned, COUNTED: counted, TRUE: true_matrix}
        matrices = {heading: matrix for heading, matrix in headings.items() if matrix is not None}
        title = f"Label noise after {trainer.current_epoch} epochs"
        write_matrices(directory, matrices, pl_module.class_names, title)
        record = describe_run(trainer, pl_module)
        about = record.data.get("name", "")
        draw_training_curves(directory / "training_curves.png", record.history, f"Training on {about}" if about else "")
        self.written = directory
        log_model_artifacts(trainer, pl_module, directory / "clean_model")


class PredictionFile(BasePredictionWriter):
    """Writes ``predictions.csv`` during ``predict``: one row for each image, in the order of the data.

    Columns: ``id``, ``given_label``, ``predicted_label``, ``probability`` (the network's own, of the predicted class).
    With several processes each writes ``predictions-RANK.csv``.

    Args:
        directory: Where to write; the logger's directory by default.
    """

    def __init__(self, directory: str | None = None) -> None:
        super().__init__(write_interval="batch")
        self.directory = directory

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        name = "predictions.csv" if trainer.world_size == 1 else f"predictions-{trainer.global_rank}.csv"
        self.path = output_directory(trainer, self.directory) / name
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(["id", "given_label", "predicted_label", "probability"])

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        if not isinstance(pl_module, NoisyImageClassifier):
            return
        probabilities, predicted = prediction["clean_logits"].softmax(dim=1).max(dim=1)
        names = pl_module.class_names
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(
                (identifier, names[given], names[label], f"{probability:.6g}")
                for identifier, given, label, probability in zip(
                    prediction["ids"],
                    prediction["noisy_labels"].tolist(),
                    predicted.tolist(),
                    probabilities.tolist(),
                    strict=True,
                )
            )

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        rank_zero_info(f"The predictions are in {relative_path(self.path)}")


def output_directory(trainer: L.Trainer, directory: str | None) -> Path:
    """The directory that was asked for, else the logger's, else the Trainer's. Every process has to ask."""
    return Path(directory or trainer.log_dir or trainer.default_root_dir)


def _learned_matrix(pl_module: NoisyImageClassifier) -> Tensor | None:
    return None if pl_module.noise_layer is None else pl_module.noise_layer.transition_matrix().cpu()
