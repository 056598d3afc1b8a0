"""The noise layer of a model that PEFT has been put around: trained as ever, and kept beside the adapter.

PEFT freezes what is not its own, and its files hold the adapter's parameters alone.
"""

import types
from pathlib import Path
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from transformers.utils import logging

from lightning_noisy.hf.wrapping import noisy_model_inside
from lightning_noisy.models import is_peft_model
from lightning_noisy.models.fingerprint import frozen_fingerprint
from lightning_noisy.models.layer_groups import head_names
from lightning_noisy.noise.files import NOISE_CONFIG_FILE, NOISE_WEIGHTS_FILE, load_noise_layer, save_noise_layer

logger = logging.get_logger(__name__)


def keep_layer_with_adapter(model: Any) -> None:
    """Has a ``PeftModel`` around a noisy model train its noise layer, save it and load it; leaves others alone.

    From then on ``save_pretrained`` writes ``noise_layer.safetensors``, ``noise_config.json`` and the model's
    ``config.json`` beside the adapter, and ``load_adapter``, by which the Trainer resumes, reads the layer.

    Raises:
        ValueError: If the layer is among PEFT's ``modules_to_save``, which would copy it without its counts.
    """
    model = _peft_model_inside(model)
    noisy: Any = noisy_model_inside(model)
    if noisy is None:
        return
    if hasattr(noisy.noise_layer, "modules_to_save"):
        raise ValueError(
            "Expected `modules_to_save` of the PEFT config to leave out the noise layer, which is trained and saved "
            "beside the adapter by itself, but it names it. Take 'noise_layer' out."
        )
    if noisy.noise_layer is not None:
        noisy.noise_layer.requires_grad_(noisy.noise_layer.config.takes_gradients)
    heads = head_names(noisy.backbone)
    if heads and not any(p.requires_grad for name, p in noisy.backbone.named_parameters() if name in heads):
        logger.warning_once(
            "The head of the model is frozen, as PEFT leaves it. Unless it knows the classes already, give the config "
            f"`modules_to_save={[min(heads).rpartition('.')[0]]}`."
        )
    noisy.run_record.adapter = {"base_weights": frozen_fingerprint(noisy.backbone)}
    model.save_pretrained = types.MethodType(_save_pretrained, model)
    model.load_adapter = types.MethodType(_load_adapter, model)


def check_layer_is_kept(model: Any) -> None:
    """Looks whether the checkpoints of a ``PeftModel`` around a noisy model will have its noise layer.

    Raises:
        ValueError: If they won't: `model_init` of a plain Trainer has made it, or it is sharded.
    """
    around = _peft_model_inside(model)
    if around is None:
        return
    if any(isinstance(module, FullyShardedDataParallel | FSDPModule) for module in model.modules()):
        raise ValueError(
            "Expected the adapter inside the noisy model under FSDP, whose checkpoints have an adapter alone, but got "
            "a PeftModel around it. Put it into the backbone: "
            "`NoisyForImageClassification.from_backbone(get_peft_model(model, config))`."
        )
    if "load_adapter" not in vars(around):
        raise ValueError(
            "Expected the PeftModel around a noisy model as argument `model` of the Trainer, but `model_init` made it: "
            "checkpoints would lose its noise layer. Give it as `model`, or use NoisyTrainer."
        )


def _peft_model_inside(model: Any) -> Any:
    """What PEFT has been put around, itself or inside another wrapper such as torch.compile; ``None`` without."""
    modules = model.modules() if isinstance(model, nn.Module) else []
    return next((module for module in modules if is_peft_model(module)), None)


def _save_pretrained(self: Any, save_directory: Any, *args: Any, **kwargs: Any) -> None:
    kwargs.setdefault("save_embedding_layers", False)  # PEFT would ask the Hub whether a vocabulary has grown
    if kwargs.get("state_dict"):  # of torch.compile around it
        kwargs["state_dict"] = {name.removeprefix("_orig_mod."): v for name, v in kwargs["state_dict"].items()}
    type(self).save_pretrained(self, save_directory, *args, **kwargs)
    noisy: Any = noisy_model_inside(self)
    if kwargs.get("is_main_process", True):
        noisy.config.save_pretrained(save_directory)
        noisy.save_companions(Path(save_directory))
        if noisy.noise_layer is not None:
            save_noise_layer(noisy.noise_layer, save_directory)


def _load_adapter(self: Any, model_id: Any, *args: Any, **kwargs: Any) -> Any:
    loaded = type(self).load_adapter(self, model_id, *args, **kwargs)
    noisy: Any = noisy_model_inside(self)
    files = Path(model_id) / NOISE_CONFIG_FILE, Path(model_id) / NOISE_WEIGHTS_FILE
    if noisy.noise_layer is not None and all(file.is_file() for file in files):
        noisy.noise_layer.load_state_dict(load_noise_layer(*files).state_dict())
    return loaded
