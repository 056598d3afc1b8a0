"""What a training on noisy labels tells its loggers at the end of each epoch: numbers, pictures, tables."""

import time
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.loggers import Logger, WandbLogger
from torch import Tensor

from lightning_noisy.matrix_files import COUNTED, LEARNED
from lightning_noisy.noise.counting import counts_to_shares
from lightning_noisy.noise.matrix import mean_row_distance, mean_row_entropy
from lightning_noisy.pictures import pixels, training_curves_figure, transition_matrices_pixels
from lightning_noisy.pictures.heatmaps import TRUE
from lightning_noisy.training.callbacks.run_recorder import describe_run
from lightning_noisy.training.loggers.csv_logger import NoisyCSVLogger
from lightning_noisy.training.loggers.wandb_logger import NoisyWandbLogger, log_picture, log_table, takes_pictures

MANY_CLASSES = 200
"""Above it matrices are drawn a tenth as often and no tables are written."""
LOG_STATE_KEY = "wandb_run"
"""Where a checkpoint holds which W&B run to resume."""
CSV_KEY = "csv_log"
"""Where a checkpoint holds which CSV file to continue."""


class NoiseLog(L.Callback):
    """Logs the noise and the speed of the training.

    At the end of every epoch, for every logger: ``train/loss_clean``, the mean cross-entropy of the clean logits
    against the labels that were trained on; ``noise/entropy``, the mean entropy of the rows of the learned transition
    matrix in nats; ``noise/distance_to_truth``, the mean total variation distance of the estimate's rows to the true
    ones, where the data module knows them (the estimate is counted in this epoch where the layer follows counts, else
    learned); ``images_per_second`` of all processes, without validation; ``gpu_memory_gb``, the
    largest memory in use so far on the first GPU, in units of 10⁹ bytes.

    For W&B and TensorBoard also ``noise/matrix``, the learned matrix as a heatmap, and at the end
    ``noise/label_counts``, how often each predicted class carries each label in the last epoch, beside the true matrix
    where it is known, and ``training_curves``. For W&B both matrices as a table too (``noise/matrix_table``,
    ``noise/label_counts_table``), and the facts of the run in its config.

    Args:
        every_n_epochs: How often the matrix is drawn; the last epoch is drawn in any case.
    """

    def __init__(self, every_n_epochs: int = 1) -> None:
        if every_n_epochs < 1:
            raise ValueError(
                f"Expected argument `every_n_epochs` to be an integer of at least 1, but got {every_n_epochs}."
            )
        self.every_n_epochs = every_n_epochs
        self._run_state: dict[str, Any] | None = None
        self._true_matrix: Tensor | None = None
        self._learned_matrix: Tensor | None = None
        self._epoch_drawn = -1
        self._seconds = 0.0
        self._images_before = 0.0
        self._mark = 0.0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.strategy.restore_checkpoint_after_setup:
            self._release_wandb_runs(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.strategy.restore_checkpoint_after_setup:  # a sharding strategy reads it only after `on_fit_start`
            data = getattr(trainer, "datamodule", None)
            for logger in self._release_wandb_runs(trainer):
                logger.log_hyperparams({**getattr(data, "hparams_initial", {}), **pl_module.hparams_initial})
        self._restart_clock()
        self._epoch_drawn = -1
        noise_layer = pl_module.noise_layer
        if noise_layer is not None:
            truth = getattr(getattr(trainer, "datamodule", None), "transition_matrix", None)
            fits = truth is not None and len(truth) == noise_layer.num_classes
            self._true_matrix = truth if fits else None
        pl_module.epoch_counts.so_far()  # of a run that resumes in mid-epoch, summed by all for the first one's record
        if trainer.is_global_zero:
            _log_config(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._restart_clock()
        counts = pl_module.epoch_counts
        shown = counts.so_far() if counts.epoch == trainer.current_epoch else None  # of a run that resumes in mid-epoch
        self._images_before = 0.0 if shown is None else shown.images

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_last_batch and pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        now = time.perf_counter()
        self._seconds += now - self._mark
        self._mark = now

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        values = {**self._speed_and_loss(pl_module), **self._noise(trainer, pl_module)}
        if pl_module.device.type == "cuda":
            values["gpu_memory_gb"] = torch.cuda.max_memory_allocated(pl_module.device) / 1e9
        for name, value in values.items():
            pl_module.log(name, value, rank_zero_only=True)
        num_classes = 0 if self._learned_matrix is None else len(self._learned_matrix)
        interval = self.every_n_epochs * (10 if num_classes > MANY_CLASSES else 1)
        if (trainer.current_epoch + 1) % interval == 0:
            self._draw_matrix(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self._epoch_drawn != trainer.current_epoch - 1:  # Lightning has counted on
            self._draw_matrix(trainer, pl_module)
        shown = pl_module.epoch_counts.latest
        if shown is not None and trainer.is_global_zero:
            counts, heading = shown.label_counts, COUNTED
            _log_matrix(
                trainer, pl_module, "noise/label_counts", heading, counts_to_shares(counts), counts, self._true_matrix
            )
        if trainer.is_global_zero:
            _log_curves(trainer, pl_module)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, NoisyWandbLogger):
                checkpoint[LOG_STATE_KEY] = logger.run_state()
            elif isinstance(logger, NoisyCSVLogger):
                checkpoint[CSV_KEY] = logger.metrics_file

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._run_state = checkpoint.get(LOG_STATE_KEY)
        if trainer.training and CSV_KEY in checkpoint:
            for logger in trainer.loggers:
                if isinstance(logger, NoisyCSVLogger):
                    logger.go_on(checkpoint[CSV_KEY], checkpoint["global_step"])

    def _release_wandb_runs(self, trainer: L.Trainer) -> list[NoisyWandbLogger]:
        run_state, self._run_state = self._run_state, None
        released = [logger for logger in trainer.loggers if isinstance(logger, NoisyWandbLogger)]
        for logger in released:
            logger.release(run_state)
        return released

    def _restart_clock(self) -> None:
        self._seconds, self._mark = 0.0, time.perf_counter()

    def _speed_and_loss(self, pl_module: Any) -> dict[str, Any]:
        shown = pl_module.epoch_counts.so_far()
        if shown is None:
            return {}
        images = shown.images - self._images_before
        return {"train/loss_clean": shown.clean_loss, "images_per_second": images / max(self._seconds, 1e-9)}

    def _noise(self, trainer: L.Trainer, pl_module: Any) -> dict[str, float]:
        if pl_module.noise_layer is None:
            return {}
        learned = self._learned_matrix = pl_module.noise_layer.transition_matrix().cpu()
        values = {"noise/entropy": mean_row_entropy(learned)}
        if self._true_matrix is not None:
            shown = pl_module.epoch_counts.latest if pl_module.noise_layer.config.follows_counts else None
            estimate = learned if shown is None else counts_to_shares(shown.label_counts)
            values["noise/distance_to_truth"] = mean_row_distance(estimate, self._true_matrix)
        return values

    def _draw_matrix(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._epoch_drawn = trainer.current_epoch
        if self._learned_matrix is not None and trainer.is_global_zero:
            heading = LEARNED
            _log_matrix(trainer, pl_module, "noise/matrix", heading, self._learned_matrix, self._learned_matrix)


def _log_matrix(
    trainer: L.Trainer,
    pl_module: L.LightningModule,
    name: str,
    heading: str,
    shares: Tensor,
    values: Tensor,
    truth: Tensor | None = None,
) -> None:
    """A heatmap of the shares, a table of the values, at the step that Lightning gives to this epoch's metrics."""
    loggers: list[Logger] = [logger for logger in trainer.loggers if takes_pictures(logger)]
    if not loggers:
        return
    class_names = [str(label) for label in getattr(pl_module, "class_names", None) or range(len(shares))]
    step = max(trainer.global_step - 1, 0)
    picture = transition_matrices_pixels({heading: shares} | ({} if truth is None else {TRUE: truth}), class_names)
    for logger in loggers:
        log_picture(logger, name, picture, step)
        if len(class_names) <= MANY_CLASSES:
            rows = [[label, *row] for label, row in zip(class_names, values.tolist(), strict=True)]
            log_table(logger, f"{name}_table", ["class", *class_names], rows, step)


def _log_curves(trainer: L.Trainer, pl_module: L.LightningModule) -> None:
    loggers: list[Logger] = [logger for logger in trainer.loggers if takes_pictures(logger)]
    figure = training_curves_figure(describe_run(trainer, pl_module).history) if loggers else None
    if figure is None:
        return
    picture = pixels(figure)
    for logger in loggers:
        log_picture(logger, "training_curves", picture, max(trainer.global_step - 1, 0))


def _log_config(trainer: L.Trainer, pl_module: L.LightningModule) -> None:
    loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
    if not loggers:
        return
    run = describe_run(trainer, pl_module)
    facts = {"data": run.data, "training": run.hyperparameters, "hardware": run.hardware, "processes": run.processes}
    for logger in loggers:
        logger.log_hyperparams({**facts, "versions": run.versions})
