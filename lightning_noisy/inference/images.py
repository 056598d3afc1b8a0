"""The images of several splits as one sequence."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from lightning_noisy.data.labelled_images import LabelledImages


class AllImages:
    """The images of some splits, one behind the other.

    Args:
        splits: By name. An image's position is its number over all of them.
    """

    def __init__(self, splits: "dict[str, LabelledImages]") -> None:
        self.splits = splits
        self._starts = np.cumsum([0, *map(len, splits.values())])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def place(self, position: int) -> tuple[str, int]:
        """The split of an image and its row there."""
        index = int(np.searchsorted(self._starts, position, side="right")) - 1
        return list(self.splits)[index], int(position - self._starts[index])

    def positions(self, split: str, rows: np.ndarray) -> np.ndarray:
        """(M,) rows of a split -> their positions."""
        return self._starts[list(self.splits).index(split)] + rows

    def blocks(self, size: int = 100_000) -> Iterator[tuple[pa.StringArray, np.ndarray]]:
        """Ids and given labels, some at a time."""
        for images in self.splits.values():
            for first in range(0, len(images), size):
                yield images.ids[first : first + size], images.noisy_labels[first : first + size]

    def columns(self, positions: np.ndarray) -> dict[str, Any]:
        """What is known of each image without looking at it."""
        places = [self.place(position) for position in positions.tolist()]
        return {
            "id": [self.splits[split].ids[row].as_py() for split, row in places],
            "path": [self.splits[split].path(row) for split, row in places],
            "split": [split for split, _ in places],
            "row": [row for _, row in places],
        }


def unique_over_splits(splits: "dict[str, LabelledImages]") -> "dict[str, LabelledImages]":
    """The same splits; of an id that two of them have, the later one becomes ``ID#SPLIT``, for decisions go by ids."""
    seen: pa.Array | None = None
    unique: dict[str, LabelledImages] = {}
    for split, images in splits.items():
        ids = images.ids
        if seen is not None:
            is_known = pc.is_in(ids, value_set=seen)
            if pc.any(is_known).as_py():
                ids = pc.if_else(is_known, pc.binary_join_element_wise(ids, split, "#"), ids)
                images = replace(images, ids=ids)
        seen = ids if seen is None else pa.concat_arrays([seen, ids])
        unique[split] = images
    return unique
