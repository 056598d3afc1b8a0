"""The noise layer for transformers: config, model and Trainer, known to its Auto classes."""

from transformers import AutoConfig, AutoModelForImageClassification

from lightning_noisy.hf.callback import NoiseLayerCallback, add_to_every_trainer
from lightning_noisy.hf.config import NoisyImageClassificationConfig
from lightning_noisy.hf.model import BEFORE_THE_FIRST, NoisyForImageClassification, NoisyImageClassifierOutput
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
BEFORE_THE_FIRST.append(add_to_every_trainer)
