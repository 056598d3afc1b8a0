"""The noise itself: torch only, knows neither Lightning nor transformers."""

from lightning_noisy.noise.config import NoiseConfig
from lightning_noisy.noise.layer import NoiseLayer

__all__ = ["NoiseConfig", "NoiseLayer"]
