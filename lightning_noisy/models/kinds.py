"""What library a model is of, and what this package notes on it."""

from typing import Any

from torch import nn

DATA_CONFIG = "_noisy_data_config"
PROCESSOR = "_noisy_image_processor"
BASE_MODEL = "_noisy_base_model"


def is_timm(model: nn.Module) -> bool:
    """Whether timm made this model."""
    return hasattr(model, "pretrained_cfg") and hasattr(model, "reset_classifier")


def is_transformers(model: Any) -> bool:
    """Whether this is a model of transformers, a wrapped timm model included."""
    return hasattr(model, "config") and hasattr(model, "save_pretrained")


def timm_model_inside(model: Any) -> Any:
    """The timm model that transformers has wrapped (``TimmWrapperForImageClassification``), else ``None``."""
    inside = getattr(model, "timm_model", None)
    return inside if is_transformers(model) and inside is not None and is_timm(inside) else None


def base_model_of(model: nn.Module) -> str | None:
    """The Hub repository whose pretrained weights the model started from, where that is known."""
    return getattr(model, BASE_MODEL, None)
