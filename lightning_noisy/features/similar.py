"""Which images are alike: cosines of all pairs by an exact product, block by block.

Where there are many images, each is compared with those of its own cells alone: images around the references that are
most like it. Two that are nearly the same are in one cell with near certainty, and the work grows with ``N √N``.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor

EXACT_ROWS = 20_000
"""Up to so many images all pairs are compared; of more, so many are read at a time."""
CELLS_OF_AN_IMAGE = 2
MOST_VALUES_AT_ONCE = 2**24
SAMPLED_IMAGES = 1000
TYPICAL_NEIGHBOUR = 10
"""The distance to the tenth neighbour is typical of images that are alike and not the same."""


@dataclass(frozen=True)
class Compared:
    """A block of pairs of images.

    Args:
        rows: (R,) the images of one side.
        others: (C,) those of the other side, the first R of which are the same images.
        cosines: (R, C) float32; -inf of an image with itself.
    """

    rows: np.ndarray
    others: np.ndarray
    cosines: Tensor


class SimilarImages:
    """Compares images by a row of numbers for each.

    Args:
        features: (N, D), read in blocks.
        rows: (M,) those of them that are compared.
        is_centred: Whether the mean of all is 0; else it is taken off, for features of a network have much in common.
        seed: Draws references and samples.
        device: Where to compute.
    """

    def __init__(
        self,
        features: Tensor,
        rows: np.ndarray,
        is_centred: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.features = features
        self.rows = rows
        self.device = device
        self.generator = np.random.default_rng(seed)
        self.mean = torch.zeros(features.shape[1], device=device)
        if not is_centred:
            self.mean = self._read(self._draw(EXACT_ROWS)).mean(dim=0)

    def typical_distance(self) -> float:
        """The median, over some images, of one less the cosine with the tenth nearest of all others."""
        count = min(TYPICAL_NEIGHBOUR, len(self.rows) - 1)
        if count < 1:
            return 0.0
        queries = self._directions(self._draw(SAMPLED_IMAGES))
        best = torch.full((len(queries), count + 1), -torch.inf, device=self.device)
        for first in range(0, len(self.rows), EXACT_ROWS):
            cosines = queries @ self._directions(self.rows[first : first + EXACT_ROWS]).T
            best = torch.cat([best, cosines], dim=1).topk(count + 1, dim=1).values
        return max(1 - float(best[:, count].median()), 0.0)  # the first is the image itself

    def blocks(self) -> Iterator[Compared]:
        """Each pair within each cell once."""
        cells = self._cells()
        for cell in track(cells, "Comparing images", disable=len(cells) == 1, transient=True):
            values = self._directions(cell)
            size = max(MOST_VALUES_AT_ONCE // max(len(cell), 1), 1)
            for first in range(0, len(cell), size):
                cosines = values[first : first + size] @ values[first:].T
                cosines.diagonal().fill_(-torch.inf)
                yield Compared(cell[first : first + size], cell[first:], cosines)

    def _cells(self) -> list[np.ndarray]:
        total = len(self.rows)
        if total <= EXACT_ROWS:
            return [self.rows]
        references = self._directions(self._draw(int(np.sqrt(total))))
        cell_of = np.empty((total, CELLS_OF_AN_IMAGE), dtype=np.int32)
        for first in range(0, total, EXACT_ROWS):
            part = slice(first, first + EXACT_ROWS)
            cosines = self._directions(self.rows[part]) @ references.T
            cell_of[part] = cosines.topk(CELLS_OF_AN_IMAGE, dim=1).indices.cpu().numpy()
        order = np.argsort(cell_of, axis=None, kind="stable")
        ends = np.searchsorted(cell_of.ravel()[order], np.arange(1, len(references)))
        return [self.rows[members] for members in np.split(order // CELLS_OF_AN_IMAGE, ends)]

    def _draw(self, count: int) -> np.ndarray:
        return np.sort(self.generator.permutation(self.rows)[:count])

    def _read(self, rows: np.ndarray) -> Tensor:
        return self.features[torch.from_numpy(rows)].to(self.device).float()

    def _directions(self, rows: np.ndarray) -> Tensor:
        return F.normalize(self._read(rows) - self.mean, dim=1)
