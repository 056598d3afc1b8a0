"""Training with a noise layer in Lightning."""

from lightning_noisy.training.classifier import NoisyImageClassifier
from lightning_noisy.training.mixin import NoisyLabelMixin

__all__ = ["NoisyImageClassifier", "NoisyLabelMixin"]
