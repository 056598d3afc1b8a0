"""Images and their noisy labels, from wherever they lie."""

from lightning_noisy.data.datamodule import NoisyImageDataModule
from lightning_noisy.data.streaming import StreamingImageDataModule
from lightning_noisy.data.table import ImageBatch, LabelledImages

__all__ = ["ImageBatch", "LabelledImages", "NoisyImageDataModule", "StreamingImageDataModule"]
