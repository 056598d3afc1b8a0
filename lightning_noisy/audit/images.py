"""The images of an audit, for those who look at them."""

from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from lightning_noisy.data.labelled_images import LabelledImages


class AuditImages:
    """Reads images by the ``split`` and ``row`` of an audit's table.

    Args:
        splits: As :attr:`~lightning_noisy.data.datamodule.NoisyImageDataModule.splits` gives them.
    """

    def __init__(self, splits: "dict[str, LabelledImages]") -> None:
        self.splits = splits

    def read(self, split: str, row: int) -> Image.Image | None:
        """The decoded image, RGB; ``None`` where it has vanished or can't be decoded any more."""
        try:
            return self.splits[split].read(row)
        except Exception:  # decoders raise many kinds, and each of them means that there is nothing to look at
            return None
