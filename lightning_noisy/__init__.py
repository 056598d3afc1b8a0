"""Fine-tune vision models on partly wrong labels: a noise layer for training that comes off afterwards."""

from typing import TYPE_CHECKING

from lightning_noisy.lazy_names import lazy_names

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lightning_noisy.audit import LabelAudit, audit_by_features, audit_labels
    from lightning_noisy.data import NoisyImageDataModule, StreamingImageDataModule
    from lightning_noisy.features import extract_features
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
    "audit_by_features": "audit",
    "audit_labels": "audit",
    "extract_features": "features",
}

__all__ = [
    "LabelAudit",
    "NoiseConfig",
    "NoiseLayer",
    "NoisyImageClassifier",
    "NoisyImageDataModule",
    "NoisyLabelMixin",
    "StreamingImageDataModule",
    "audit_by_features",
    "audit_labels",
    "extract_features",
]


__getattr__ = lazy_names(__name__, _ROOMS)


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS])
