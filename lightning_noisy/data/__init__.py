"""Images and their noisy labels, from wherever they lie."""

from typing import TYPE_CHECKING

from lightning_noisy.utils.lazy_names import lazy_names

if TYPE_CHECKING:
    from lightning_noisy.data.datamodule import NoisyImageDataModule
    from lightning_noisy.data.labelled_images import LabelledImages
    from lightning_noisy.image_batch import ImageBatch

__all__ = ["ImageBatch", "LabelledImages", "NoisyImageDataModule", "StreamingImageDataModule"]

__getattr__ = lazy_names(
    __name__,
    {
        "ImageBatch": "lightning_noisy.image_batch",
        "LabelledImages": "lightning_noisy.data.labelled_images",
        "NoisyImageDataModule": "lightning_noisy.data.datamodule",
        "StreamingImageDataModule": "lightning_noisy.streaming.datamodule",
    },
)
