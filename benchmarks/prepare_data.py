"""Turns CIFAR-10N on JPEG images (npz files of bytes and label columns) into Parquet that every source option reads.

    python benchmarks/prepare_data.py --data-dir DIR --output DIR

DIR holds ``cifar10n_train_jpeg.npz`` and ``cifar10_test_jpeg.npz``: ``jpeg`` (uint8, all files end to end), ``offset``
(n + 1), ``class_names`` and label columns. ``cifar10n_train.parquet`` is written with the columns ``image``, ``clean``,
``aggre``, ``random1``, ``worse``, and ``cifar10_test.parquet`` with ``image`` and ``clean``.
"""

import argparse
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import datasets

FILES = {"cifar10n_train": "cifar10n_train_jpeg.npz", "cifar10_test": "cifar10_test_jpeg.npz"}
LABELS = ("clean", "aggre", "random1", "worse")


def to_dataset(path: Path) -> "datasets.Dataset":
    """One npz file as a data set of images (JPEG bytes as they are) and class labels."""
    import datasets

    with np.load(path, allow_pickle=False) as arrays:
        data, offset = arrays["jpeg"].tobytes(), arrays["offset"]
        names = [str(name) for name in arrays["class_names"]] if "class_names" in arrays else None
        labels = {name: arrays[name].astype(np.int64) for name in LABELS if name in arrays}
    images = [{"bytes": data[start:end], "path": None} for start, end in itertools.pairwise(offset)]
    classes = datasets.ClassLabel(names=names) if names else datasets.ClassLabel(num_classes=10)
    features = datasets.Features({"image": datasets.Image(), **dict.fromkeys(labels, classes)})
    return datasets.Dataset.from_dict({"image": images, **labels}, features=features)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with the npz files")
    parser.add_argument("--output", type=Path, default=Path("data"), help="folder for the Parquet files")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for name, file in FILES.items():
        if not (options.data_dir / file).is_file():
            parser.error(f"expected {file} in --data-dir, but {options.data_dir} does not hold it")
        dataset = to_dataset(options.data_dir / file)
        dataset.to_parquet(options.output / f"{name}.parquet")
        print(f"{options.output / name}.parquet: {len(dataset)} images, columns {', '.join(dataset.column_names)}")


if __name__ == "__main__":
    main()
