"""The same picture several times: groups of exact and of near duplicates, whatever labels and splits they are in."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from lightning_noisy.features.similar import SimilarImages

LEAST_DISTANCE, MOST_DISTANCE = 0.002, 0.015
"""Thumbnails of the same picture are not further from each other than something between the two."""
SHARE_OF_THUMBNAILS, SHARE_OF_FEATURES = 0.05, 0.15
"""Nor are they further than this share of the distance that is typical of similar images in these data. All were chosen
on the first 12,000 images of CIFAR-10N, on MNIST and on digits."""
LEAST_CORRELATION = 0.5
"""Of the thumbnails of pictures that features take for the same: dark pictures look alike to a network."""
MOST_COLOUR_DIFFERENCE = 32
"""Of 255, in red, green or blue, between the mean colours of the same picture: thumbnails are grey."""
IS_NEAR_UP_TO = 0.5
MOST_EDGES = 2**16


@dataclass(frozen=True)
class Duplicates:
    """Of ``N`` images.

    Args:
        group: (N,) int64, the group of the same picture, from 0 on in the order of its first image; -1 in none.
        is_exact: (N,) bool, whether another image has the very same pixels.
        score: (N,) float32 in [0, 1], how far the most similar other picture is: 0 the same pixels, up to .5 the same
            picture.
    """

    group: np.ndarray
    is_exact: np.ndarray
    score: np.ndarray


def find_duplicates(
    facts: dict[str, np.ndarray],
    features: Tensor | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Duplicates:
    """By pixels, by thumbnails, and by features where there are any.

    Args:
        facts: Columns of :data:`~lightning_noisy.inference.facts.FACTS_SCHEMA`, (N,) each, lists (N, L).
        features: Those of a frozen backbone, (N, D).
        seed: Draws samples.
        device: Where to compare.
    """
    total = len(facts["pixel_digest"])
    _, first, same, copies = np.unique(
        facts["pixel_digest"], return_index=True, return_inverse=True, return_counts=True
    )
    is_exact = copies[same] > 1
    groups = _Groups(total)
    groups.join(np.arange(total), first[same])
    score = np.where(is_exact, 0.0, 1.0).astype(np.float32)
    thumbnails = torch.from_numpy(facts["thumbnail"].astype(np.float16))
    contrasts = thumbnails - thumbnails.mean(dim=1, keepdim=True)  # so that cosines are correlations
    similar = SimilarImages(contrasts, first, True, seed, device)
    most = min(SHARE_OF_THUMBNAILS * similar.typical_distance(), MOST_DISTANCE)
    colours = torch.from_numpy(facts["mean_colour"].astype(np.int16))
    _join_near(groups, score, similar, max(most, LEAST_DISTANCE), contrasts, colours)
    if features is not None:
        similar = SimilarImages(features, first, False, seed, device)
        most = max(SHARE_OF_FEATURES * similar.typical_distance(), LEAST_DISTANCE)
        _join_near(groups, score, similar, most, contrasts, colours)
    group = groups.numbered()
    score[group < 0] = score[group < 0].clip(np.nextafter(np.float32(IS_NEAR_UP_TO), np.float32(1)))
    return Duplicates(group, is_exact, score)


def _join_near(
    groups: "_Groups", score: np.ndarray, similar: SimilarImages, most: float, contrasts: Tensor, colours: Tensor
) -> None:
    """Joins pairs whose distance is at most ``most``, and whose thumbnails and colours are alike."""
    for block in similar.blocks():
        for rows, nearest in ((block.rows, block.cosines.amax(dim=1)), (block.others, block.cosines.amax(dim=0))):
            found = np.clip(IS_NEAR_UP_TO * (1 - nearest.cpu().numpy()) / most, 0, 1)
            score[rows] = np.minimum(score[rows], found)
        pairs = torch.nonzero(block.cosines >= 1 - most).cpu().numpy()
        for first in range(0, len(pairs), MOST_EDGES):
            ones, others = (
                block.rows[pairs[first : first + MOST_EDGES, 0]],
                block.others[pairs[first : first + MOST_EDGES, 1]],
            )
            correlation = F.cosine_similarity(contrasts[ones].float(), contrasts[others].float())
            difference = (colours[ones] - colours[others]).abs().amax(dim=1)
            is_alike = ((correlation >= LEAST_CORRELATION) & (difference <= MOST_COLOUR_DIFFERENCE)).numpy()
            groups.join(ones[is_alike], others[is_alike])


class _Groups:
    """Connected components that grow edge by edge."""

    def __init__(self, total: int) -> None:
        self._component = np.arange(total)
        self._ones: list[np.ndarray] = []
        self._others: list[np.ndarray] = []
        self._edges = 0

    def join(self, ones: np.ndarray, others: np.ndarray) -> None:
        self._ones.append(ones)
        self._others.append(others)
        self._edges += len(ones)
        if self._edges > MOST_EDGES:
            self._connect()

    def numbered(self) -> np.ndarray:
        """(N,) the component of each image by the order of their first images; -1 of one that is alone."""
        self._connect()
        _, first, component, size = np.unique(
            self._component, return_index=True, return_inverse=True, return_counts=True
        )
        number = np.full(len(first), -1)
        shared = np.flatnonzero(size > 1)
        number[shared[np.argsort(first[shared])]] = np.arange(len(shared))
        return number[component]

    def _connect(self) -> None:
        ones, others = (
            self._component[np.concatenate(ends or [np.empty(0, int)])] for ends in (self._ones, self._others)
        )
        total = len(self._component)
        graph = coo_array((np.ones(len(ones), dtype=np.int8), (ones, others)), shape=(total, total))
        self._component = connected_components(graph, directed=False)[1][self._component]
        self._ones, self._others, self._edges = [], [], 0
