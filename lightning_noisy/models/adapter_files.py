"""Adapters as the two files of PEFT: written, and read without following what they name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from lightning_noisy.models.kinds import timm_model_inside
from lightning_noisy.models.peft_models import ONLY_AT_THE_START, adapter_spec, build_adapter, require_peft
from lightning_noisy.models.spec import backbone_spec

ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
"""What PEFT puts before the name of each weight."""
_STARTS_BESIDE_THE_BASE = ("eva", "gaussian", "orthogonal")
"""Starts of LoRA that leave the weights under it alone; the others that have a name do not."""


def read_adapter(path: str | Path) -> dict[str, Any]:
    """What an ``adapter_config.json`` says, which may be a stranger's.

    Raises:
        ValueError: If it is none, names a module that PEFT would import, or its kind loads more than weights.
    """
    require_peft(f"`backbone`, a model with {ADAPTER_CONFIG_FILE},")
    from peft import PromptLearningConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    try:
        spec = json.loads(Path(path).read_text(encoding="utf-8"))
        kind = str(spec["peft_type"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"Expected {str(path)!r} to be the config of a PEFT adapter, but it can't be read.") from error
    if spec.get("megatron_config"):
        raise ValueError(
            f"Expected {str(path)!r} to describe an adapter and nothing else, but its `megatron_config` makes PEFT "
            f"import the module {spec.get('megatron_core')!r}. Take it out if you trust the rest."
        )
    known = {name.value: config for name, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if kind not in known or issubclass(known[kind], PromptLearningConfig) or kind == "XLORA":
        raise ValueError(
            f"Expected {str(path)!r} to be an adapter that changes layers, such as LORA, but its `peft_type` is "
            f"{kind!r}."
        )
    return spec


def base_of(spec: Mapping[str, Any], path: str | Path) -> str:
    """The repository or the folder of the weights under an adapter.

    Args:
        spec: Of :func:`read_adapter`.
        path: Of its file, for the message.

    Raises:
        ValueError: If it names none.
    """
    base = spec.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ValueError(
            f"Expected {str(path)!r} to name the model under the adapter as `base_model_name_or_path`, but it does "
            "not: the adapter was put into a model that was not loaded by a name. Name a repository or a folder with "
            "those weights there, or give the model itself instead of the path."
        )
    return base


def is_of_timm(weights_file: str | Path, config: Any) -> bool:
    """Whether an adapter is of a timm model itself, where the config is that of a wrapped one."""
    is_wrapped = any(name.startswith(f"{_PREFIX}timm_model.") for name in _read_weights(weights_file))
    return config.model_type == "timm_wrapper" and not is_wrapped


def save_adapter(model: Any, directory: Path, base_model: str) -> None:
    """Writes the adapter inside a classifier as ``PeftModel.from_pretrained(base, directory)`` reads it.

    Args:
        model: A classifier with an adapter's layers in it.
        directory: Where to write.
        base_model: The repository of the weights under the adapter.

    Raises:
        ValueError: If a classifier with such an adapter would not have the same weights.
    """
    spec = adapter_spec(model) or {}
    start = spec.get("init_lora_weights", True)
    if (isinstance(start, str) and start not in _STARTS_BESIDE_THE_BASE) or backbone_spec(model) is None:
        raise ValueError(
            "The adapter can't be kept apart: it has changed the weights under it, or a plain model would not give it "
            "the same layers. Export the model with the adapter merged into it."
        )
    spec |= {"base_model_name_or_path": base_model, "inference_mode": True}
    spec |= {name: value for name, value in ONLY_AT_THE_START.items() if name in spec}
    weights = {name: value.contiguous().cpu() for name, value in _adapter_weights(model).items()}
    save_file(
        {_PREFIX + name: value for name, value in weights.items()}, directory / ADAPTER_WEIGHTS_FILE, {"format": "pt"}
    )
    (directory / ADAPTER_CONFIG_FILE).write_text(json.dumps(spec, indent=2), encoding="utf-8")


def load_adapter(model: Any, spec: Mapping[str, Any], weights_file: str | Path) -> Any:
    """Puts an adapter with its weights into a plain classifier, in place, and returns it.

    Args:
        model: The classifier under the adapter.
        spec: Of :func:`read_adapter`.
        weights_file: ``adapter_model.safetensors`` beside it.

    Raises:
        ValueError: If weights and model do not fit together.
    """
    from peft import set_peft_model_state_dict

    weights = {name.removeprefix(_PREFIX): value for name, value in _read_weights(weights_file).items()}
    inside = timm_model_inside(model)
    if inside is not None and is_of_timm(weights_file, model.config):
        load_adapter(inside, spec, weights_file)  # it is of the timm model that transformers has wrapped
        model.peft_config = inside.peft_config
        return model
    try:
        model = build_adapter(model, spec)
        expected = {name: value.shape for name, value in _adapter_weights(model).items()}
        if expected != (found := {name: value.shape for name, value in weights.items()}):
            other = sorted({name for name in expected | found if expected.get(name) != found.get(name)})
            raise ValueError(f"{len(other)} weights are of one of them alone or of another size, such as {other[0]!r}")
        set_peft_model_state_dict(model, weights)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise ValueError(
            f"The adapter {str(weights_file)!r} does not fit the {type(model).__name__}: {reason}."
        ) from error
    return model


def describe_adapter(config: Any, model: nn.Module) -> dict[str, Any]:
    """Kind, rank and number of trained parameters, for the record of a training.

    Args:
        config: PEFT's.
        model: The classifier with its layers.
    """
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    described = {"kind": kind, "rank": getattr(config, "r", None), "trained_parameters": trained}
    return {name: value for name, value in described.items() if value is not None}


def _read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"Expected {str(path)!r} to be the weights of an adapter, but {error}.") from error


def _adapter_weights(model: Any) -> dict[str, torch.Tensor]:
    from peft import get_peft_model_state_dict

    name = next(iter(model.peft_config))
    # Without `save_embedding_layers` PEFT asks the Hub whether a vocabulary has grown.
    return get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
