"""What audits say of a scrape with duplicates."""

import csv
import json

import pytest
import torch
from torch import nn

from lightning_noisy import NoisyImageClassifier
from lightning_noisy.audit.judging import by_features as judging
from lightning_noisy.audit.judging.by_features import audit_by_features
from lightning_noisy.audit.judging.by_model import audit_labels
from lightning_noisy.audit.label_audit import LabelAudit
from lightning_noisy.audit.schema import KINDS
from lightning_noisy.inference import parts, predicting

from ..scrape import shape, write_scrape
from ..small import SmallNetwork, trainer

COPIES = [
    ("copy of red0.png", shape("red", 0), "blue", "train"),  # of a training image, under another label
    ("small red1.jpg", shape("red", 1).resize((28, 26)), "red", "train"),
    ("leaked.png", shape("green", 1005), "green", "train"),  # of a test image
    ("held out.png", shape("blue", 2000), "green", "val"),
]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 128), nn.ReLU(), nn.Linear(128, 3))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_scrape(tmp_path_factory.mktemp("scrape"), COPIES)


@pytest.fixture(scope="module")
def by_features(network, data, tmp_path_factory):
    return audit_by_features(network, data, tmp_path_factory.mktemp("runs") / "a", trainer=trainer())


def rows_of(audit):
    return {row["id"]: row for row in audit.table.to_pylist()}


@pytest.mark.parametrize("way", ["features", "checkpoint"])
def test_duplicates_are_named_with_their_splits_and_their_labels(way, by_features, data, tmp_path):
    model = NoisyImageClassifier(SmallNetwork(3), 3, data.class_names)
    audit = by_features if way == "features" else audit_labels(model, data, tmp_path / "a", trainer=trainer())
    rows = rows_of(audit)
    pairs = [("red0.png", "copy of red0.png"), ("red1.png", "small red1.jpg"), ("blue0.png", "held out.png")]
    for one, other in pairs:
        assert rows[one]["near_duplicate_group"] == rows[other]["near_duplicate_group"] is not None
    assert {name for name, row in rows.items() if row["is_conflicting_duplicate"]} == {*pairs[0], *pairs[2]}
    assert {name for name, row in rows.items() if row["is_exact_duplicate"]} >= {*pairs[0], *pairs[2]}
    assert rows["small red1.jpg"]["is_near_duplicate"] and not rows["small red1.jpg"]["is_exact_duplicate"]
    assert rows["held out.png"]["near_duplicate_splits"] == "train, val"
    assert rows["red0.png"]["near_duplicate_splits"] == "train"
    assert rows["red2.png"]["near_duplicate_group"] is rows["red2.png"]["near_duplicate_splits"] is None
    assert rows["leaked.png"]["near_duplicate_splits"] == "train, test"
    assert {row["split"] for row in rows.values()} == {"train", "val"}
    assert sum(row["is_near_duplicate"] for row in rows.values()) == 7
    for row in rows.values():
        assert row["is_label_issue"] == row["is_issue"]
        assert row["label_issue_score"] == row["p_given"]


def test_a_copy_under_another_label_is_certain_evidence(by_features):
    rows = rows_of(by_features)
    for right, wrong in (("red0.png", "copy of red0.png"), ("blue0.png", "held out.png")):
        assert rows[wrong]["is_issue"]
        assert rows[wrong]["suggested_class"] == rows[right]["given_class"]
        assert rows[right]["p_given"] == pytest.approx(rows[wrong]["p_suggested"], abs=1e-6)


def test_the_summary_tells_in_words_what_was_found(by_features):
    said = by_features.summary.findings
    assert said[0].startswith("4 pictures are there several times, the most frequent one 2 times: 7 images in all, 5 ")
    assert said[1] == "The labels of 2 such pictures differ: at least 2 labels are wrong for certain."
    assert said[2] == (
        "1 of 16 validation images (6.2%) are among the training images too: a network that knows them by heart has an "
        f"accuracy that is too high by about {100 / 16 * (1 - by_features.summary.agreement.share):.1f} points."
    )
    assert said[3].startswith("1 of 15 test images (6.7%) are among the training or validation images too: a network ")
    written = json.loads((by_features.directory / "summary.json").read_text())
    assert written["findings"] == said
    assert written["found"]["kinds"]["near_duplicate"] == 7
    assert LabelAudit(by_features.directory).summary == by_features.summary


def test_the_spreadsheet_names_the_kinds_of_each_row(by_features):
    with open(by_features.directory / "issues.csv", newline="", encoding="utf-8") as file:
        written = {row["id"]: row for row in csv.DictReader(file)}
    expected = {}
    for name, row in rows_of(by_features).items():
        kinds = [kind for kind in KINDS if row[f"is_{kind}"]]
        if kinds:
            expected[name] = (" ".join(kinds), str(row["near_duplicate_group"] if row["is_near_duplicate"] else ""))
    assert {name: (row["kinds"], row["near_duplicate_group"]) for name, row in written.items()} == expected
    assert written["copy of red0.png"]["kinds"].startswith("label_issue near_duplicate exact_duplicate conflicting")
    assert written["red1.png"]["kinds"] == "near_duplicate"


@pytest.mark.parametrize("place", ["find_duplicates", "outlier_scores"])
def test_a_kill_beside_the_labels_loses_nothing_that_was_looked_at(
    place, network, data, by_features, tmp_path, monkeypatch
):
    """Before the labels are judged, and when they have been: parts of other sizes are left then."""
    monkeypatch.setattr(judging, "ROWS_AT_ONCE", 10)
    with monkeypatch.context() as breaking, pytest.raises(KeyboardInterrupt):
        breaking.setattr(parts, "ROWS_IN_PART", 20)
        breaking.setattr(judging, place, killed)
        audit_by_features(network, data, tmp_path / "a", trainer=trainer())
    monkeypatch.setattr(predicting._Dataset, "__getitem__", killed)
    again = audit_by_features(network, data, tmp_path / "a", trainer=trainer())
    assert again.table.equals(by_features.table)
    assert again.summary == by_features.summary


def killed(*args, **kwargs):
    raise KeyboardInterrupt
