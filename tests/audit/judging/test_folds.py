"""Out-of-sample probabilities: no image is looked at by a model that has learned from it."""

import numpy as np
import pytest

from lightning_noisy.audit.judging import by_model as auditing
from lightning_noisy.audit.judging.by_model import audit_labels
from lightning_noisy.audit.judging.folds import assign_folds
from lightning_noisy.inference.images import AllImages

from ..small import digits, trained_on, trainer


@pytest.fixture(scope="module")
def data():
    return digits()


@pytest.fixture(scope="module")
def model(data):
    return trained_on(data, epochs=1)


class Training:
    """Trains the models of the folds and keeps what each has seen; breaks off at a fold, if asked to."""

    def __init__(self, broken_at=None):
        self.broken_at = broken_at
        self.seen = {}

    def __call__(self, datamodule, directory):
        fold = int(directory.name)
        if fold == self.broken_at:
            raise OSError("no room")
        self.seen[fold] = set(datamodule.splits["train"].ids.to_pylist())
        return trained_on(datamodule, epochs=2, seed=fold)


def test_each_image_is_looked_at_by_a_model_that_has_not_learned_from_it(data, model, monkeypatch):
    training, looked_at = Training(), []
    predict = auditing.predict

    def spy(trainer, module, audited, schema):
        predict(trainer, module, audited, schema)
        if "given_label" in schema.names:
            looked_at.append(
                {audited.images.columns(np.array([place]))["id"][0] for place in np.flatnonzero(audited.wanted)}
            )

    monkeypatch.setattr(auditing, "predict", spy)
    audit = audit_labels(model, data, trainer=trainer(), folds=3, train_fold=training)
    train = set(data.splits["train"].ids.to_pylist())
    for fold, images in enumerate(looked_at):
        assert not images & training.seen[fold]
        assert training.seen[fold] | (images & train) == train
    assert set.union(*looked_at) == set(audit.table["id"].to_pylist())
    assert audit.summary.folds == 3


def test_the_folds_are_of_one_size_class_by_class(data):
    images = AllImages(data.splits)
    fold_of = assign_folds(images, 5, seed=0)[: len(data.splits["train"])]
    labels = data.splits["train"].noisy_labels
    for label in range(10):
        sizes = np.bincount(fold_of[labels == label], minlength=5)
        assert sizes.max() - sizes.min() <= 1


def test_folds_that_are_done_are_not_trained_again(data, model, tmp_path):
    whole = audit_labels(model, data, trainer=trainer(), folds=3, train_fold=Training())
    with pytest.raises(OSError, match="no room"):
        audit_labels(model, data, tmp_path / "audit", trainer=trainer(), folds=3, train_fold=Training(broken_at=1))
    assert not (tmp_path / "audit" / "summary.json").exists()
    again = Training()
    audit = audit_labels(model, data, tmp_path / "audit", trainer=trainer(), folds=3, train_fold=again)
    assert sorted(again.seen) == [1, 2]
    assert audit.table.equals(whole.table)
    found = sorted(path.name for path in audit.directory.iterdir())
    assert found == ["audit.parquet", "issues.csv", "posterior_histogram.png", "summary.json"]
