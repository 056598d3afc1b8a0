"""An audit without a training: digits as a network with random weights sees them."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from lightning_noisy.audit.judging.by_features import audit_by_features, judge_by_probe
from lightning_noisy.audit.schema import AUDIT_SCHEMA
from lightning_noisy.features import read_features

from ..small import digits, trainer, true_labels


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 256), nn.ReLU(), nn.Linear(256, 10))


@pytest.fixture(scope="module")
def data():
    return digits()


@pytest.fixture(scope="module")
def audit(network, data, tmp_path_factory):
    return audit_by_features(network, data, tmp_path_factory.mktemp("runs") / "audit", trainer=trainer())


def test_wrong_labels_are_found_suggested_and_counted(audit, data):
    table = audit.table
    assert table.schema.equals(AUDIT_SCHEMA)
    assert len(table) == len(data.splits["train"]) + len(data.splits["val"])
    given, truth = table["given_label"].to_numpy(), true_labels(table["id"].to_pylist())
    wrong = given != truth
    assert roc_auc_score(wrong, -table["p_given"].to_numpy()) > 0.97
    flagged = table["is_issue"].to_numpy(zero_copy_only=False)
    assert wrong[flagged].mean() > 0.85
    assert flagged[wrong].mean() > 0.9
    suggested = np.where(table["p_suggested"].to_numpy() > table["p_given"].to_numpy(), table["suggested_label"], given)
    assert (suggested != truth).mean() < wrong.mean() / 4
    errors = audit.summary.errors
    assert errors.low < wrong.mean() < errors.high
    assert errors.value == pytest.approx(wrong.mean(), abs=0.06)
    assert audit.summary.caution == ""
    assert audit.summary.folds == 5
    assert audit.summary.agreement.is_held_out


def test_the_same_again_looks_at_nothing_and_other_labels_need_no_new_features(
    audit, network, data, tmp_path, monkeypatch
):
    monkeypatch.setattr("lightning_noisy.features.extract.predict", lambda *_: pytest.fail("it was looked at again"))
    again = audit_by_features(network, data, audit.directory, trainer=trainer())
    assert again.table.equals(audit.table)
    folder = audit.directory / "features"
    other = audit_by_features(network, digits(noise="pair:0.2"), tmp_path / "b", trainer=trainer(), features=folder)
    assert other.summary.errors.value == pytest.approx(0.2, abs=0.06)
    assert not (tmp_path / "b" / "features").exists()
    assert len(read_features(folder)) > len(other.table)  # those for testing too
    with pytest.raises(ValueError, match="holds the audit of another model or of other labels"):
        audit_by_features(network, digits(noise="pair:0.2"), audit.directory, trainer=trainer(), features=folder)


def test_the_posterior_of_all_classes_is_kept(network, data, tmp_path):
    kept = audit_by_features(network, data, tmp_path / "audit", trainer=trainer(), probabilities=True)
    rows = {row["id"]: row["probabilities"] for row in _read(kept.probabilities_path)}
    for row in kept.first_rows(5):
        assert rows[row["id"]][row["given_label"]] == pytest.approx(row["p_given"], rel=1e-5)


def test_labels_of_chance_are_told_for_what_they_are(network, tmp_path):
    data = digits(noise="uniform:1.0")
    audit = audit_by_features(network, data, tmp_path / "audit", trainer=trainer())
    assert "can't be relied on" in audit.summary.caution
    assert "hardly more than the most frequent class alone" in audit.summary.caution
    assert json.loads((tmp_path / "audit" / "summary.json").read_text())["agreement"]["is_held_out"] is True


def test_too_few_images_of_a_class_and_other_mistakes_are_told(network, data, tmp_path):
    few = digits(max_train_images=30, val_fraction=0, noise=None)
    with pytest.raises(ValueError, match=r"to have at least 5 images, one for each fold, but '\d' has [1-4]"):
        audit_by_features(network, few, tmp_path, trainer=trainer())
    with pytest.raises(ValueError, match="`folds` to be at least 2 where there is a backbone, but got 1"):
        audit_by_features(network, data, tmp_path, trainer=trainer(), folds=1)


def test_the_order_of_the_images_does_not_matter_much():
    generator = torch.Generator().manual_seed(0)
    clean = torch.arange(600) % 3
    features = torch.randn(600, 8, generator=generator) + 3 * torch.eye(8)[clean]
    labels = torch.where(torch.rand(600, generator=generator) < 0.2, (clean + 1) % 3, clean)
    order = torch.randperm(600, generator=generator)
    first = judge_by_probe(features, labels, 3).noise.posterior
    second = judge_by_probe(features[order], labels[order], 3).noise.posterior
    assert float((first[order] - second).abs().mean()) < 0.02


def _read(path):
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pylist()
