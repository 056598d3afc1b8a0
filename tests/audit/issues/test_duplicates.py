"""Duplicates that were planted, and nothing else."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageEnhance

from lightning_noisy.audit.issues import duplicates
from lightning_noisy.audit.issues.columns import Pictures, issue_columns
from lightning_noisy.audit.issues.duplicates import find_duplicates

from .small import facts_of, pictures


def as_jpeg(image, quality=50):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def test_exact_and_near_copies_are_one_group_and_others_are_none():
    images = pictures(50)
    copies = [
        images[3].copy(),
        as_jpeg(images[3]),
        ImageEnhance.Brightness(images[7]).enhance(0.9),
        images[9].resize((64, 50)),
    ]
    found = find_duplicates(facts_of([*images, *copies]))
    assert found.group[[3, 50, 51]].tolist() == [0, 0, 0]
    assert found.group[[7, 52]].tolist() == [1, 1]
    assert found.group[[9, 53]].tolist() == [2, 2]
    assert (found.group >= 0).sum() == 7
    assert np.flatnonzero(found.is_exact).tolist() == [3, 50]
    assert found.score[[3, 50]].tolist() == [0, 0]
    near = found.score[[7, 9, 51, 52, 53]]
    assert ((near > 0) & (near <= 0.5)).all()
    assert (np.delete(found.score, [3, 7, 9, 50, 51, 52, 53]) > 0.5).all()


def test_features_join_what_thumbnails_miss():
    images = pictures(60)
    facts = facts_of([*images, images[0].crop((2, 2, 39, 39)), images[1].rotate(180)])
    features = torch.randn(62, 32, generator=torch.Generator().manual_seed(0))
    features[60] = features[0] + 0.05 * torch.randn(32, generator=torch.Generator().manual_seed(1))
    features[61] = features[1]  # as two dark pictures, which are different all the same
    assert (find_duplicates(facts).group == -1).all()
    found = find_duplicates(facts, features)
    assert np.flatnonzero(found.group == 0).tolist() == [0, 60]
    assert found.score[0] == found.score[60] < 0.5
    assert (found.score[[*range(1, 60), 61]] > 0.5).all()


def test_columns_name_groups_splits_and_conflicts():
    images = pictures(6)
    images += [images[0], images[0], images[1], images[2]]
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 1, -1])
    splits = np.array([0, 0, 0, 0, 0, 0, 1, 2, 0, 2])
    facts = facts_of(images)
    table = issue_columns(Pictures(facts, labels, splits), find_duplicates(facts))
    rows = table.to_pylist()
    assert [row["near_duplicate_group"] for row in rows] == [0, 1, 2, None, None, None, 0, 0, 1, 2]
    assert rows[0]["near_duplicate_splits"] == rows[7]["near_duplicate_splits"] == "train, val, test"
    assert rows[1]["near_duplicate_splits"] == "train"
    assert rows[9]["near_duplicate_splits"] == "train, test"
    assert rows[3]["near_duplicate_splits"] is None
    assert [row["is_conflicting_duplicate"] for row in rows] == [True] + [False] * 5 + [True, True, False, False]
    scores = [row["conflicting_duplicate_score"] for row in rows]
    assert scores == pytest.approx([2 / 3, 1, 1, 1, 1, 1, 2 / 3, 1 / 3, 1, 1])
    assert [row["exact_duplicate_score"] for row in rows] == [0, 0, 0, 1, 1, 1, 0, 0, 0, 0]


def test_one_picture_may_be_there_a_thousand_times(monkeypatch):
    monkeypatch.setattr(duplicates, "MOST_EDGES", 1000)
    images = pictures(100, side=20)
    facts = facts_of([*images, *(as_jpeg(images[0], quality) for quality in (40, 50, 70, 90))])
    times = np.array([20] * 100 + [250] * 4)
    facts = {name: np.repeat(values, times, axis=0) for name, values in facts.items()}
    facts["pixel_digest"] = np.arange(3000)  # as if no two were quite the same
    facts["thumbnail"][20:2000] = np.random.default_rng(0).integers(0, 256, (1980, 256))
    assert np.flatnonzero(find_duplicates(facts).group == 0).tolist() == [*range(20), *range(2000, 3000)]


def test_where_every_picture_is_there_a_dozen_times_all_are_found():
    facts = {name: np.repeat(values, 12, axis=0) for name, values in facts_of(pictures(20)).items()}
    facts["pixel_digest"] = np.arange(240)
    assert find_duplicates(facts).group.tolist() == np.repeat(np.arange(20), 12).tolist()


def test_one_picture_under_many_labels_is_a_placeholder():
    images = pictures(30)
    images += [images[0]] * 11 + [images[1]] * 11 + [images[2]] * 8
    labels = np.array([*range(30), *([0, 1, 2] * 4)[:11], *[1] * 11, *([0, 1, 2] * 3)[:8]]) % 3
    facts = facts_of(images)
    table = issue_columns(Pictures(facts, labels, np.zeros(60, dtype=np.int64)), find_duplicates(facts))
    assert np.flatnonzero(table["is_placeholder"].to_numpy()).tolist() == [0, *range(30, 41)]
    assert table["placeholder_score"].to_numpy()[[0, 1, 2, 3]] == pytest.approx([1 / 12, 1 / 12, 1 / 9, 1])
    for name in table.column_names:
        if name.endswith("_score") and name != "outlier_score":
            values = table[name].to_numpy()
            assert ((values >= 0) & (values <= 1)).all(), name


def test_the_same_shape_in_another_colour_is_another_picture():
    white = Image.new("RGB", (40, 40), "white")
    images = []
    for colour in ("red", "blue", "green"):
        image = white.copy()
        ImageDraw.Draw(image).ellipse((5, 5, 30, 33), fill=colour)
        images.append(image)
    images += [*pictures(12), ImageEnhance.Brightness(images[0]).enhance(0.95)]
    assert find_duplicates(facts_of(images)).group.tolist() == [0, *[-1] * 14, 0]
