"""Telling weights from others."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_noisy.models.kinds import timm_model_inside


def add_weights(digest: Any, weights: Mapping[str, Tensor]) -> None:
    """Puts names and bytes of all weights into a hash of :mod:`hashlib`, whatever their order."""
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())


def frozen_fingerprint(model: nn.Module) -> str:
    """A text that changes with the weights under an adapter, which its files do not hold."""
    model = timm_model_inside(model) or model
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    replaced = ".original_module."  # of PEFT's `modules_to_save`, whose copy is trained
    weights = {
        name: value for name, value in model.state_dict().items() if name not in trained and replaced not in name
    }
    digest = hashlib.sha256()
    add_weights(digest, weights)
    return digest.hexdigest()[:16]
