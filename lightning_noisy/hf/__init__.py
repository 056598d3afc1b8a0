"""The noise layer for transformers: config, model and Trainer, known to its Auto classes."""

from typing import cast

from transformers import AutoConfig, AutoModelForImageClassification, TrainerCallback
from transformers.trainer import DEFAULT_CALLBACKS

from lightning_noisy.hf.callback import NoiseLayerCallback
from lightning_noisy.hf.config import NoisyImageClassificationConfig
from lightning_noisy.hf.model import NoisyForImageClassification, NoisyImageClassifierOutput
from lightning_noisy.hf.trainer import NoisyTrainer

__all__ = [
    "NoiseLayerCallback",
    "NoisyForImageClassification",
    "NoisyImageClassificationConfig",
    "NoisyImageClassifierOutput",
    "NoisyTrainer",
]

AutoConfig.register(NoisyImageClassificationConfig.model_type, NoisyImageClassificationConfig, exist_ok=True)
AutoModelForImageClassification.register(NoisyImageClassificationConfig, NoisyForImageClassification, exist_ok=True)
# The plain Trainer has no other way to learn that a model wants to know the epoch. It leaves other models alone.
if NoiseLayerCallback not in (registered := cast(list[type[TrainerCallback]], DEFAULT_CALLBACKS)):
    registered.append(NoiseLayerCallback)
