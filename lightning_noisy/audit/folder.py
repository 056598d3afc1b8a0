"""An audit as it lies in its folder, to be read."""

import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
from PIL import Image

from lightning_noisy.audit.schema import AUDIT_FILE, AUDIT_SCHEMA, PROBABILITIES_FILE
from lightning_noisy.audit.summary import AuditSummary
from lightning_noisy.inference.images import unique_over_splits

if TYPE_CHECKING:
    from lightning_noisy.data.labelled_images import LabelledImages

READ_ROWS = 16_384
"""Rows of the table in memory at a time where only the first ones are wanted."""


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


class AuditFolder:
    """Which labels are wrong: one row an image, the most suspicious first.

    Args:
        directory: What ``lightning-noisy audit`` wrote.
        splits: The images, where they are at hand; else they are read again from where they lay.
        temporary: The temporary folder that ``directory`` is, to be kept as long as this object.

    Raises:
        ValueError: If there is no finished audit.
    """

    def __init__(
        self,
        directory: str | Path,
        splits: "dict[str, LabelledImages] | None" = None,
        temporary: tempfile.TemporaryDirectory | None = None,
    ) -> None:
        self.directory = Path(directory).expanduser()
        self.summary = AuditSummary.read(self.directory)
        self._at_hand = splits
        self._temporary = temporary

    @cached_property
    def table(self) -> pa.Table:
        """All rows, in the columns of :data:`~lightning_noisy.audit.schema.AUDIT_SCHEMA`."""
        return pyarrow.parquet.read_table(self.directory / AUDIT_FILE, partitioning=None).cast(AUDIT_SCHEMA)

    @cached_property
    def splits(self) -> "dict[str, LabelledImages]":
        """The images that the rows are about: those at hand, else read again, once.

        Raises:
            ValueError: If they are no longer there.
        """
        return read_again(self.summary.source) if self._at_hand is None else self._at_hand

    @cached_property
    def images(self) -> AuditImages:
        """Reads the images.

        Raises:
            ValueError: If they lie there no more, or are others.
        """
        return AuditImages(self.splits)

    def first_rows(self, most: int) -> list[dict[str, Any]]:
        """The most suspicious rows, read without the others."""
        head = pyarrow.dataset.dataset(self.directory / AUDIT_FILE).head(most, batch_size=READ_ROWS)
        return head.to_pylist()

    @property
    def probabilities_path(self) -> Path:
        """Where the posterior of all classes lies, if it was asked for: ``id`` and ``probabilities``, K numbers."""
        return self.directory / PROBABILITIES_FILE


def read_again(source: Mapping[str, Any]) -> "dict[str, LabelledImages]":
    """The splits of a data module with these arguments, as its ``arguments()`` gave them when the audit was made.

    Raises:
        ValueError: If there are none, or the images are no longer there.
    """
    if not source:
        raise ValueError(
            "This audit does not say where its images come from, and so they can't be read again: make it from a "
            "`NoisyImageDataModule`."
        )
    from lightning_noisy.data.datamodule import NoisyImageDataModule  # the images of files are read without it

    try:
        return unique_over_splits(NoisyImageDataModule(**source).splits)
    except (ValueError, TypeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"The images of this audit can't be read again from where they lay: {reason}") from error
