"""A backbone's architecture in primitives, for a checkpoint that needs no file and no network beside it."""

import copy
from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.models import get_model_args
from torch import nn

from lightning_noisy.models.data_config import resolve_data_config
from lightning_noisy.models.kinds import BASE_MODEL, DATA_CONFIG, PROCESSOR, base_model_of, is_timm, is_transformers
from lightning_noisy.models.peft_models import adapter_spec, build_adapter

_SOURCE_KEYS = ("file", "url", "source", "state_dict", "hf_hub_filename")


def backbone_spec(model: nn.Module) -> dict[str, Any] | None:
    """Primitives from which :func:`build_backbone` makes the same architecture, without weights, network or files.

    ``None`` for one's own module, and for a model whose arguments can't be told.
    """
    source: Any = model
    if is_transformers(model):
        spec = {"library": "transformers", "config": source.config.to_dict()}
        spec["processor"] = getattr(model, PROCESSOR, None)
    elif is_timm(model):
        spec = {
            "library": "timm",
            "architecture": source.pretrained_cfg.get("architecture"),
            "kwargs": {**getattr(source, "_model_args", {}), **get_model_args(source)},  # only the first has drop rates
            "pretrained_cfg": {key: value for key, value in source.pretrained_cfg.items() if key not in _SOURCE_KEYS},
        }
    else:
        return None
    if (adapter := adapter_spec(model)) is not None:
        spec["adapter"] = adapter
    spec = _primitives({**spec, "data_config": resolve_data_config(model), "base_model": base_model_of(model)})
    return spec if _gives_same_parameters(spec, model) else None


def build_from_spec(spec: Mapping[str, Any]) -> nn.Module:
    """The architecture that :func:`backbone_spec` described, its adapter in it, with random weights."""
    model: Any
    if spec.get("library") == "timm" and {"architecture", "kwargs", "pretrained_cfg"} <= spec.keys():
        model = timm.create_model(
            spec["architecture"], pretrained=False, pretrained_cfg=dict(spec["pretrained_cfg"]), **spec["kwargs"]
        )
    elif spec.get("library") == "transformers" and "config" in spec:
        from transformers import CONFIG_MAPPING, AutoModelForImageClassification

        config = copy.deepcopy(dict(spec["config"]))
        model = AutoModelForImageClassification.from_config(CONFIG_MAPPING[config["model_type"]].from_dict(config))
        setattr(model, PROCESSOR, spec.get("processor"))
    else:
        raise ValueError(
            "Expected argument `backbone` to be a dict that `backbone_spec` returned, whose `library` is 'timm' or "
            f"'transformers', but got {dict(spec)!r}."
        )
    if spec.get("adapter"):
        model = build_adapter(model, spec["adapter"])
    setattr(model, DATA_CONFIG, spec.get("data_config"))
    setattr(model, BASE_MODEL, spec.get("base_model"))
    return model


def _gives_same_parameters(spec: dict[str, Any], model: nn.Module) -> bool:
    try:
        with torch.device("meta"):
            rebuilt = build_from_spec(spec)
    except Exception:  # arguments that are no primitives raise many kinds
        return False
    ours, theirs = model.state_dict(), rebuilt.state_dict()
    return ours.keys() == theirs.keys() and all(ours[key].shape == theirs[key].shape for key in ours)


def _primitives(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _primitives(item) for key, item in value.items() if key != "_name_or_path"}
    if isinstance(value, list | tuple):
        return [_primitives(item) for item in value]
    if value is None or isinstance(value, bool):
        return value
    return next((kind(value) for kind in (int, float) if isinstance(value, kind)), str(value))
