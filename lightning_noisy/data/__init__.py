"""Images and their noisy labels, from wherever they lie."""

from typing import TYPE_CHECKING

from lightning_noisy.lazy_names import lazy_names

if TYPE_CHECKING:
    from lightning_noisy.data.datamodule import NoisyImageDataModule
    from lightning_noisy.data.streaming import StreamingImageDataModule
    from lightning_noisy.data.table import ImageBatch, LabelledImages

__all__ = ["ImageBatch", "LabelledImages", "NoisyImageDataModule", "StreamingImageDataModule"]

__getattr__ = lazy_names(
    __name__,
    {
        "ImageBatch": "table",
        "LabelledImages": "table",
        "NoisyImageDataModule": "datamodule",
        "StreamingImageDataModule": "streaming",
    },
)
