"""Fine-tune vision models on partly wrong labels: a noise layer for training that comes off afterwards."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lightning_noisy.audit import LabelAudit, audit_labels
    from lightning_noisy.data import NoisyImageDataModule, StreamingImageDataModule
    from lightning_noisy.noise import NoiseConfig, NoiseLayer
    from lightning_noisy.training import NoisyImageClassifier, NoisyLabelMixin

_ROOMS = {
    "LabelAudit": "audit",
    "NoiseConfig": "noise",
    "NoiseLayer": "noise",
    "NoisyImageClassifier": "training",
    "NoisyImageDataModule": "data",
    "NoisyLabelMixin": "training",
    "StreamingImageDataModule": "data",
    "audit_labels": "audit",
}

__all__ = [
    "LabelAudit",
    "NoiseConfig",
    "NoiseLayer",
    "NoisyImageClassifier",
    "NoisyImageDataModule",
    "NoisyLabelMixin",
    "StreamingImageDataModule",
    "audit_labels",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(importlib.import_module(f"lightning_noisy.{_ROOMS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS])
