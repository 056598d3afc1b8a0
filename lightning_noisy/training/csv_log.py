"""Where ``NoisyCSVLogger`` was before 0.1: configurations that name this place keep working."""

from lightning_noisy.utils.lazy_names import lazy_names

__getattr__ = lazy_names(__name__, {"NoisyCSVLogger": "lightning_noisy.training.loggers.csv_logger"})
