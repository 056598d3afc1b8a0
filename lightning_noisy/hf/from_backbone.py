"""What :meth:`NoisyForImageClassification.from_backbone` starts from: a native model, its classes, a noise layer."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, PreTrainedModel
from transformers.utils import cached_file

from lightning_noisy.hf.config import NoisyImageClassificationConfig
from lightning_noisy.models import build_backbone, unwrap_peft
from lightning_noisy.models.transformers_models import (
    HUB_OPTIONS,
    label_maps,
    load_classifier,
    read_config,
    source_of,
)
from lightning_noisy.noise import NoiseConfig, NoiseLayer
from lightning_noisy.noise.config import resolve_noise_config
from lightning_noisy.noise.files import NOISE_CONFIG_FILE, NOISE_WEIGHTS_FILE, load_noise_layer

_HAS_ONE = (
    "Expected argument `backbone` to be a plain image classifier, but {name} has a noise layer already. Train on from "
    "it by `NoisyForImageClassification.from_pretrained(...)`, or put another one on its `strip()`."
)


def load_backbone(
    backbone: str | Path | PreTrainedModel,
    id2label: Mapping[int, str] | None,
    label2id: Mapping[str, int] | None,
    options: Mapping[str, Any],
) -> Any:
    """The native image classifier with the given classes; its config forgets local paths."""
    native = _load_backbone(unwrap_peft(backbone), _class_names(id2label, label2id), options)
    native.config.architectures = [type(native).__name__]  # for types that have several classifiers
    return native


def _load_backbone(backbone: str | Path | PreTrainedModel, names: list[str] | None, options: Mapping[str, Any]) -> Any:
    if isinstance(backbone, str | Path):
        name = str(backbone)
        labels = {} if names is None else label_maps(len(names), names)
        hub_options = {key: options[key] for key in HUB_OPTIONS if key in options}
        config, _ = read_config(name, {**labels, **hub_options})
        if isinstance(config, NoisyImageClassificationConfig):
            raise ValueError(_HAS_ONE.format(name=repr(name)))
        native: Any = load_classifier(name, source_of(name), config, options=options)
        if Path(source_of(name)).is_dir():
            native.config._name_or_path = ""
        return native
    if isinstance(getattr(backbone, "config", None), NoisyImageClassificationConfig):
        raise ValueError(_HAS_ONE.format(name="the model"))
    if not isinstance(backbone, PreTrainedModel) or type(backbone) not in _classifiers():
        raise ValueError(
            "Expected argument `backbone` to be the name of a repository, a folder, or an image classifier of "
            f"transformers, but got {type(backbone).__name__}.{_hint(backbone)}"
        )
    if options:
        raise ValueError(
            f"Argument {next(iter(options))!r} is for loading a backbone by name, but `backbone` is a model already."
        )
    return backbone if names is None else build_backbone(backbone, len(names), class_names=names)


def resolve_noise(
    noise: NoiseConfig | Mapping[str, Any] | str | None,
    backbone: str | Path | PreTrainedModel,
    num_classes: int,
    options: Mapping[str, Any],
) -> tuple[NoiseConfig | None, NoiseLayer | None]:
    """The config of the noise layer, and for ``"export"`` the layer that lies beside the exported model."""
    if noise is None:
        return None, None
    if isinstance(noise, str):
        if noise != "export" or isinstance(backbone, PreTrainedModel):
            raise ValueError(
                "Expected argument `noise` to be a NoiseConfig, a dict, None or, beside the name of an exported model, "
                f"'export', but got {noise!r}."
            )
        layer = _exported_layer(str(backbone), {key: options[key] for key in HUB_OPTIONS if key in options})
        return layer.config.with_num_classes(num_classes), layer
    return resolve_noise_config(noise, num_classes), None


def _exported_layer(name: str, options: Mapping[str, Any]) -> NoiseLayer:
    source = source_of(name)
    config_file, weights_file = (
        cached_file(source, file, **options, _raise_exceptions_for_missing_entries=False)
        for file in (NOISE_CONFIG_FILE, NOISE_WEIGHTS_FILE)
    )
    if config_file is None or weights_file is None:
        raise ValueError(
            f"Expected {name!r} to hold {NOISE_CONFIG_FILE} and {NOISE_WEIGHTS_FILE}, as an export does, for "
            "`noise='export'`, but it does not hold both. Give a NoiseConfig to start with a new noise layer."
        )
    return load_noise_layer(config_file, weights_file)


def _class_names(id2label: Mapping[Any, str] | None, label2id: Mapping[str, Any] | None) -> list[str] | None:
    if id2label is None and label2id is None:
        return None
    if id2label is None:
        assert label2id is not None
        id2label = {int(label): name for name, label in label2id.items()}
    if isinstance(id2label, list | tuple):
        id2label = dict(enumerate(id2label))
    if not all(str(label).isdecimal() for label in id2label):
        raise ValueError(
            "Expected argument `id2label` to give the class names by number, {0: 'ant', 1: 'bee'}, but got the key "
            f"{next(label for label in id2label if not str(label).isdecimal())!r}."
        )
    numbered = {int(label): str(name) for label, name in id2label.items()}
    if sorted(numbered) != list(range(len(numbered))) or len(numbered) < 2:
        raise ValueError(
            f"Expected argument `id2label` to number at least two classes 0, 1, 2, ... without a gap, but got the "
            f"numbers {_shortened(sorted(numbered))}."
        )
    names = [numbered[label] for label in range(len(numbered))]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"Expected argument `id2label` to give each class its own name, but got {twice!r} twice.")
    if label2id is not None and {str(name): int(label) for name, label in label2id.items()} != {
        name: label for label, name in numbered.items()
    }:
        raise ValueError(
            "Expected arguments `id2label` and `label2id` to say the same, but got "
            f"{_shortened(sorted(numbered.items()))} and {_shortened(sorted(label2id.items()))}. Leave one of them out."
        )
    return names


def _classifiers() -> set[type]:
    found: set[Any] = set()
    for classes in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING.values():
        found |= set(classes) if isinstance(classes, tuple | list) else {classes}
    return found


def _hint(backbone: Any) -> str:
    if isinstance(backbone, PreTrainedModel):
        name = type(backbone).__name__.removesuffix("Model") + "ForImageClassification"
        near = difflib.get_close_matches(name, [found.__name__ for found in _classifiers()], n=1)
        return f" Did you mean {near[0]}?" if near else ""
    if hasattr(backbone, "pretrained_cfg"):
        return " A timm model is given by its name ('timm/resnet50.a1_in1k') or by the folder it is saved in."
    return ""


def _shortened(values: list) -> str:
    return str(values) if len(values) <= 6 else f"{str(values[:6])[:-1]}, ...]"
