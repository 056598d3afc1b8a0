"""From a source's name to its splits: images and labels as they lie there, not yet numbered by class."""

import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from lightning_noisy.data.stores import ArrayStore
from lightning_noisy.data.table import ImageStore
from lightning_noisy.data.table_paths import URL

SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
DIGITS_TEST_SIZE = 497


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


def read_source(
    source: str, columns: Columns, seed: int, argument: str = "source", on_empty_class: str = "error"
) -> dict[str, RawSplit]:
    """The splits (``train``, ``val``, ``test``) that a source has.

    Args:
        source: ``"digits"``, a folder, a manifest file, ``"hub:NAME"``, ``"idx:DIR"`` or a published data set.
        columns: Column names for tables.
        seed: Seeds the split of ``"digits"``.
        argument: The user's name for the source, for messages.
        on_empty_class: ``"error"``, or ``"skip"`` to leave out class folders without images.

    Raises:
        ValueError: If the source does not exist or can't be read.
    """
    from lightning_noisy.data import folders, published, tables

    if not isinstance(source, str | Path) or not str(source):
        raise ValueError(f"Expected argument `{argument}` to be {_KINDS}, but got {source!r}.")
    kind, _, rest = str(source).partition(":")
    if source == "digits":
        return _digits(seed)
    if kind == "idx" and rest:
        return _idx(Path(rest).expanduser(), argument)
    if kind == "hub" and rest:
        return tables.read_hub(rest, columns, argument)
    if kind in published.READERS and rest:
        return published.read_published(kind, Path(rest).expanduser(), argument)
    if re.match(URL, str(source)):
        raise ValueError(
            f"Expected argument `{argument}` to be {_KINDS}, but got the URL {str(source)!r}. Download it first, or "
            "stream shards of images by `StreamingImageDataModule`."
        )
    path = Path(source).expanduser()
    if path.is_dir():
        if tables.is_saved_dataset(path):
            return tables.read_hub(str(path), columns, argument)
        return folders.read_folder(path, columns, argument, on_empty_class)
    if path.is_file():
        return tables.read_manifest(path, columns, argument)
    raise ValueError(f"Expected argument `{argument}` to be {_KINDS}, but {str(source)!r} does not exist.")


def read_other_source(split: str, source: str, columns: Columns, seed: int, on_empty_class: str = "error") -> RawSplit:
    """What the arguments ``val_source`` and ``test_source`` name: the images of one split.

    Raises:
        ValueError: If the source can't be read, or has several splits and none of this name.
    """
    found = read_source(source, replace(columns, strict=False), seed, f"{split}_source", on_empty_class)
    if split not in found and len(found) > 1:
        raise ValueError(
            f"Expected argument `{split}_source` to name images for one split, but {source!r} has the splits "
            f"{sorted(found)} and no {split!r}. Name the folder or the file of one of them."
        )
    return found.get(split) or next(iter(found.values()))


_KINDS = (
    "'digits', a folder, a manifest file (.csv, .tsv, .parquet, .jsonl), 'hub:NAME', 'idx:DIR' or a published data set "
    "('clothing1m:DIR', 'food101n:DIR', 'food101:DIR', 'webvision:DIR', 'mini-webvision:DIR', 'animal10n:DIR')"
)


def _digits(seed: int) -> dict[str, RawSplit]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    store = ArrayStore((pixels.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8))
    rows = np.arange(len(labels))
    train_rows, test_rows = train_test_split(rows, test_size=DIGITS_TEST_SIZE, random_state=seed, stratify=labels)
    return {
        split: RawSplit(
            store=ArrayStore(store.pixels[part]),
            ids=pa.array([f"digits/{row}" for row in part]),
            labels=pa.array(labels[part]),
            class_names=[str(digit) for digit in range(10)],
            is_clean=True,
            where="digits",
        )
        for split, part in {"train": np.sort(train_rows), "test": np.sort(test_rows)}.items()
    }


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


def _idx(root: Path, argument: str) -> dict[str, RawSplit]:
    splits = {}
    for split, prefix in {"train": "train", "test": "t10k"}.items():
        images, labels = (_find_idx(root, f"{prefix}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
        if images is None or labels is None:
            if split == "train":
                raise ValueError(
                    f"Expected argument `{argument}` to name a folder with MNIST-style files 'train-images-idx3-ubyte' "
                    f"and 'train-labels-idx1-ubyte' (or .gz), but {str(root)!r} does not hold both."
                )
            continue
        pixels, numbers = _read_idx(images), _read_idx(labels)
        if len(pixels) != len(numbers):
            raise ValueError(f"{images.name!r} holds {len(pixels)} images, but {labels.name!r} {len(numbers)} labels.")
        splits[split] = RawSplit(
            store=ArrayStore(pixels),
            ids=pa.array([f"{split}/{row}" for row in range(len(numbers))]),
            labels=pa.array(numbers.astype(np.int64)),
            is_clean=True,
            where=str(root),
        )
    return splits


def _find_idx(root: Path, name: str) -> Path | None:
    candidates: Sequence[Path] = [root / name, root / f"{name}.gz", root / name.replace("-idx", ".idx")]
    return next((path for path in candidates if path.is_file()), None)


def _read_idx(path: Path) -> np.ndarray:
    """Reads unsigned bytes in the idx format: two zero bytes, the type, the number of dimensions, then each size."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise ValueError(f"{str(path)!r} can't be read as an idx file: {error}.") from error
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise ValueError(f"{str(path)!r} is no idx file of unsigned bytes: it starts with {data[:4]!r}.")
    dimensions = data[3]
    shape: Any = np.frombuffer(data, ">u4", count=dimensions, offset=4).astype(int)
    if len(data) != 4 + 4 * dimensions + shape.prod():
        raise ValueError(
            f"{str(path)!r} is truncated: its header promises {shape.prod()} values, but they are not there."
        )
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
