"""The record of a Lightning run: what its checkpoints keep for the model card."""

import time
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.trainer.states import TrainerFn

from lightning_noisy.models import adapter_config
from lightning_noisy.models.adapter_files import describe_adapter
from lightning_noisy.noise.counting import counts_to_triples
from lightning_noisy.run_record import RunRecord, add_to_history, as_numbers, package_versions

RUN_RECORD_KEY = "noisy_run"
"""Where a checkpoint holds the record."""
CLI_CONFIG_KEY = "cli_config"
"""Where a checkpoint of the command line holds how it was called: ``data``, ``model``, ``trainer``."""

CLASSIFIER_HYPERPARAMETERS = (
    "optimizer",
    "lr_scheduler",
    "lr_warmup_steps",
    "layer_decay",
    "trainable_blocks",
    "image_size",
    "mixup",
    "cutmix",
    "label_smoothing",
)
"""Those of :class:`~lightning_noisy.NoisyImageClassifier` that a record keeps."""


class RunRecorder(L.Callback):
    """Puts the :class:`~lightning_noisy.run_record.RunRecord` of the run into each checkpoint."""

    def __init__(self) -> None:
        self.history: list[dict[str, float]] = []
        """What was measured in each epoch, those before a resume included."""
        self._seconds_before = 0.0
        self._start: float | None = None

    @property
    def seconds(self) -> float:
        """Wall-clock time of the training, earlier parts of a resumed one included."""
        return self._seconds_before + (0.0 if self._start is None else time.perf_counter() - self._start)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._note(trainer, "val/")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._note(trainer, "train/", "noise/")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._seconds_before, self._start = self.seconds, None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        # The module writes it too, for checkpoints of weights alone, but its hook is easily overridden.
        checkpoint[RUN_RECORD_KEY] = describe_run(trainer, pl_module).to_dict()

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._seconds_before = state_dict["seconds"]
        self.history = list(state_dict.get("history", []))

    def _note(self, trainer: Any, *parts: str) -> None:
        """The metrics of this moment: others are still those of an earlier one."""
        metrics = {
            name: value
            for name, value in trainer.callback_metrics.items()
            if name.startswith(parts) and not name.endswith("_step")
        }
        add_to_history(self.history, _epochs(trainer), metrics)


def describe_run(trainer: L.Trainer, pl_module: L.LightningModule) -> RunRecord:
    """The record of what the trainer has done so far."""
    recorder = _callback(trainer, RunRecorder)
    counts: Any = getattr(pl_module, "epoch_counts", None)
    shown = None if counts is None else counts.latest
    device = trainer.strategy.root_device
    return RunRecord(
        trainer="lightning",
        hyperparameters=_hyperparameters(trainer, pl_module),
        adapter=_adapter(getattr(pl_module, "backbone", None)),
        data=_describe_data(getattr(trainer, "datamodule", None)),
        metrics=_results(trainer.callback_metrics),
        history=[] if recorder is None else list(recorder.history),
        label_counts=[] if shown is None else counts_to_triples(shown.label_counts),
        epochs=_epochs(trainer),
        steps=trainer.global_step,
        seconds=0.0 if recorder is None else recorder.seconds,
        hardware=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        processes=trainer.world_size,
        versions=package_versions(),
    )


def _adapter(backbone: Any) -> dict[str, Any]:
    config = adapter_config(backbone)
    return {} if config is None else describe_adapter(config, backbone)


def _results(metrics: Mapping[str, Any]) -> dict[str, float]:
    """What tells of the model; speed, memory and learning rates tell of the machine and of the moment."""
    passing = ("images_per_second", "gpu_memory_gb", "lr-")
    return {name: value for name, value in as_numbers(metrics).items() if not name.startswith(passing)}


def _epochs(trainer: Any) -> float:
    batches, in_epoch = trainer.fit_loop.epoch_loop.batch_progress.total.completed, trainer.num_training_batches
    return round(batches / in_epoch, 3) if 0 < in_epoch < float("inf") else float(trainer.current_epoch)


def _callback(trainer: Any, kind: type) -> Any:
    return next((callback for callback in trainer.callbacks if isinstance(callback, kind)), None)


def _hyperparameters(trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
    hparams = pl_module.hparams
    found = {name: _in_words(hparams[name]) for name in CLASSIFIER_HYPERPARAMETERS if name in hparams}
    if trainer.optimizers:
        optimizer = trainer.optimizers[0]
        settings = {name: optimizer.defaults[name] for name in ("lr", "weight_decay") if name in optimizer.defaults}
        found["optimizer"] = _in_words({"class_path": type(optimizer).__name__, "init_args": settings})
    found["batch_size"] = getattr(getattr(trainer, "datamodule", None), "batch_size", None)
    found["accumulate_grad_batches"] = trainer.accumulate_grad_batches
    found["gradient_clip_val"] = trainer.gradient_clip_val
    found["precision"] = str(trainer.precision)
    found["max_epochs"] = trainer.max_epochs
    return {name: value for name, value in found.items() if value not in (None, 0, 0.0)}


def _in_words(value: Any) -> Any:
    if not isinstance(value, dict) or "class_path" not in value:
        return value
    arguments = ", ".join(f"{name}={argument}" for name, argument in value.get("init_args", {}).items())
    return f"{value['class_path'].rpartition('.')[2]}({arguments})"


def _describe_data(datamodule: Any) -> dict[str, Any]:
    """Data modules of this package describe themselves; so may others."""
    describe = getattr(datamodule, "describe", None)
    return describe() if callable(describe) else {}
