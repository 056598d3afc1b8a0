"""How a model wants its images, in the words of ``timm.data.create_transform``."""

from collections.abc import Mapping, Sequence
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, resolve_model_data_config
from timm.data import resolve_data_config as resolve_timm_data_config
from timm.models import get_model_input_config
from torch import nn

from lightning_noisy.models.kinds import DATA_CONFIG, PROCESSOR, is_timm, is_transformers

DEFAULT_DATA_CONFIG: dict[str, Any] = {
    "input_size": (3, 224, 224),
    "interpolation": "bicubic",
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "crop_pct": 0.875,
    "crop_mode": "center",
}
"""For a module that does not say how it wants its images."""

_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def resolve_data_config(model: nn.Module) -> dict[str, Any]:
    """How the model wants its images: what ``timm.data.create_transform`` takes.

    Keys: ``input_size`` (C, H, W), ``interpolation``, ``mean``, ``std``, ``crop_pct``, ``crop_mode``. One's own module
    tells it by an attribute ``data_config``.
    """
    config = getattr(model, DATA_CONFIG, None) or getattr(model, "data_config", None)
    if config is None and is_timm(model):
        config = _timm_data_config(model)
    if config is None and is_transformers(model):
        config = transformers_data_config(model)
    config = {**DEFAULT_DATA_CONFIG, **(config or {})}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}


def set_image_size(model: nn.Module, image_size: int) -> None:
    """Notes on a model that it wants images of this side, in pixels: transforms, checkpoints and exports go by that."""
    config = resolve_data_config(model)
    config["input_size"] = (config["input_size"][0], image_size, image_size)
    setattr(model, DATA_CONFIG, config)


def _timm_data_config(model: Any) -> dict[str, Any]:
    """timm's own, with the channels and, where it is fixed, the size that this model was built for."""
    config = resolve_model_data_config(model)
    built = get_model_input_config(model)
    channels = built["input_size"][0]
    size = (built if built["fixed_input_size"] else config)["input_size"][1:]
    config["input_size"] = (channels, *size)
    return {**config, **{key: _for_channels(config[key], channels) for key in ("mean", "std")}}


def _for_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """One value for each channel: their mean, where they are of another number of channels."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels


def image_processor_config(data_config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a transformers image processor that prepares an image as timm's evaluation transform does."""
    side = data_config["input_size"][1]
    resampling = {name: number for number, name in _RESAMPLING.items()}
    common = {
        "do_resize": True,
        "resample": resampling.get(data_config["interpolation"], 3),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(data_config["mean"]),
        "image_std": list(data_config["std"]),
    }
    if data_config["crop_mode"] == "squash":
        size = {"height": side, "width": side}
        return {"image_processor_type": "ViTImageProcessor", "size": size, **common}
    size = {"shortest_edge": round(side / data_config["crop_pct"])}
    crop = {"do_center_crop": True, "crop_size": {"height": side, "width": side}}
    return {"image_processor_type": "CLIPImageProcessor", "size": size, **crop, **common}


def transformers_data_config(model: Any) -> dict[str, Any]:
    """From the image processor that came with the model, else from its config."""
    if hasattr(model.config, "pretrained_cfg"):  # a timm model in transformers' clothes
        return resolve_timm_data_config(pretrained_cfg=model.config.pretrained_cfg)
    processor: dict[str, Any] = getattr(model, PROCESSOR, None) or {}
    mean, std = processor.get("image_mean") or (0.5,) * 3, processor.get("image_std") or (0.5,) * 3
    if not processor.get("do_normalize", True):
        mean, std = (0.0,) * 3, (1.0,) * 3
    size = processor.get("size") or {}
    resized = _side(size)
    cropped = _side(processor.get("crop_size")) if processor.get("do_center_crop") else None
    side = cropped or resized or config_image_size(model) or DEFAULT_DATA_CONFIG["input_size"][1]
    share = cropped / resized if cropped and resized else 1.0
    channels = getattr(model.config, "num_channels", None) or 3
    return {
        "input_size": (channels, side, side),
        "interpolation": _RESAMPLING.get(processor.get("resample", 3), "bicubic"),
        "mean": _for_channels(mean, channels),
        "std": _for_channels(std, channels),
        "crop_pct": processor.get("crop_pct") or share,
        "crop_mode": "squash" if size.get("height") else "center",
    }


def _side(size: Any) -> int | None:
    if isinstance(size, Mapping):
        size = size.get("height") or size.get("shortest_edge")
    return int(size) if isinstance(size, int | float) else None


def config_image_size(model: Any) -> int | None:
    """Side in pixels that the config of a transformers model names."""
    config = getattr(model.config, "vision_config", model.config)
    size = getattr(config, "image_size", None)
    return size[0] if isinstance(size, list | tuple) else size


def fits_config(model: Any, height: int, width: int) -> bool:
    """Whether the config of a transformers model names this size, or none."""
    config = getattr(model.config, "vision_config", model.config)
    size = getattr(config, "image_size", None)
    return size is None or (height, width) == (tuple(size) if isinstance(size, list | tuple) else (size, size))
