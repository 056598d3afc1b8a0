"""A checkpoint's audit of a scrape with copies: leaks into test images, and labels that contradict each other."""

import numpy as np
import pytest
import torch

from lightning_noisy import NoisyImageClassifier
from lightning_noisy.audit.judging import by_model
from lightning_noisy.audit.judging.by_model import audit_labels
from lightning_noisy.audit.judging.model import evidence, trained_model
from lightning_noisy.audit.judging.scores import ISSUE_BELOW
from lightning_noisy.inference import parts, predicting

from ..scrape import scrape_data, shape, write_scrape
from ..small import SmallNetwork, trainer

COPIES = [
    ("copy of red0.png", shape("red", 0), "blue", "train"),
    ("another of red0.png", shape("red", 0), "red", "val"),
    ("small red1.jpg", shape("red", 1).resize((28, 26)), "red", "train"),
    ("leaked.png", shape("green", 1005), "green", "train"),
]
TOGETHER = ["red0.png", "copy of red0.png", "another of red0.png"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_scrape(tmp_path_factory.mktemp("scrape"), COPIES)


@pytest.fixture(scope="module")
def model(data):
    torch.manual_seed(0)
    return NoisyImageClassifier(SmallNetwork(3), 3, data.class_names)


@pytest.fixture(scope="module")
def audit(model, data, tmp_path_factory):
    return audit_labels(model, data, tmp_path_factory.mktemp("run") / "a", trainer=trainer(), probabilities=True)


def test_the_posterior_of_contradicting_copies_is_that_of_bayes_rule_in_float64(audit, model, data):
    rows = {row["id"]: row for row in audit.table.to_pylist()}
    data.setup("predict")
    row = rows[TOGETHER[0]]
    pixels = data.evaluation_transform(data.splits[row["split"]].read(row["row"]))[None]
    with torch.no_grad():  # copies of the same pixels, so the mean of what is said of them is this
        log_posterior = torch.log_softmax(model.backbone(pixels).double(), dim=1)[0]
    log_matrix = evidence(trained_model(model)).double()
    for name in TOGETHER:
        log_posterior = log_posterior + log_matrix[:, rows[name]["given_label"]]
    posterior = log_posterior.softmax(dim=0).numpy()
    kept = dict(zip(*(column.to_pylist() for column in _probabilities(audit)), strict=True))
    for name in TOGETHER:
        given = rows[name]["given_label"]
        assert rows[name]["p_given"] == pytest.approx(posterior[given], abs=1e-5)
        assert rows[name]["is_issue"] == rows[name]["is_label_issue"] == (posterior[given] < ISSUE_BELOW)
        assert rows[name]["clean_probability"] == pytest.approx(float(_clean(model, pixels)[given]), abs=1e-5)
        np.testing.assert_allclose(kept[name], posterior, atol=1e-5)
    wrong = rows["copy of red0.png"]
    others = np.delete(posterior, wrong["given_label"])
    assert wrong["p_suggested"] == pytest.approx(others.max(), abs=1e-5)


def test_all_else_is_as_without_copies(audit, model, data):
    alone = audit_labels(model, data.with_splits({"train": data.splits["train"]}), trainer=trainer())
    rows = {row["id"]: row for row in audit.table.to_pylist()}
    for row in alone.table.to_pylist():
        if row["id"] not in TOGETHER:
            assert rows[row["id"]]["p_given"] == pytest.approx(row["p_given"], abs=1e-6)


def test_leaks_into_the_test_images_are_told(audit):
    rows = {row["id"]: row for row in audit.table.to_pylist()}
    assert rows["leaked.png"]["near_duplicate_splits"] == "train, test"
    assert {row["split"] for row in rows.values()} == {"train", "val"}
    assert [(leak.split, leak.images, leak.total) for leak in audit.summary.found.leaks] == [
        ("val", 1, 16),
        ("test", 1, 15),
    ]
    assert audit.summary.images == len(rows) == 79


def test_an_audit_that_is_killed_while_it_looks_for_duplicates_goes_on_there(audit, model, data, tmp_path, monkeypatch):
    """Whatever it was doing: no image is looked at once more, and the same comes of it."""
    for place in ("find_duplicates", "issue_columns", "summarise_issues"):
        with monkeypatch.context() as breaking, pytest.raises((KeyboardInterrupt, SystemExit)):
            breaking.setattr(by_model, place, _killed)
            audit_labels(model, data, tmp_path / "a", trainer=trainer(), probabilities=True)
    assert not (tmp_path / "a" / "summary.json").exists()
    monkeypatch.setattr(parts.PartWriter, "add", _killed)
    again = audit_labels(model, data, tmp_path / "a", trainer=trainer(), probabilities=True)
    assert again.table.equals(audit.table)
    assert again.summary == audit.summary
    assert not (tmp_path / "a" / parts.PARTS_FOLDER).exists()


def test_a_kill_among_the_test_images_loses_none(audit, model, data, tmp_path, monkeypatch):
    looked_at = []
    place = predicting._Dataset.__getitem__

    def break_off(dataset, index):
        if "test" in dataset.images.splits:
            looked_at.append(int(dataset.positions[index]))
            if len(looked_at) == 10:
                raise KeyboardInterrupt
        return place(dataset, index)

    small = scrape_data(data.source)
    small.batch_size = 4
    monkeypatch.setattr(parts, "ROWS_IN_PART", 4)
    monkeypatch.setattr(predicting._Dataset, "__getitem__", break_off)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        audit_labels(model, small, tmp_path / "a", trainer=trainer())
    again = audit_labels(model, small, tmp_path / "a", trainer=trainer())
    assert looked_at == [*range(10), *range(8, 15)]  # two batches of four were kept
    assert again.summary.found == audit.summary.found


def test_other_test_images_make_another_audit(audit, model, data):
    with pytest.raises(ValueError, match="holds the audit of another model"):
        without = {split: part for split, part in data.splits.items() if split != "test"}
        audit_labels(model, data.with_splits(without), audit.directory, trainer=trainer())


def _probabilities(audit):
    import pyarrow.parquet

    return pyarrow.parquet.read_table(audit.probabilities_path).columns


def _clean(model, pixels):
    with torch.no_grad():
        return model.backbone(pixels)[0].softmax(dim=0)


def _killed(*args, **kwargs):
    raise KeyboardInterrupt
