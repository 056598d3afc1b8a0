"""More images than the disk holds: shards of WebDataset or Parquet, read as a stream."""

from lightning_noisy.streaming.datamodule import StreamingImageDataModule

__all__ = ["StreamingImageDataModule"]
