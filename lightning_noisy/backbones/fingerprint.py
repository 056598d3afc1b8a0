"""Telling weights from others."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def add_weights(digest: Any, weights: Mapping[str, Tensor]) -> None:
    """Puts names and bytes of all weights into a hash of :mod:`hashlib`, whatever their order."""
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
