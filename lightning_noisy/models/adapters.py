"""Building a classifier's adapter from options: LoRA, unless they say otherwise."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from lightning_noisy.models.layer_groups import head_names
from lightning_noisy.models.peft_models import adapter_config, build_adapter, require_peft

_INSIDE_BLOCKS = (
    ("qkv", "attn.proj", "fc1", "fc2"),  # timm
    ("q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "fc1", "fc2"),  # transformers 5
    ("query", "key", "value", "dense"),
)
"""What the linear layers of a transformer's blocks are called."""


def add_adapter(model: nn.Module, options: Mapping[str, Any]) -> Any:
    """Puts an adapter into a classifier, in place: all else is frozen but the head.

    Args:
        model: A plain image classifier.
        options: What the config of PEFT takes, such as ``r``, ``lora_alpha`` (twice ``r`` by default),
            ``lora_dropout``, ``target_modules`` (the linear layers of the blocks by default) and
            ``modules_to_save`` (the head by default). ``peft_type`` is ``"LORA"`` by default.

    Raises:
        ValueError: If PEFT is not installed, an option is unknown, or it is not known where the adapter belongs.
    """
    require_peft("`adapter`")
    if adapter_config(model) is not None:
        raise ValueError(
            "Expected argument `adapter` to be None, since the `backbone` has an adapter already. Leave one "
            "of them out."
        )
    if not isinstance(options, Mapping):
        raise ValueError(f"Expected argument `adapter` to be a dict such as {{'r': 8}}, but got {options!r}.")
    heads = sorted({name.rpartition(".")[0] for name in head_names(model)})
    chosen = {"peft_type": "LORA", "modules_to_save": heads, **options}
    chosen["peft_type"] = str(chosen["peft_type"]).upper()
    if chosen["peft_type"] == "LORA":
        chosen.setdefault("r", 8)
        chosen.setdefault("lora_alpha", 2 * chosen["r"])
    _check_options(chosen)
    if "target_modules" not in chosen:
        chosen["target_modules"] = _linear_layers(model, heads)
    try:
        return build_adapter(model, chosen)
    except (TypeError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise ValueError(f"Argument `adapter` does not fit the backbone or PEFT: {reason}.") from error


def _check_options(options: Mapping[str, Any]) -> None:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import PeftType

    peft_type = options["peft_type"]
    if peft_type not in PeftType.__members__:
        known = ", ".join(PeftType.__members__)
        raise ValueError(f"Expected `peft_type` of argument `adapter` to be one of {known}, but got {peft_type!r}.")
    config: Any = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType[peft_type]]
    fields = {item.name for item in dataclasses.fields(config)}
    if unknown := sorted(set(options) - fields):
        raise ValueError(
            f"Argument `adapter` does not fit {config.__name__} of PEFT, which has no {unknown}. Its options are "
            f"{', '.join(sorted(fields))}."
        )


def _linear_layers(model: nn.Module, heads: list[str]) -> list[str]:
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name not in heads]
    last = {name.rpartition(".")[2] for name in linear}
    for names in _INSIDE_BLOCKS:
        if names[0] in last:
            return [name for name in names if name.rpartition(".")[2] in last]
    if not linear:
        raise ValueError(
            "Expected argument `adapter` to name the layers to adapt as `target_modules`, since this backbone has no "
            "linear layers but its head; those of convolutions can be named too, such as ['conv1', 'conv2']."
        )
    return linear
