"""The handwritten digits that come with scikit-learn."""

import numpy as np
import pyarrow as pa

from lightning_noisy.data.image_stores import ArrayStore
from lightning_noisy.data.readers.base import RawSplit

TEST_SIZE = 497


def read_digits(seed: int) -> dict[str, RawSplit]:
    """1,300 images for training and 497 for testing, drawn by the seed, 8 pixels square."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    store = ArrayStore((pixels.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8))
    rows = np.arange(len(labels))
    train_rows, test_rows = train_test_split(rows, test_size=TEST_SIZE, random_state=seed, stratify=labels)
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
