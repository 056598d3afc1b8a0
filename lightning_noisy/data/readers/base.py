"""What every reader gives: a split with the labels as they lie in their source, not yet numbered by class."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from lightning_noisy.data.labelled_images import ImageStore

SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass
class RawSplit:
    """``N`` images with the labels that their source gives: class names or numbers.

    Args:
        store: Reads the images; its rows are the rows here.
        ids: N unique strings.
        labels: N class names or class numbers.
        clean_labels: The same for the clean labels, null where unknown; ``None`` if there are none.
        class_names: Names of the class numbers, where the source tells them.
        is_clean: Whether the labels are known to be right.
        where: The source's name for messages.
        weights: N numbers, what each image weighs in the training loss; ``None`` if there are none.
        table_rows: (N,) which rows of the table they are, from 0 on, where it has others too; ``None`` is all of it.
        not_read: Files beside the images that are none, by kind: how many, and the first.
    """

    store: ImageStore
    ids: pa.StringArray
    labels: pa.Array
    clean_labels: pa.Array | None = None
    class_names: list[str] | None = None
    is_clean: bool = False
    where: str = ""
    weights: pa.Array | None = None
    table_rows: np.ndarray | None = None
    not_read: dict[str, tuple[int, str]] = field(default_factory=dict)

    def name_of(self, row: int) -> str:
        """``row 7 ('img/3.png')``, as the table that the user knows counts them, from 0 on."""
        number = row if self.table_rows is None else int(self.table_rows[row])
        return f"row {number} ({self.ids[row].as_py()!r})"


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold what; ``None`` is guessed by the usual names.

    With ``strict=False`` a column that is not there is guessed too: a table of test images may have but one label.
    """

    image: str | None = None
    label: str | None = None
    clean_label: str | None = None
    id: str | None = None
    split: str | None = None
    strict: bool = True
    weight: str | None = None


def image_suffixes() -> set[str]:
    """The file suffixes that Pillow reads, lower case, with the dot; without those of documents and films."""
    Image.preinit()  # puts JPEG and PNG first: Pillow tries its formats in the order in which they came
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN} - {
        ".pdf",
        ".mpg",
        ".mpeg",
        ".h5",
        ".hdf",
        ".eps",
        ".ps",
    }


def look_up(keys: pa.Array, known: pa.Array, values: pa.Array) -> pa.Array:
    """The value of each key; null for a key that is not known."""
    return values.take(pc.index_in(keys, value_set=known))
