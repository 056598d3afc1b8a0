"""What the transformers Trainer must tell a model with a noise layer, and what the training tells its user."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import DEFAULT_CALLBACKS, TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.utils import logging

from lightning_noisy import models
from lightning_noisy.hf.arguments import check_arguments, check_columns
from lightning_noisy.hf.epoch_state import (
    STATE_KEY,
    check_processes,
    exported_counts,
    own_weights_whole,
    restore_counts,
)
from lightning_noisy.hf.kept_layer import check_layer_is_kept, keep_layer_with_adapter
from lightning_noisy.hf.model import NoisyForImageClassification
from lightning_noisy.hf.wrapping import check_layer_is_told, noisy_model_inside
from lightning_noisy.models.adapter_files import describe_adapter
from lightning_noisy.noise.counting import counts_to_triples, lost_classes
from lightning_noisy.noise.epoch_counts import EpochSummary
from lightning_noisy.run_record import RECORD_FILE, add_to_history, as_numbers, package_versions, read_record

logger = logging.get_logger(__name__)

LOST_BELOW = 0.01
"""A class is lost when it is predicted for fewer than this share of the images that carry its label."""

GENERIC_NAMES = ("imagefolder", "parquet", "csv", "json", "arrow", "webdataset", "generator")
"""What `datasets` calls data that lie in files, which says nothing."""

MEASURED = ("loss", "eval_", "noise/")
"""How the names of metrics begin whose course the record keeps."""

RECORDED_ARGUMENTS = (
    "learning_rate",
    "weight_decay",
    "optim",
    "lr_scheduler_type",
    "warmup_steps",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "label_smoothing_factor",
    "max_grad_norm",
    "bf16",
    "fp16",
    "seed",
)
"""The training arguments that the record keeps."""


def add_to_every_trainer() -> None:
    """Trainers that are made from now on get the callback: the plain one can't learn otherwise what a model needs."""
    registered = cast(list[type[TrainerCallback]], DEFAULT_CALLBACKS)
    if NoiseLayerCallback not in registered:
        registered.append(NoiseLayerCallback)


class NoiseLayerCallback(TrainerCallback, ExportableState):
    """Tells a :class:`NoisyForImageClassification` the epoch and keeps the record of its training.

    Where a program makes such a model every Trainer gets one, the plain one too; it leaves other models alone. It adds
    ``noise/estimated_rate`` (the share of the training labels with which the network disagrees, last epoch),
    ``noise/trace`` (of the layer's transition matrix) and ``noise/share`` (the layer's share of the loss) to the
    training logs.

    What the epoch under way has shown is in every checkpoint, whoever asks for it. In several processes the plain
    Trainer's checkpoint on SIGTERM has only that of the first one; ``NoisyTrainer``'s has all.
    """

    def __init__(self) -> None:
        self._model: NoisyForImageClassification | None = None
        self._shown: EpochSummary | None = None
        self._lost: set[int] = set()
        self._epoch = 0
        self._evaluated_at: int | None = None
        self._start = 0.0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps; the Trainer asks in the first process alone."""
        return exported_counts(self._model, of_this_process=True)

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        keep_layer_with_adapter(kwargs.get("model"))  # before there is an optimizer
        if (model := _noisy_model(kwargs)) is not None:
            check_arguments(model, args)
            _note_adapter(model)  # of weights that are not sharded yet

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._model = model = _noisy_model(kwargs)
        if model is None:
            check_layer_is_told(kwargs.get("model"))
            return
        check_processes(model, args)
        check_columns(args, kwargs.get("train_dataloader"))
        check_layer_is_kept(kwargs.get("model"))
        self._start = time.perf_counter()
        self._epoch = int(state.epoch or 0) - 1
        self._shown, self._lost, self._evaluated_at = None, set(), None
        model.loss_is_used = False
        model.set_epoch(None)  # until the epoch begins; a training that broke off may have left its own
        restore_counts(model, state, args.process_index, epoch_anew=args.ignore_data_skip)
        state.stateful_callbacks.setdefault(STATE_KEY, self.state())  # type: ignore[union-attr]
        self._notice_learning(kwargs["optimizer"], model.noise_layer)
        self._notice_warmup(model, state)
        _take_processor(model, kwargs.get("processing_class"))
        _note_adapter(model)
        record = model.run_record
        record.trainer = "transformers"
        record.history = []
        _note_history(model, state.log_history)
        record.hyperparameters = _hyperparameters(args)
        record.data = record.data | _describe(kwargs.get("train_dataloader"))
        record.processes = args.world_size
        record.hardware = _device_name(args.device)
        record.versions = package_versions()

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model = _noisy_model(kwargs)
        if model is not None:
            self._epoch += 1
            with own_weights_whole(kwargs["model"]):
                model.set_epoch(self._epoch)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model = _noisy_model(kwargs)
        if model is None or (shown := model.epoch_counts.so_far()) is None:
            return
        self._warn_of_an_unused_loss(model)
        self._shown = shown
        model.run_record.label_counts = counts_to_triples(shown.label_counts)
        self._note_progress(model, state)
        if not model.in_warmup:
            self._warn_of_lost_classes(model, args)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        model = _noisy_model(kwargs)
        if model is None or not logs:
            return
        if "loss" in logs:
            logs.update(self._noise(model))
            if state.log_history and "loss" in state.log_history[-1]:
                state.log_history[-1].update({key: value for key, value in logs.items() if key.startswith("noise/")})
        _note_history(model, state.log_history[-1:])

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any = None, **kwargs: Any
    ) -> None:
        model = _noisy_model(kwargs)
        if model is not None:
            self._end_evaluation(model, state, metrics)
            model.run_record.metrics.update(as_numbers({name: v for name, v in metrics.items() if _is_quality(name)}))
            if self._start:
                self._note_progress(model, state)

    def on_predict(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *_: Any, **kwargs: Any
    ) -> None:
        if (model := _noisy_model(kwargs)) is not None:
            model.epoch_counts.end_validation(counts=False)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        model = _noisy_model(kwargs)
        if model is None:
            return
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if args.world_size > 1:  # here all processes are asked, in the Trainer's own saving the first one alone
            kept = exported_counts(model, of_this_process=False)
            if args.should_save and folder.is_dir():
                cast(dict[str, Any], state.stateful_callbacks)[STATE_KEY] = kept
                state.save_to_json(str(folder / TRAINER_STATE_NAME))
        if not folder.is_dir() or not args.should_save:
            return
        if any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
            return
        # Of a sharded model (FSDP) the Trainer saves nothing but the shards.
        model.config.save_pretrained(folder)
        model.save_companions(folder)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model = _noisy_model(kwargs)
        if model is None:
            return
        names: Any = model.config.id2label
        if model.noise_layer is not None and (verdict := model.noise_layer.verdict(names)) is not None:
            logger.warning(verdict)
        self._note_progress(model, state)
        model.set_epoch(None)
        best = state.best_model_checkpoint if args.load_best_model_at_end else None
        if best is not None and (Path(best) / RECORD_FILE).is_file():
            model.run_record = read_record(Path(best) / RECORD_FILE)  # the Trainer has gone back to these weights
            restore_counts(model, TrainerState.load_from_json(str(Path(best) / TRAINER_STATE_NAME)), args.process_index)
        self._start = 0.0

    def _noise(self, model: NoisyForImageClassification) -> dict[str, float]:
        noise = {} if self._shown is None else {"noise/estimated_rate": self._shown.estimated_rate}
        layer = model.noise_layer
        if layer is not None and layer.weight.ndim == 2:  # FSDP 1 flattens it
            noise["noise/trace"] = float(layer.transition_matrix().trace())
        if layer is not None:
            noise["noise/share"] = layer.share
        return noise

    def _end_evaluation(self, model: NoisyForImageClassification, state: TrainerState, metrics: Any) -> None:
        """Of the evaluations at a step, one for each data set, the first one counts: that of the main data set."""
        if not model.counts_evaluations:
            return
        is_main = any(name.startswith("eval_") for name in metrics) and state.global_step != self._evaluated_at
        model.epoch_counts.end_validation(counts=is_main)
        if is_main:
            self._evaluated_at = state.global_step

    def _note_progress(self, model: NoisyForImageClassification, state: TrainerState) -> None:
        record = model.run_record
        record.epochs, record.steps = float(state.epoch or 0), state.global_step
        record.seconds = time.perf_counter() - self._start

    def _notice_warmup(self, model: NoisyForImageClassification, state: TrainerState) -> None:
        known = 0 if model.noise_layer is None else model.noise_layer.config.warmup_epochs
        if known != "auto" and 0 < state.num_train_epochs <= known:
            logger.warning(
                f"The noise layer will never act: its `warmup_epochs` is {known} and training ends after "
                f"{state.num_train_epochs} epochs. Train longer, or leave `warmup_epochs` out."
            )

    def _notice_learning(self, optimizer: Any, layer: Any) -> None:
        """A layer that learns by gradient steps needs a group of its own, which the plain Trainer does not give it."""
        group = _group_with_others(optimizer, layer)
        if group is None or not layer.config.takes_gradients:
            return
        if group.get("weight_decay", 0.0) > 0 or layer.config.lr_scale != 1:
            logger.warning(
                "The noise layer learns by gradient steps and shares the network's learning rate and weight decay of "
                f"{group.get('weight_decay', 0.0)}, which pulls it towards expecting noise alone. Use NoisyTrainer, or "
                "give the optimizer `model.parameter_groups(lr, weight_decay)`."
            )

    def _warn_of_an_unused_loss(self, model: NoisyForImageClassification) -> None:
        if model.noise_layer is not None and self._shown is None and not model.loss_is_used:
            logger.warning(
                "The Trainer does not train on the model's own loss, which goes through the noise layer: its "
                "`compute_loss` takes another one, past the layer. Have it return `outputs.loss`; labels are weighted "
                "by the layer itself."
            )

    def _warn_of_lost_classes(self, model: NoisyForImageClassification, args: TrainingArguments) -> None:
        if self._shown is None or model.noise_layer is None:
            return
        lost = set(lost_classes(self._shown.label_counts, LOST_BELOW))
        new, self._lost = lost - self._lost, lost
        if new and args.process_index == 0:
            id2label: Any = model.config.id2label
            names = ", ".join(repr(id2label[label]) for label in sorted(new))
            which, it, their = ("classes", "them", "their images") if len(new) > 1 else ("class", "it", "its images")
            logger.warning(
                f"The network does not predict {which} {names} (epoch {self._epoch}), although the labels have {it}. "
                f"Train longer, lower the learning rate, or look at {their}."
            )


def _noisy_model(kwargs: dict[str, Any]) -> NoisyForImageClassification | None:
    return noisy_model_inside(kwargs.get("model"))


def _note_adapter(model: NoisyForImageClassification) -> None:
    config = models.adapter_config(model) or models.adapter_config(model.backbone)
    if config is not None:
        model.run_record.adapter = {**describe_adapter(config, model.backbone), **model.run_record.adapter}


def _group_with_others(optimizer: Any, noise_layer: nn.Module | None) -> dict[str, Any] | None:
    """The optimizer's group that trains the noise layer together with the network, if there is one."""
    weight = getattr(noise_layer, "weight", None)
    groups = [group for group in optimizer.param_groups if any(p is weight for p in group["params"])]
    return groups[0] if groups and len(groups[0]["params"]) > 1 else None


def _take_processor(model: NoisyForImageClassification, processor: Any) -> None:
    """The image processor that the Trainer was given is the one that the model goes with."""
    if hasattr(processor, "image_mean") and hasattr(processor, "to_json_string"):
        setattr(model.backbone, models.PROCESSOR, json.loads(processor.to_json_string()))


def _hyperparameters(args: TrainingArguments) -> dict[str, Any]:
    """Those that were used: what is off or not set is left out."""
    batch_size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    found = {name: _plain(getattr(args, name, None)) for name in RECORDED_ARGUMENTS}
    used = {name: value for name, value in found.items() if name == "seed" or value not in (None, False, 0, -1, "")}
    return {"total_batch_size": batch_size, **used}


def _describe(loader: Any) -> dict[str, Any]:
    dataset: Any = getattr(loader, "dataset", None)
    name = getattr(getattr(dataset, "info", None), "dataset_name", None)
    described = {"name": None if name in GENERIC_NAMES else name}
    if hasattr(dataset, "__len__"):
        described["train_images"] = len(dataset)
    return {name: value for name, value in described.items() if value is not None}


def _note_history(model: NoisyForImageClassification, rows: Sequence[Mapping[str, Any]]) -> None:
    """Of each epoch the last value that was logged in it."""
    for row in rows:
        measured = {name: row[name] for name in row if name.startswith(MEASURED) and _is_quality(name)}
        add_to_history(model.run_record.history, math.ceil(row.get("epoch") or 0), measured)


def _is_quality(name: str) -> bool:
    return not name.endswith(("_runtime", "_per_second", "epoch"))


def _plain(value: Any) -> Any:
    value = getattr(value, "value", value)  # an enumeration's own
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
