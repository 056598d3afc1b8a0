"""Image classifiers by transformers: from the Hub or a folder, with their image processor, and back into one."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
from torch import nn

from lightning_noisy.models import adapter_files
from lightning_noisy.models.data_config import image_processor_config, transformers_data_config
from lightning_noisy.models.kinds import BASE_MODEL, PROCESSOR
from lightning_noisy.models.loading import errors_only, loading

HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
"""What a config and weights are both looked up with."""


def build_transformers(
    name: str, num_classes: int, class_names: Sequence[str] | None, pretrained: bool, kwargs: dict[str, Any]
) -> nn.Module:
    """``AutoModelForImageClassification`` with K classes, by ``from_pretrained`` or with random weights.

    Args:
        name: A repository or a folder.
        num_classes: Number of classes ``K``.
        class_names: Their names.
        pretrained: Whether to load the weights.
        kwargs: Set in the config.
    """
    source = source_of(name)
    config, unknown = read_config(name, {**label_maps(num_classes, class_names), **kwargs}, pretrained)
    if unknown:
        raise ValueError(f"Argument `backbone_kwargs` does not fit 'hf:{name}': its config has no {sorted(unknown)}.")
    return load_classifier(name, source, config, pretrained)


def source_of(name: str) -> str:
    """The folder that a name means, or the name itself: a repository on the Hub."""
    folder = Path(name).expanduser()
    if name.startswith((".", "/", "~")) and not folder.is_dir():
        raise ValueError(f"Expected argument `backbone` to name a model, but the folder {name!r} does not exist.")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ValueError(f"Expected argument `backbone` to name a folder with a config.json, but {name!r} has none.")
    return str(folder) if folder.is_dir() else name


def read_config(name: str, options: Mapping[str, Any], pretrained: bool = True) -> tuple[Any, dict[str, Any]]:
    """The config of an image classifier with ``options`` put over it, and the options that it does not know.

    Raises:
        ValueError: If it can't be read, or transformers has no image classification head for it.
    """
    from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, AutoConfig

    with loading(f"hf:{name}", pretrained):
        config, unknown = AutoConfig.from_pretrained(source_of(name), **options, return_unused_kwargs=True)
    if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise ValueError(
            f"Expected argument `backbone` to name an image classifier, but 'hf:{name}' is a {config.model_type!r} "
            "model, for which transformers has no image classification head."
        )
    return config, unknown


def load_classifier(
    name: str, source: str, config: Any, pretrained: bool = True, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """The model of a config; a head of another size is new. Notes its image processor and the repository on it.

    Args:
        name: What the user said, for messages.
        source: A repository or a folder.
        config: Of :func:`read_config`.
        pretrained: Whether to load the weights.
        options: Of ``from_pretrained``, such as ``dtype`` and ``revision``.
    """
    from transformers import AutoModelForImageClassification

    options = dict(options or {})
    hub_options = {key: options[key] for key in HUB_OPTIONS if key in options}
    if pretrained and (adapter := find_file(source, adapter_files.ADAPTER_CONFIG_FILE, hub_options)) is not None:
        spec = adapter_files.read_adapter(adapter)  # transformers would trust what it names
        if find_file(source, "model.safetensors", hub_options) is None:
            return _load_adapted(source, spec, adapter, config, options)
    with loading(f"hf:{name}", pretrained), errors_only():
        if pretrained:
            model = AutoModelForImageClassification.from_pretrained(
                source, config=config, ignore_mismatched_sizes=True, **options
            )
        else:
            model = AutoModelForImageClassification.from_config(config)
    setattr(model, PROCESSOR, read_processor(source, hub_options))
    if pretrained and not Path(source).is_dir():
        setattr(model, BASE_MODEL, name)
    return model


def _load_adapted(
    source: str, spec: Mapping[str, Any], adapter: str, config: Any, options: Mapping[str, Any]
) -> nn.Module:
    """A model that was saved as an adapter beside its base's name."""
    base = adapter_files.base_of(spec, adapter)
    hub_options = {key: options[key] for key in HUB_OPTIONS if key in options}
    elsewhere = {key: value for key, value in options.items() if key not in ("revision", "subfolder")}
    weights = find_file(source, adapter_files.ADAPTER_WEIGHTS_FILE, hub_options)
    if weights is None:
        raise ValueError(f"Expected {adapter_files.ADAPTER_WEIGHTS_FILE} beside {adapter!r}, but it is not there.")
    if adapter_files.is_of_timm(weights, config):
        model = _wrapped_timm(base, config)
    else:
        model = load_classifier(base, source_of(base), config, options=elsewhere)
    adapter_files.load_adapter(model, spec, weights)
    setattr(model, PROCESSOR, read_processor(source, hub_options))
    return model


def _wrapped_timm(name: str, config: Any) -> Any:
    """A timm model in transformers' wrapper with timm's own loading, which fits weights to another image size."""
    from transformers import AutoModelForImageClassification

    with loading(f"timm:{name}", True), errors_only():
        model: Any = AutoModelForImageClassification.from_config(config)
        place = f"local-dir:{name}" if Path(name).is_dir() else f"hf-hub:{name}"
        options = {"num_classes": config.num_labels, **(config.model_args or {})}
        model.timm_model.load_state_dict(timm.create_model(place, pretrained=True, **options).state_dict())
    setattr(model, BASE_MODEL, None if Path(name).is_dir() else name)
    return model


def find_file(source: str, name: str, options: Mapping[str, Any] | None = None) -> str | None:
    """The path of a file of a repository, in the cache, or of a folder; ``None`` where there is none."""
    from transformers.utils import cached_file

    return cached_file(
        source,
        name,
        **(options or {}),
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )


def set_labels(model: Any, num_classes: int, class_names: Sequence[str] | None) -> None:
    """Puts number and names of the classes into the model's config."""
    for key, value in label_maps(num_classes, class_names).items():
        setattr(model.config, key, value)


def label_maps(num_classes: int, class_names: Sequence[str] | None) -> dict[str, Any]:
    """``id2label``, ``label2id`` and ``num_labels`` for a config; the numbers are the names where there are none."""
    names = list(class_names or map(str, range(num_classes)))
    label2id = {name: label for label, name in enumerate(names)}
    return {"id2label": dict(enumerate(names)), "label2id": label2id, "num_labels": num_classes}


def read_processor(source: str, options: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """The image processor's config in primitives, or ``None`` where the model comes without one."""
    from transformers import AutoImageProcessor

    try:
        with errors_only():  # which backend it falls back to is of no interest here
            return json.loads(AutoImageProcessor.from_pretrained(source, **(options or {})).to_json_string())
    except (OSError, ValueError, ImportError):  # a folder without one
        return None


def save_transformers(
    model: Any, directory: Path, class_names: Sequence[str] | None, data_config: Mapping[str, Any]
) -> None:
    """``save_pretrained`` with class names, and the image processor: the model's own, else one made to fit."""
    if class_names:
        set_labels(model, len(class_names), class_names)
    model.save_pretrained(directory)
    content = json.dumps(image_processor_for(model, data_config), indent=2)
    (directory / "preprocessor_config.json").write_text(content, encoding="utf-8")


def image_processor_for(model: Any, data_config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the image processor that the model came with, unless it trains on another size or came without."""
    processor = getattr(model, PROCESSOR, None)
    if processor is not None and transformers_data_config(model)["input_size"] == data_config["input_size"]:
        return processor
    return image_processor_config(data_config)
