"""Finding the model with a noise layer inside whatever has been put around it."""

from typing import Any

from torch import nn

from lightning_noisy.hf.model import NoisyForImageClassification
from lightning_noisy.noise import NoiseLayer


def noisy_model_inside(model: Any) -> NoisyForImageClassification | None:
    """The model itself, or the one inside PEFT, torch.compile, DDP, FSDP or a module of one's own; ``None`` without.

    Raises:
        ValueError: If there are several.
    """
    if not isinstance(model, nn.Module):
        return None
    found = [module for module in model.modules() if isinstance(module, NoisyForImageClassification)]
    if len(found) > 1:
        raise ValueError(
            "Expected argument `model` of the Trainer to hold one NoisyForImageClassification, which is told the "
            f"epoch, but got {len(found)}. Train them one by one."
        )
    return found[0] if found else None


def check_layer_is_told(model: Any) -> None:
    """Looks whether a model without a :class:`NoisyForImageClassification` holds a noise layer that waits.

    Raises:
        ValueError: If it does: nothing would tell it the epoch.
    """
    if not isinstance(model, nn.Module):
        return
    for name, module in model.named_modules():
        if isinstance(module, NoiseLayer) and module.config.warmup_epochs != 0:
            raise ValueError(
                f"Expected the noise layer {name!r} of {type(model).__name__} to be in a NoisyForImageClassification, "
                "which the Trainer tells the epoch, but it is not, and would wait forever. Use "
                "`NoisyForImageClassification.from_backbone(model)`, or give the layer `warmup_epochs=0`."
            )
