"""An audit from a trained network to its files."""

import numpy as np
import pyarrow.parquet
import pytest
import torch
from sklearn.metrics import roc_auc_score

from lightning_noisy import NoisyImageDataModule, StreamingImageDataModule
from lightning_noisy.audit.judging.by_model import audit_labels
from lightning_noisy.audit.label_audit import LabelAudit
from lightning_noisy.audit.schema import AUDIT_SCHEMA
from lightning_noisy.inference import parts, predicting

from ...photos import write_photos
from ..small import SmallNetwork, digits, trained_on, trainer, true_labels


@pytest.fixture(scope="module")
def data():
    return digits()


@pytest.fixture(scope="module")
def model(data):
    return trained_on(data)


def test_every_image_is_there_once_and_the_most_suspicious_comes_first(data, model):
    table = audit_labels(model, data, trainer=trainer()).table
    assert table.schema.equals(AUDIT_SCHEMA)
    every_id = [*data.splits["train"].ids.to_pylist(), *data.splits["val"].ids.to_pylist()]
    assert sorted(table["id"].to_pylist()) == sorted(every_id)
    assert table["rank"].to_pylist() == list(range(1, len(every_id) + 1))
    p_given = table["p_given"].to_numpy()
    assert (np.diff(p_given) >= 0).all()
    for row in table.slice(0, 5).to_pylist():
        assert data.splits[row["split"]].ids[row["row"]].as_py() == row["id"]
        assert data.class_names[row["given_label"]] == row["given_class"]
        assert data.class_names[row["suggested_label"]] == row["suggested_class"]


def test_the_numbers_are_those_of_bayes_rule_in_float64(data, model):
    table = audit_labels(model, data, trainer=trainer(), probabilities=True).table
    counts = np.zeros((10, 10))
    for predicted, given, count in model.trainer.callbacks and _label_counts(model):
        counts[predicted, given] = count
    matrix = (counts + 1 / 10) / (counts.sum(axis=1, keepdims=True) + 1)
    data.setup("fit")
    images = torch.stack([
        data.evaluation_transform(data.splits[row["split"]].read(row["row"])) for row in table.slice(0, 50).to_pylist()
    ])  # fmt: skip
    with torch.no_grad():
        clean = model.backbone.double()(images.double()).softmax(dim=1).numpy()
    model.backbone.float()
    for row, probabilities in zip(table.slice(0, 50).to_pylist(), clean, strict=True):
        posterior = probabilities * matrix[:, row["given_label"]]
        posterior /= posterior.sum()
        assert row["p_given"] == pytest.approx(posterior[row["given_label"]], rel=1e-3, abs=1e-6)
        assert row["p_suggested"] == pytest.approx(posterior.max(), rel=1e-3)
        assert row["suggested_label"] == posterior.argmax()
        assert row["clean_probability"] == pytest.approx(probabilities[row["given_label"]], rel=1e-3, abs=1e-6)


def test_wrong_labels_are_found_and_the_suggestions_are_better_than_the_labels(data, model):
    audit = audit_labels(model, data, trainer=trainer())
    truth = true_labels(audit.table["id"].to_pylist())
    given, suggested = (audit.table[name].to_numpy() for name in ("given_label", "suggested_label"))
    assert roc_auc_score(given != truth, -audit.table["p_given"].to_numpy()) > 0.95
    assert (suggested != truth).mean() < 0.3 * (given != truth).mean()
    assert audit.summary.errors.value == pytest.approx((given != truth).mean(), abs=0.05)


def test_the_posterior_of_all_classes_comes_in_a_second_file(data, model):
    audit = audit_labels(model, data, trainer=trainer(), probabilities=True)
    second = pyarrow.parquet.read_table(audit.probabilities_path)
    posterior = dict(zip(second["id"].to_pylist(), second["probabilities"].to_pylist(), strict=True))
    for row in audit.table.slice(0, 20).to_pylist():
        assert sum(posterior[row["id"]]) == pytest.approx(1, abs=1e-5)
        assert posterior[row["id"]][row["given_label"]] == pytest.approx(row["p_given"], abs=1e-6)
    assert not audit_labels(model, data, trainer=trainer()).probabilities_path.is_file()


def test_labels_that_were_checked_are_not_in_doubt(model):
    checked = digits(clean_splits=["val"])
    table = audit_labels(model, checked, trainer=trainer()).table
    assert set(table["split"].to_pylist()) == {"train"}


def test_the_users_data_module_and_model_stay_as_they_were(data, model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    trainer_before = data.trainer
    audit_labels(model, data, trainer=trainer())
    assert data.trainer is trainer_before
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_audit_that_is_finished_is_not_made_again(data, model, tmp_path, monkeypatch):
    first = audit_labels(model, data, tmp_path / "audit", trainer=trainer())
    monkeypatch.setattr(predicting.EveryImage, "setup", _must_not_be_called)
    assert audit_labels(model, data, tmp_path / "audit", trainer=trainer()).table.equals(first.table)


def test_a_broken_off_audit_goes_on_where_it_was(data, model, tmp_path, monkeypatch):
    whole = audit_labels(model, data, trainer=trainer()).table
    monkeypatch.setattr(parts, "ROWS_IN_PART", 100)
    add = parts.PartWriter.add

    def break_off(writer, columns):
        add(writer, columns)
        if columns["position"][-1] > 500:
            raise KeyboardInterrupt

    with monkeypatch.context() as breaking, pytest.raises((KeyboardInterrupt, SystemExit)):
        breaking.setattr(parts.PartWriter, "add", break_off)
        audit_labels(model, data, tmp_path / "audit", trainer=trainer())
    assert (tmp_path / "audit" / parts.PARTS_FOLDER).is_dir()
    with pytest.raises(ValueError, match=r"to hold a finished audit, but it has no summary\.json"):
        LabelAudit(tmp_path / "audit")
    done = parts.positions_done(tmp_path / "audit", len(whole))
    assert 0 < done.sum() < len(whole)
    looked_at = []

    def count(writer, columns):
        if "given_label" in columns:  # not the images for testing, of which the pictures alone are looked at
            looked_at.extend(columns["position"].tolist())
        add(writer, columns)

    monkeypatch.setattr(parts.PartWriter, "add", count)
    again = audit_labels(model, data, tmp_path / "audit", trainer=trainer()).table
    assert sorted(looked_at) == np.flatnonzero(~done).tolist()
    # Other batches may round otherwise.
    assert (
        again.drop_columns(["p_given", "p_suggested", "clean_probability", "rank"])
        .sort_by("id")
        .equals(whole.drop_columns(["p_given", "p_suggested", "clean_probability", "rank"]).sort_by("id"))
    )
    np.testing.assert_allclose(again["p_given"].to_numpy(), whole["p_given"].to_numpy(), atol=1e-6)


def test_parts_of_another_model_are_not_taken_for_those_of_this_one(data, model, tmp_path, monkeypatch):
    other = trained_on(data, epochs=1, seed=1)
    monkeypatch.setattr(parts, "ROWS_IN_PART", 100)
    with monkeypatch.context() as breaking, pytest.raises(OSError):
        breaking.setattr("lightning_noisy.audit.run.write_ranking", _no_room)
        audit_labels(other, data, tmp_path / "audit", trainer=trainer())
    mine = audit_labels(model, data, tmp_path / "audit", trainer=trainer()).table
    assert mine.equals(audit_labels(model, data, trainer=trainer()).table)


def test_the_folder_of_another_audit_is_refused(data, model, tmp_path):
    audit_labels(model, data, tmp_path / "audit", trainer=trainer())
    other = trained_on(data, epochs=1, seed=1)
    with pytest.raises(ValueError, match="holds the audit of another model or of other labels"):
        audit_labels(other, data, tmp_path / "audit", trainer=trainer())


def test_nothing_of_the_users_in_the_folder_is_replaced(data, model, tmp_path):
    audit = audit_labels(model, data, trainer=trainer())
    for name in ("issues.csv", parts.PARTS_FOLDER):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).mkdir() if name == parts.PARTS_FOLDER else (folder / name).write_text("mine")
        with pytest.raises(ValueError, match=f"holds {name!r}, which comes from elsewhere"):
            audit_labels(model, data, folder, trainer=trainer())
        assert [path.name for path in folder.iterdir()] == [name]
    with pytest.raises(ValueError, match=r"holds 'issues\.csv', which no audit has left there"):
        audit.write(tmp_path / "issues.csv")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "notes.txt").write_text("mine")
    audit_labels(model, data, tmp_path / "others", trainer=trainer())
    assert (tmp_path / "others" / "notes.txt").read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="to be a folder that can be written to"):
        audit_labels(model, data, tmp_path / "file" / "audit", trainer=trainer())


def test_an_audit_of_the_same_images_read_otherwise_is_another_one(tmp_path):
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(192, 10))
    model = _classifier(network, [str(label) for label in range(10)])
    audit_labels(model, digits(image_size=16), tmp_path / "audit", trainer=trainer())
    with pytest.raises(ValueError, match="holds the audit of another model"):
        audit_labels(model, digits(image_size=8), tmp_path / "audit", trainer=trainer())


def test_probabilities_that_were_not_kept_are_made_later(data, model, tmp_path):
    first = audit_labels(model, data, tmp_path / "audit", trainer=trainer())
    again = audit_labels(model, data, tmp_path / "audit", trainer=trainer(), probabilities=True)
    assert again.summary.has_probabilities and again.probabilities_path.is_file()
    assert again.table.equals(first.table)


def test_a_network_that_gives_nan_is_told(data):
    network = SmallNetwork()
    torch.nn.init.constant_(network.layers[1].weight, torch.nan)
    with pytest.raises(ValueError, match="finite logits, but got NaN"):
        audit_labels(_classifier(network, [str(label) for label in range(10)]), data, trainer=trainer())


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_vanishes_meanwhile_is_told_and_can_come_back(tmp_path, monkeypatch, workers):
    photos = write_photos(tmp_path / "photos")
    data = NoisyImageDataModule(str(photos), image_size=8, num_workers=workers)
    setup = predicting.EveryImage.setup

    def vanish(audited, stage):
        setup(audited, stage)
        (photos / "cat" / "05.png").rename(tmp_path / "away.png")

    monkeypatch.setattr(predicting.EveryImage, "setup", vanish)
    model = _classifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3)))
    sentence = r"^The image 'cat/05\.png' can't be read any more .* what was looked at is kept\.$"
    with pytest.raises(ValueError, match=sentence):
        audit_labels(model, data, tmp_path / "audit", trainer=trainer())


def test_a_trainer_that_leaves_images_out_is_told_and_nothing_counts_as_done(data, model, tmp_path):
    with pytest.raises(ValueError, match="The rows of 1236 images are missing"):
        audit_labels(model, data, tmp_path / "audit", trainer=trainer(limit_predict_batches=1))
    assert len(audit_labels(model, data, tmp_path / "audit", trainer=trainer()).table) == 1300


def test_an_id_that_two_splits_have_is_another_one_in_the_second(tmp_path):
    photos, others = write_photos(tmp_path / "photos"), write_photos(tmp_path / "others")
    data = NoisyImageDataModule(str(photos), val_source=str(others), image_size=8, num_workers=0)
    model = _classifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3)))
    audit = audit_labels(model, data, tmp_path / "audit", trainer=trainer())
    assert len(set(audit.table["id"].to_pylist())) == len(audit.table) == 72
    assert {"ant/00.png", "ant/00.png#val"} <= set(audit.table["id"].to_pylist())
    assert LabelAudit(tmp_path / "audit").images.splits["val"].ids.to_pylist()[0].endswith("#val")


def test_what_was_audited_can_be_written_elsewhere(data, model, tmp_path):
    audit = audit_labels(model, data, trainer=trainer())
    table = audit.table
    audit.write(tmp_path / "kept")
    assert audit.directory == tmp_path / "kept"
    assert LabelAudit(tmp_path / "kept").table.equals(table)
    other = audit_labels(trained_on(data, epochs=1, seed=1), data, trainer=trainer())
    with pytest.raises(ValueError, match="holds another audit"):
        other.write(tmp_path / "kept")


def test_broken_images_that_are_left_out_are_in_no_row(tmp_path):
    photos = write_photos(tmp_path / "photos")
    (photos / "bee" / "03.png").write_bytes(b"no image")
    options = {"image_size": 8, "batch_size": 5, "num_workers": 0, "on_broken": "skip"}
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    with pytest.warns(UserWarning, match="can't be decoded"):
        table = audit_labels(
            _classifier(network), NoisyImageDataModule(str(photos), **options), trainer=trainer()
        ).table
    assert len(table) == 35
    assert "bee/03.png" not in table["id"].to_pylist()
    row = table.slice(0, 1).to_pylist()[0]
    assert row["path"] == str(photos / row["id"])
    (photos / "bee" / "04.png").unlink()
    with pytest.raises(ValueError, match="can't be decoded"):
        audit_labels(_classifier(network), _listed(photos, tmp_path), trainer=trainer())


def test_a_model_of_other_classes_is_refused_in_one_sentence(model, tmp_path):
    with pytest.raises(ValueError, match="to have the 10 classes of the model, but got 3"):
        audit_labels(model, _three_classes(tmp_path), trainer=trainer())
    named = _classifier(SmallNetwork(), [f"digit {label}" for label in range(10)])
    with pytest.raises(ValueError, match="class 0 is 'digit 0' in the model and '0' in the data"):
        audit_labels(named, digits(), trainer=trainer())


def test_wrong_arguments_are_one_sentence(data, model, tmp_path):
    with pytest.raises(ValueError, match="`folds` to be 0 or an integer of at least 2, but got 1"):
        audit_labels(model, data, folds=1)
    with pytest.raises(ValueError, match="`train_fold` to be given where `folds` is 5"):
        audit_labels(model, data, folds=5)
    with pytest.raises(ValueError, match="to be a NoisyImageDataModule, but got StreamingImageDataModule"):
        audit_labels(model, StreamingImageDataModule.__new__(StreamingImageDataModule))
    with pytest.raises(ValueError, match=r"to be a checkpoint, but '.*none.ckpt' does not exist"):
        audit_labels(tmp_path / "none.ckpt", data)


def _label_counts(model):
    from lightning_noisy.training.callbacks.run_recorder import describe_run

    return describe_run(model.trainer, model).label_counts


def _classifier(network, names=("ant", "bee", "cat")):
    from lightning_noisy import NoisyImageClassifier

    return NoisyImageClassifier(network, len(names), list(names))


def _three_classes(folder):
    return NoisyImageDataModule(str(write_photos(folder / "photos")), image_size=8)


def _listed(photos, folder):
    names = sorted(path.relative_to(folder).as_posix() for path in photos.rglob("*.png"))
    lines = ["path,label", *(f"{name},{name.split('/')[1]}" for name in names), "photos/bee/04.png,bee"]
    (folder / "list.csv").write_text("\n".join(lines), encoding="utf-8")
    return NoisyImageDataModule(str(folder / "list.csv"), image_size=8, num_workers=0)


def _must_not_be_called(*arguments):
    raise AssertionError("the images are looked at again")


def _no_room(*arguments):
    raise OSError("no room")
