"""What is exported: a clean native model and all that is known of its training, from wherever it comes."""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from torch import nn

from lightning_noisy import models
from lightning_noisy.hf import NoisyForImageClassification
from lightning_noisy.models.adapter_files import describe_adapter
from lightning_noisy.models.peft_models import merged, note_adapter
from lightning_noisy.noise import NoiseLayer
from lightning_noisy.run_record import RunRecord
from lightning_noisy.training import NoisyImageClassifier
from lightning_noisy.training.callbacks.run_recorder import describe_run
from lightning_noisy.training.sharding import is_sharded

Source = str | Path | nn.Module
"""A checkpoint's path, a LightningModule, a model of transformers (with a noise layer or without) or of timm."""


@dataclass
class TrainedModel:
    """A clean model in eval mode and the facts of its training.

    Args:
        clean_model: A timm or transformers image classifier.
        class_names: Its K class names.
        noise_layer: What it was trained through; ``None`` if it was not.
        record: What its training left.
    """

    clean_model: Any
    class_names: list[str]
    noise_layer: NoiseLayer | None = None
    record: RunRecord = field(default_factory=RunRecord)

    @property
    def timm_model(self) -> Any:
        """The timm model that this is or wraps, else ``None``."""
        inside = models.timm_model_inside(self.clean_model)
        return self.clean_model if inside is None and models.is_timm(self.clean_model) else inside


def resolve_model(model: nn.Module, merge: bool = True) -> TrainedModel:
    """From a module in memory.

    Args:
        model: The module.
        merge: Whether a PEFT adapter is added to the weights; else its layers stay in the clean model.

    Raises:
        ValueError: If there is no image classifier of timm or transformers in it, or more than one, or it is sharded.
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    if models.is_peft_model(model):
        return _resolve_peft_model(model, merge)
    if isinstance(model, NoisyForImageClassification):
        return _trained(model.strip(merge=False), merge, _names_in_config(model), model.noise_layer, model.run_record)
    if is_sharded(model):
        raise ValueError(
            "Expected argument `model` to hold all weights, but got a module whose weights are sharded over processes. "
            "Give the path of its checkpoint instead: there they are whole."
        )
    if not isinstance(model, L.LightningModule):
        _check_is_native(model)
        return _trained(copy.deepcopy(model).eval(), merge, class_names_of(model))
    record = record_of(model)
    noise_layer = getattr(model, "noise_layer", None)
    if isinstance(model, NoisyImageClassifier):
        _check_is_native(model.backbone)
        return _trained(model.clean_model(merge=False), merge, model.class_names, noise_layer, record)
    native = _the_native_child(model)
    class_names = getattr(model, "class_names", None) or class_names_of(native)
    return _trained(copy.deepcopy(native).eval(), merge, list(class_names), noise_layer, record)


def _trained(
    clean_model: Any,
    merge: bool,
    class_names: list[str],
    noise_layer: NoiseLayer | None = None,
    record: RunRecord | None = None,
) -> TrainedModel:
    """Of a copy that may still have an adapter's layers, which the record tells of."""
    record = RunRecord() if record is None else record
    if (config := models.adapter_config(clean_model)) is not None:
        record.adapter = {**describe_adapter(config, clean_model), **record.adapter}
        clean_model = merged(clean_model) if merge else clean_model
    return TrainedModel(clean_model.eval(), class_names, noise_layer, record)


def _resolve_peft_model(model: Any, merge: bool) -> TrainedModel:
    inside = models.unwrap_peft(model)
    if not isinstance(inside, NoisyForImageClassification):
        return resolve_model(inside, merge)
    return resolve_adapted(inside, merge)


def resolve_adapted(noisy: NoisyForImageClassification, merge: bool = True) -> TrainedModel:
    """Of a noisy model that PEFT was put around, whose layers are in it."""
    native = noisy.strip(merge=False)
    note_adapter(native, noisy, "backbone.")
    return _trained(native, merge, _names_in_config(noisy), noisy.noise_layer, noisy.run_record)


def record_of(model: L.LightningModule) -> RunRecord:
    """What the Trainer that trained the module knows, else the checkpoint that it was loaded from, else nothing."""
    trainer = getattr(model, "_trainer", None)
    if trainer is not None and trainer.global_step:
        return describe_run(trainer, model)
    return getattr(model, "loaded_record", None) or RunRecord()


def class_names_of(model: Any) -> list[str]:
    """The names that a native model carries; the numbers where it has none."""
    if models.is_transformers(model):
        return _names_in_config(model)
    names = model.pretrained_cfg.get("label_names")
    return list(names) if names and len(names) == model.num_classes else [str(i) for i in range(model.num_classes)]


def _names_in_config(model: Any) -> list[str]:
    return [str(model.config.id2label[label]) for label in range(model.config.num_labels)]


def _the_native_child(module: nn.Module) -> nn.Module:
    natives = {name: child for name, child in module.named_children() if models.is_timm(child) or _is_classifier(child)}
    if len(natives) != 1:
        raise ValueError(
            "Expected the LightningModule to hold one image classifier of timm or transformers, but got "
            f"{len(natives)} ({', '.join(natives) or 'none'}). Export the part itself: `export_clean(module.PART)`."
        )
    return next(iter(natives.values()))


def _check_is_native(model: nn.Module) -> None:
    if not (models.is_timm(model) or _is_classifier(model)):
        raise ValueError(
            f"Expected an image classifier of timm or transformers, but got {type(model).__name__}, which neither "
            "library could load again. Save a module of your own by safetensors.torch.save_model."
        )


def _is_classifier(model: Any) -> bool:
    return models.is_transformers(model) and type(model).__name__.endswith("ForImageClassification")
