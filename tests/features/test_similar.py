"""The blocked product, beside scikit-learn's."""

import numpy as np
import torch
from sklearn.metrics.pairwise import cosine_similarity

from lightning_noisy.features import similar
from lightning_noisy.features.similar import SimilarImages


def planted(total, size=16, seed=0):
    """Random features, of which the last tenth are nearly those of the first; the pairs that belong together."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(total, size)).astype(np.float32)
    copies = total // 10
    features[-copies:] = features[:copies] + 0.02 * generator.normal(size=(copies, size))
    return torch.from_numpy(features).half(), {(i, total - copies + i) for i in range(copies)}


def found(compared, most):
    pairs = set()
    for block in compared.blocks():
        for one, other in np.argwhere((block.cosines >= 1 - most).numpy()):
            pairs.add(tuple(sorted((int(block.rows[one]), int(block.others[other])))))
    return pairs


def test_cosines_are_those_of_centred_features(monkeypatch):
    monkeypatch.setattr(similar, "MOST_VALUES_AT_ONCE", 100 * 37)
    features, _ = planted(100)
    values = features.double().numpy()
    expected = cosine_similarity(values - values.mean(axis=0))
    np.fill_diagonal(expected, -np.inf)
    rows = np.arange(100)
    blocks = list(SimilarImages(features, rows).blocks())
    assert len(blocks) == 3
    for block in blocks:
        np.testing.assert_allclose(block.cosines.numpy(), expected[np.ix_(block.rows, block.others)], atol=1e-5)
    compared = np.zeros((100, 100), dtype=int)
    for block in blocks:
        compared[np.ix_(block.rows, block.others)] += 1
    assert (compared + compared.T - np.diag(np.diag(compared)) >= 1).all()
    tenth = np.sort(expected, axis=1)[:, -10]
    assert abs(SimilarImages(features, rows).typical_distance() - (1 - np.quantile(tenth, 0.5, method="lower"))) < 1e-5


def test_cells_find_the_same_pairs_and_compare_few(monkeypatch):
    features, pairs = planted(3000)
    rows = np.arange(3000)
    assert found(SimilarImages(features, rows), 0.05) == pairs
    monkeypatch.setattr(similar, "EXACT_ROWS", 500)
    in_cells = SimilarImages(features, rows)
    assert len(found(in_cells, 0.05) & pairs) >= 0.98 * len(pairs)
    assert sum(block.cosines.numel() for block in in_cells.blocks()) < 3000**2 / 4
    assert sorted(set(np.concatenate([block.others for block in in_cells.blocks()]))) == list(range(3000))


def test_a_single_image_has_nothing_like_it():
    features = torch.ones(1, 4)
    assert SimilarImages(features, np.arange(1)).typical_distance() == 0
    assert found(SimilarImages(features, np.arange(1)), 0.5) == set()
