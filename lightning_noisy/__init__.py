"""Fine-tune vision models on partly wrong labels: a noise layer for training that comes off afterwards."""

from typing import TYPE_CHECKING

from lightning_noisy._version import __version__
from lightning_noisy.utils.lazy_names import lazy_names

if TYPE_CHECKING:
    from lightning_noisy.audit import LabelAudit, audit_by_features, audit_labels, refine_labels
    from lightning_noisy.data import NoisyImageDataModule
    from lightning_noisy.features import extract_features
    from lightning_noisy.noise import NoiseConfig, NoiseLayer
    from lightning_noisy.streaming import StreamingImageDataModule
    from lightning_noisy.training import NoisyImageClassifier, NoisyLabelMixin

_MODULES = {
    "LabelAudit": "lightning_noisy.audit",
    "NoiseConfig": "lightning_noisy.noise",
    "NoiseLayer": "lightning_noisy.noise",
    "NoisyImageClassifier": "lightning_noisy.training",
    "NoisyImageDataModule": "lightning_noisy.data",
    "NoisyLabelMixin": "lightning_noisy.training",
    "StreamingImageDataModule": "lightning_noisy.streaming",
    "audit_by_features": "lightning_noisy.audit",
    "audit_labels": "lightning_noisy.audit",
    "extract_features": "lightning_noisy.features",
    "refine_labels": "lightning_noisy.audit",
}

__all__ = [
    "LabelAudit",
    "NoiseConfig",
    "NoiseLayer",
    "NoisyImageClassifier",
    "NoisyImageDataModule",
    "NoisyLabelMixin",
    "StreamingImageDataModule",
    "__version__",
    "audit_by_features",
    "audit_labels",
    "extract_features",
    "refine_labels",
]


__getattr__ = lazy_names(__name__, _MODULES)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
