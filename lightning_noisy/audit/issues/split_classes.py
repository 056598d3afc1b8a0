"""Classes that look like two: two things under one name.

Images of one thing shade into each other; between two things is a gap, over which hardly any image has its nearest
neighbours. The images of a class are cut in two where two means cut them, and the neighbours on the other side are
counted. A cut through one cloud, drawn with as many images and the same spread, says what would be usual.
"""

import numpy as np
import pyarrow as pa
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.neighbors import kneighbors_graph
from torch import Tensor

from lightning_noisy.audit.issues.findings import SplitClass

LEAST_IMAGES, MOST_IMAGES = 100, 1000
"""Of a class with fewer nothing is said; of one with more, so many are drawn."""
DIRECTIONS = 16
NEIGHBOURS = 10
CLOUDS = 5
LEAST_SHARE = 0.3
"""Of the smaller group; fewer images are a few strange ones."""
MOST_CROSSING = 0.45
"""Neighbours over the gap, as a share of those in one cloud. Chosen on the first 10,000 images of CIFAR-10N and on
digits with seeds 10 to 13."""
EXAMPLES = 5


def split_classes(
    features: Tensor, noisy_labels: Tensor, posterior: Tensor, group: Tensor, ids: pa.StringArray
) -> list[SplitClass]:
    """The classes whose images fall into two groups, the plainest first.

    Args:
        features: (N, D), read class by class.
        noisy_labels: (N,) given labels.
        posterior: (N, K) ``P(clean = j | x, noisy = y)``: only labels that look right count.
        group: (N,) int64, the same number for images of the same picture, which counts once; -1 of one that is alone.
        ids: The N ids of the images.
    """
    is_right = (posterior.argmax(dim=1) == noisy_labels) & _is_first_copy(group)
    sample = torch.arange(0, len(features), max(len(features) // 10_000, 1))
    mean = features[sample].float().mean(dim=0)
    generator = np.random.default_rng(0)
    found = []
    for label in range(posterior.shape[1]):
        rows = torch.nonzero(is_right & (noisy_labels == label)).squeeze(1).numpy()
        if len(rows) < LEAST_IMAGES:
            continue
        rows = np.sort(generator.permutation(rows)[:MOST_IMAGES])
        values = (features[torch.from_numpy(rows)].float() - mean).numpy()
        side, crossing, to_centre = _cut(values)
        share = float(min(side.mean(), 1 - side.mean()))
        if share < LEAST_SHARE:
            continue
        clouds = [_cut(_cloud_like(values, generator))[1] for _ in range(CLOUDS)]
        crossing /= float(np.mean(clouds))
        if crossing < MOST_CROSSING:
            central = rows[to_centre.argsort(axis=0)[:EXAMPLES]]
            examples = [ids.take(pa.array(of_group)).to_pylist() for of_group in central.T]
            found.append(SplitClass(label, share, crossing, examples))
    return sorted(found, key=lambda split: split.crossing)


def _is_first_copy(group: Tensor) -> Tensor:
    first = np.unique(group.numpy(), return_index=True)[1]
    is_first = group < 0
    is_first[torch.from_numpy(first)] = True
    return is_first


def _cloud_like(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(M, D) -> (M, D) drawn from the normal distribution of the same mean and covariance."""
    mean = values.mean(axis=0)
    mixed = generator.standard_normal((len(values),) * 2, dtype=np.float32) / np.sqrt(len(values), dtype=np.float32)
    return mean + mixed @ (values - mean)


def _cut(values: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """What two means make of (M, D) images, whose directions are compared.

    Returns:
        (M,) the side of each image; how many neighbours are on the other side, by how many would be there by chance;
        (M, 2) distances to the centres.
    """
    directions = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    main = PCA(min(DIRECTIONS, values.shape[1]), random_state=0).fit_transform(directions)
    means = KMeans(2, n_init=3, random_state=0).fit(main)
    side = means.labels_ == 1
    neighbours = kneighbors_graph(main, NEIGHBOURS).tocoo()
    crosses = side[neighbours.row] != side[neighbours.col]
    share = side.mean()
    return side, float(crosses.mean() / (2 * share * (1 - share))), means.transform(main)
