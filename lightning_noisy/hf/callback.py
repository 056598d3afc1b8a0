"""What the transformers Trainer must tell a model with a noise layer, and what the training tells its user."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy, has_length
from transformers.utils import logging

from lightning_noisy import backbones
from lightning_noisy.hf.following import (
    check_processes,
    keep_counts,
    own_weights_whole,
    plan_warmup,
    restore_counts,
)
from lightning_noisy.hf.model import NoisyForImageClassification
from lightning_noisy.noise.counting import counts_to_triples, disagreement_rate, lost_classes, sum_over_ranks
from lightning_noisy.run_record import RECORD_FILE, as_numbers, package_versions, read_record

logger = logging.get_logger(__name__)

LOST_BELOW = 0.01
"""A class is lost when it is predicted for fewer than this share of the images that carry its label."""

GENERIC_NAMES = ("imagefolder", "parquet", "csv", "json", "arrow", "webdataset", "generator")
"""What `datasets` calls data that lie in files, which says nothing."""

HYPERPARAMETERS = (
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


class NoiseLayerCallback(TrainerCallback):
    """Tells a :class:`NoisyForImageClassification` the epoch and keeps the record of its training.

    Every Trainer gets one when ``lightning_noisy.hf`` is imported, the plain one too; it leaves other models alone. It
    adds ``noise/estimated_rate`` (the share of the training labels with which the network disagrees, last epoch),
    ``noise/trace`` (of the learned transition matrix) and ``noise/warmup_epochs`` (an automatic one may grow) to the
    training logs.

    The plain Trainer puts the noise layer into one group with the network's matrices. Its step is then taken back to
    the layer's own learning rate without weight decay, which is exact where the weight decay is apart from the gradient
    (AdamW and the Trainer's other defaults, SGD without momentum); elsewhere a warning says so.
    """

    def __init__(self) -> None:
        self._shared_group: dict[str, Any] | None = None
        self._weight_before: Tensor | None = None
        self._counts: Tensor | None = None
        self._lost: set[int] = set()
        self._epoch = 0
        self._start = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model = _noisy_model(kwargs)
        if model is None:
            return
        check_processes(model, args)
        self._start = time.perf_counter()
        self._epoch = int(state.epoch or 0) - 1
        self._counts = model.label_counts = model.confidence = model.validation_sums = None
        plan_warmup(model, args, state, kwargs.get("train_dataloader"))
        restore_counts(model, state, args.process_index)
        self._lost = set()
        self._shared_group = _group_with_others(kwargs["optimizer"], model.noise_layer)
        self._notice_decay(kwargs["optimizer"])
        self._notice_warmup(model, state, kwargs.get("train_dataloader"))
        _take_processor(model, kwargs.get("processing_class"))
        record = model.run_record
        record.trainer = "transformers"
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

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model = _noisy_model(kwargs)
        if model is not None and model.noise_layer is not None and self._shared_group is not None:
            self._weight_before = _own_share(model.noise_layer.weight).clone()

    @torch.no_grad()
    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model = _noisy_model(kwargs)
        if model is None or model.noise_layer is None or self._shared_group is None:
            return
        before, weight = self._weight_before, _own_share(model.noise_layer.weight)
        assert before is not None
        decay = self._shared_group["lr"] * self._shared_group.get("weight_decay", 0.0)
        own_step = before + model.noise_layer.config.lr_scale * (weight - (1 - decay) * before)
        was_taken = (weight != before).any()  # a step whose gradients overflowed is left out
        weight.copy_(torch.where(was_taken, own_step, before))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        model = _noisy_model(kwargs)
        if model is not None and control.should_save:
            keep_counts(model, state, self._epoch)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model = _noisy_model(kwargs)
        if model is None or model.label_counts is None:
            return
        if control.should_save:
            keep_counts(model, state, self._epoch)
        self._counts = sum_over_ranks(model.label_counts)
        model.run_record.label_counts = counts_to_triples(self._counts)
        self._note_progress(model, state)
        if model.noise_layer is not None and not model.in_warmup:
            self._warn_of_lost_classes(model, args)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        model = _noisy_model(kwargs)
        if model is None or not logs or "loss" not in logs:
            return
        if self._counts is not None:
            logs["noise/estimated_rate"] = disagreement_rate(self._counts).item()
        layer = model.noise_layer
        if layer is not None and layer.weight.ndim == 2:  # FSDP 1 flattens it
            logs["noise/trace"] = float(layer.transition_matrix().trace())
        if layer is not None:
            logs["noise/warmup_epochs"] = layer.warmup_epochs
        if state.log_history and "loss" in state.log_history[-1]:
            state.log_history[-1].update({key: value for key, value in logs.items() if key.startswith("noise/")})

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any = None, **kwargs: Any
    ) -> None:
        model = _noisy_model(kwargs)
        if model is not None:
            model.run_record.metrics.update(as_numbers({name: v for name, v in metrics.items() if _is_quality(name)}))
            if self._start:
                self._note_progress(model, state)
                if control.should_save or args.save_strategy == SaveStrategy.BEST:  # the Trainer decides after this
                    keep_counts(model, state, self._epoch)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        model = _noisy_model(kwargs)
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if model is None or not folder.is_dir() or (folder / "config.json").is_file() or not args.should_save:
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
        if model.in_warmup:
            self._say_that_it_never_acted(model)
        self._note_progress(model, state)
        model.set_epoch(None)
        best = state.best_model_checkpoint if args.load_best_model_at_end else None
        if best is not None and (Path(best) / RECORD_FILE).is_file():
            model.run_record = read_record(Path(best) / RECORD_FILE)  # the Trainer has gone back to these weights
        self._start = 0.0

    def _note_progress(self, model: NoisyForImageClassification, state: TrainerState) -> None:
        record = model.run_record
        record.epochs, record.steps = float(state.epoch or 0), state.global_step
        record.seconds = time.perf_counter() - self._start

    def _notice_warmup(self, model: NoisyForImageClassification, state: TrainerState, loader: Any) -> None:
        warmup_epochs = 0 if model.noise_layer is None else model.noise_layer.warmup_epochs
        if 0 < state.num_train_epochs <= warmup_epochs:
            logger.warning(
                f"The noise layer will never act: its `warmup_epochs` is {warmup_epochs} and training ends after "
                f"{state.num_train_epochs} epochs. Train longer, or lower `warmup_epochs` to a third of the training "
                "or less."
            )
        elif warmup_epochs > 0 and loader is not None and not has_length(loader):
            logger.warning(
                f"The data have no length: the noise layer's warm-up ends when they were read {warmup_epochs} times, "
                "which with `max_steps` may be never. Set `warmup_epochs` to 0, or train with `noise=None` first."
            )

    def _say_that_it_never_acted(self, model: NoisyForImageClassification) -> None:
        assert model.noise_layer is not None
        logger.warning(
            f"The noise layer has never acted: the training ended in epoch {self._epoch}, within its "
            f"{model.noise_layer.warmup_epochs} `warmup_epochs`. All of it was plain cross-entropy."
        )

    def _notice_decay(self, optimizer: Any) -> None:
        group = self._shared_group
        if group is not None and group.get("weight_decay", 0.0) > 0 and not _decays_apart(optimizer, group):
            logger.warning(
                f"The optimizer mixes its weight decay of {group['weight_decay']} into the gradient, so that the noise "
                "layer is decayed too, towards expecting noise alone. Use NoisyTrainer, or give the optimizer "
                "`model.parameter_groups(lr, weight_decay)`."
            )

    def _warn_of_lost_classes(self, model: NoisyForImageClassification, args: TrainingArguments) -> None:
        assert self._counts is not None and model.noise_layer is not None
        lost = set(lost_classes(self._counts, LOST_BELOW))
        new, self._lost = lost - self._lost, lost
        if new and args.process_index == 0:
            id2label: Any = model.config.id2label
            names = ", ".join(repr(id2label[label]) for label in sorted(new))
            logger.warning(
                f"The network has stopped predicting class {names} (epoch {self._epoch}), although the labels have it. "
                f"Raise the noise layer's `warmup_epochs` (now {model.noise_layer.warmup_epochs}) or its "
                "`clean_loss_weight`, and train again."
            )


def _noisy_model(kwargs: dict[str, Any]) -> NoisyForImageClassification | None:
    """The model of a callback's arguments without what DDP, FSDP and torch.compile put around it, if it is ours."""
    from accelerate.utils import extract_model_from_parallel

    model = kwargs.get("model")
    if not isinstance(model, nn.Module):
        return None
    model = extract_model_from_parallel(model, keep_torch_compile=False)
    return model if isinstance(model, NoisyForImageClassification) else None


def _group_with_others(optimizer: Any, noise_layer: nn.Module | None) -> dict[str, Any] | None:
    """The optimizer's group that trains the noise layer together with the network, if there is one."""
    weight = getattr(noise_layer, "weight", None)
    groups = [group for group in optimizer.param_groups if any(p is weight for p in group["params"])]
    return groups[0] if groups and len(groups[0]["params"]) > 1 else None


def _decays_apart(optimizer: Any, group: dict[str, Any]) -> bool:
    name = type(getattr(optimizer, "optimizer", optimizer)).__name__
    is_plain_sgd = name == "SGD" and not group.get("momentum")
    return is_plain_sgd or bool(group.get("decoupled_weight_decay")) or name.startswith(("AdamW", "Adafactor", "Lion"))


def _take_processor(model: NoisyForImageClassification, processor: Any) -> None:
    """The image processor that the Trainer was given is the one that the model goes with."""
    if hasattr(processor, "image_mean") and hasattr(processor, "to_json_string"):
        setattr(model.backbone, backbones.PROCESSOR, json.loads(processor.to_json_string()))


def _own_share(weight: Tensor) -> Tensor:
    """The weight's values in this process: under FSDP a share of them. Writing to it writes to the weight."""
    weight = weight.detach()
    return weight.to_local() if hasattr(weight, "to_local") else weight


def _hyperparameters(args: TrainingArguments) -> dict[str, Any]:
    """Those that were used: what is off or not set is left out."""
    batch_size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    found = {name: _plain(getattr(args, name, None)) for name in HYPERPARAMETERS}
    used = {name: value for name, value in found.items() if name == "seed" or value not in (None, False, 0, -1, "")}
    return {"total_batch_size": batch_size, **used}


def _describe(loader: Any) -> dict[str, Any]:
    dataset: Any = getattr(loader, "dataset", None)
    name = getattr(getattr(dataset, "info", None), "dataset_name", None)
    described = {"name": None if name in GENERIC_NAMES else name}
    if hasattr(dataset, "__len__"):
        described["train_images"] = len(dataset)
    return {name: value for name, value in described.items() if value is not None}


def _is_quality(name: str) -> bool:
    return not name.endswith(("_runtime", "_per_second", "epoch"))


def _plain(value: Any) -> Any:
    value = getattr(value, "value", value)  # an enumeration's own
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
