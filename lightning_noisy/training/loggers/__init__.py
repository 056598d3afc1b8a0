"""Loggers that tell a noisy training as it is: CSV files and W&B."""

from lightning_noisy.training.loggers.csv_logger import NoisyCSVLogger
from lightning_noisy.training.loggers.wandb_logger import NoisyWandbLogger

__all__ = ["NoisyCSVLogger", "NoisyWandbLogger"]
