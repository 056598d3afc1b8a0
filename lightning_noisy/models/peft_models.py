"""A classifier that PEFT has put an adapter into: recognised, described in primitives, merged."""

import copy
import importlib.util
from collections.abc import Mapping
from enum import Enum
from typing import Any

from torch import nn

_NOT_KEPT = (
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "megatron_config",
    "megatron_core",
    "task_type",
)
"""Of no use for building the adapter again; what names a module to import is never taken from a file."""

ONLY_AT_THE_START = {"init_lora_weights": True, "init_weights": True, "loftq_config": {}, "eva_config": None}
"""How weights start, which come from the checkpoint where an adapter is built again."""


def require_peft(argument: str) -> None:
    """Raises one sentence that says what to install, where PEFT is not.

    Raises:
        ValueError: Without PEFT.
    """
    if importlib.util.find_spec("peft") is None:
        raise ValueError(
            f"Argument {argument} needs the package peft, which is not there: `pip install 'lightning-noisy[peft]'`."
        )


def unwrap_peft(model: Any) -> Any:
    """The classifier inside a ``PeftModel``, which has the adapter's layers in it; another model as it is.

    Raises:
        ValueError: If its adapter is no change of layers, as prompts are not, or there are several.
    """
    if not is_peft_model(model):
        return model
    configs = model.peft_config
    if len(configs) != 1 or next(iter(configs.values())).is_prompt_learning:
        found = ", ".join(f"{name!r} ({_plain(config.peft_type)})" for name, config in configs.items())
        raise ValueError(
            "Expected argument `backbone` to be a PeftModel with one adapter that changes layers, such as LoRA, "
            f"but got {found}. Merge the others first by `merge_and_unload()`."
        )
    return model.get_base_model()


def is_peft_model(model: Any) -> bool:
    """Whether PEFT has been put around this model."""
    if importlib.util.find_spec("peft") is None:
        return False
    from peft import PeftModel

    return isinstance(model, PeftModel)


def adapter_config(model: Any) -> Any:
    """PEFT's config of the adapter inside a classifier, or ``None``."""
    configs = getattr(model, "peft_config", None)
    return next(iter(configs.values())) if isinstance(configs, Mapping) and configs else None


def note_adapter(part: Any, whole: Any, prefix: str) -> None:
    """Notes on a part of an adapted model the config of the adapter, under the part's own names.

    Args:
        part: Such as the classifier in a model with a noise layer.
        whole: What PEFT was put around.
        prefix: Of the part's names in the whole, with its dot.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    [(name, config)] = whole.peft_config.items()
    config = copy.deepcopy(config)
    targets = config.target_modules
    if isinstance(targets, str) or any(target.startswith(prefix) for target in targets or ()):
        config.target_modules = [n for n, module in part.named_modules() if isinstance(module, BaseTunerLayer)]
    if config.modules_to_save:
        config.modules_to_save = [saved.removeprefix(prefix) for saved in config.modules_to_save]
    part.peft_config = {name: config}


def adapter_spec(model: Any) -> dict[str, Any] | None:
    """The adapter inside a classifier in primitives, from which :func:`build_adapter` makes the like; or ``None``."""
    config = adapter_config(model)
    if config is None:
        return None
    return {name: _plain(value) for name, value in config.to_dict().items() if name not in _NOT_KEPT}


def build_adapter(model: nn.Module, spec: Mapping[str, Any]) -> Any:
    """Puts the adapter that :func:`adapter_spec` has described into a plain classifier, in place, and returns it."""
    require_peft("`adapter`")
    from peft import PeftConfig, get_peft_model

    options = {name: value for name, value in spec.items() if name not in _NOT_KEPT}
    options |= {name: value for name, value in ONLY_AT_THE_START.items() if name in options}
    peft_type = options.pop("peft_type")
    config = PeftConfig.from_peft_type(peft_type=peft_type, **options)
    return get_peft_model(model, config).get_base_model()


def merged(model: nn.Module) -> nn.Module:
    """A classifier with its adapter's change added to its own weights, nothing of PEFT left; it is changed in place.

    Raises:
        ValueError: If the adapter can't be merged.
    """
    if adapter_config(model) is None:
        return model
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    for name, module in list(model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            model.set_submodule(name, module.modules_to_save[module.active_adapters[0]])
        elif isinstance(module, BaseTunerLayer):
            try:
                module.merge()
            except (NotImplementedError, AttributeError) as error:
                raise ValueError(
                    f"The adapter {_plain(adapter_config(model).peft_type)} can't be merged into the model's weights. "
                    "Ask for the model with its layers: `merge=False`."
                ) from error
            model.set_submodule(name, module.get_base_layer())
    del model.peft_config
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
