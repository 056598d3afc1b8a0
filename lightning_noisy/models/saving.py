"""Saving a classifier in its library's own format."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_model
from torch import nn

from lightning_noisy.models.data_config import resolve_data_config
from lightning_noisy.models.kinds import is_timm, is_transformers, timm_model_inside
from lightning_noisy.models.processor import save_processor
from lightning_noisy.models.timm_models import adopt_pretrained_cfg, save_timm, save_timm_config
from lightning_noisy.models.transformers_models import save_transformers, set_labels


def save_config(model: Any, directory: Path, class_names: Sequence[str]) -> None:
    """Writes what :func:`save_backbone` does of timm's or transformers' model, without weights: for an adapter.

    The names of a wrapped timm model's weights are transformers' own, so that it is described as such.
    """
    if is_timm(model):
        save_timm_config(model, directory, class_names, resolve_data_config(model))
    else:
        set_labels(model, len(class_names), class_names)
        model.config.save_pretrained(directory)
        save_processor(model, directory)


def save_backbone(model: nn.Module, directory: str | Path, class_names: Sequence[str] | None = None) -> None:
    """Writes the model in its library's own format, weights as safetensors.

    timm: for ``timm.create_model("local-dir:DIR", pretrained=True)``. transformers: for
    ``AutoModelForImageClassification.from_pretrained(DIR)`` with its image processor; a timm model that
    transformers had wrapped is saved as timm does, which both read. One's own module: ``model.safetensors``.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    data_config = resolve_data_config(model)
    if (timm_model := timm_model_inside(model)) is not None:
        adopt_pretrained_cfg(timm_model, model)
        save_timm(timm_model, directory, class_names, data_config)
    elif is_transformers(model):
        save_transformers(model, directory, class_names, data_config)
    elif is_timm(model):
        save_timm(model, directory, class_names, data_config)
    else:
        save_model(model, str(directory / "model.safetensors"))
        names = json.dumps(list(class_names or []), indent=2)
        (directory / "class_names.json").write_text(names, encoding="utf-8")
