import json
import os

import numpy as np
import pytest

from lightning_noisy import NoisyImageDataModule
from lightning_noisy.audit import LabelAudit
from lightning_noisy.audit.folder import read_again
from lightning_noisy.inference.images import unique_over_splits

from ..data.readers.layouts import animal10n
from ..photos import draw_image
from .made import audit_of

SOURCES = {
    "digits": {"source": "digits", "noise": "pair:0.2", "seed": 5, "val_fraction": 0.25},
    "folder": {"source": "photos", "max_train_images": 20, "seed": 2},
    "classes in another order": {"source": "photos", "class_names": ["cat", "bee", "ant"]},
    "a folder beside it": {"source": "photos", "val_source": "photos", "val_fraction": 0.0},
    "a manifest": {"source": "list.csv", "label_column": "what", "id_column": "name", "on_broken": "skip"},
    "published": {"source": "animal10n:animals", "val_fraction": 0.5},
    "noise from a file": {"source": "photos", "noise": "matrix:matrix.csv"},
    "a data set on disk": {"source": "hub:saved", "label_column": "label"},
}


@pytest.fixture
def folder(photos, tmp_path):
    """All sources, with ``tmp_path`` as the working directory."""
    animal10n(tmp_path / "animals")
    lines = [f"photos/{kind}/{number:02}.png,{kind},{kind}-{number}" for kind in ("ant", "bee") for number in range(12)]
    (tmp_path / "list.csv").write_text("\n".join(["path,what,name", *lines]))
    (tmp_path / "matrix.csv").write_text("0.5,0.5,0\n0,0.5,0.5\n0.5,0,0.5\n")
    import datasets

    images = {"image": [draw_image(row % 3, row) for row in range(30)], "label": [row % 3 for row in range(30)]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    datasets.Dataset.from_dict(images, features).save_to_disk(tmp_path / "saved")
    return tmp_path


@pytest.mark.parametrize("kind", list(SOURCES))
def test_the_same_images_are_read_again_from_another_folder(kind, folder, monkeypatch):
    data = NoisyImageDataModule(**SOURCES[kind])
    described = json.loads(json.dumps(data.arguments()))
    (folder / "cwd").mkdir()
    expected = {
        split: (images, np.asarray(images.read(len(images) - 1)))
        for split, images in unique_over_splits(data.splits).items()
    }
    monkeypatch.chdir(folder / "cwd")
    again = read_again(described)
    assert set(again) == set(expected)
    for split, (images, last) in expected.items():
        assert again[split].ids.equals(images.ids)
        assert np.array_equal(again[split].noisy_labels, images.noisy_labels)
        assert np.array_equal(np.asarray(again[split].read(len(images) - 1)), last)


def test_what_is_left_to_its_default_is_not_described():
    assert NoisyImageDataModule("digits").arguments() == {
        "source": "digits",
        "val_fraction": 0.1,
        "seed": 0,
        "on_broken": "error",
    }
    name = "hub:me/birds:small"
    assert NoisyImageDataModule(name).arguments()["source"] == name
    assert NoisyImageDataModule("~/x.csv").arguments()["source"] == os.path.expanduser("~/x.csv")


def test_an_audit_that_does_not_say_where_its_images_are():
    with pytest.raises(ValueError, match="does not say where its images come from"):
        read_again({})


def test_images_that_are_gone_or_changed_are_one_sentence(tmp_path):
    names = {kind: [f"{number}.png" for number in range(3)] for kind in ("ant", "bee")}
    for kind, files in names.items():
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for number, name in enumerate(files):
            draw_image(kind == "bee", number).save(tmp_path / "photos" / kind / name)
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])})
    saved = tmp_path / "saved"

    def save(ids):
        rows = {"image": [draw_image(row % 2, row) for row in range(4)], "label": [0, 1, 0, 1], "id": ids}
        datasets.Dataset.from_dict(rows, datasets.Features({**features, "id": datasets.Value("string")})).save_to_disk(
            saved
        )

    save(["a", "b", "c", "d"])
    data = NoisyImageDataModule(f"hub:{saved}", id_column="id", clean_label_column="label", val_fraction=0.0)
    audit = audit_of(tmp_path / "audit", data)
    audit.apply("weight", tmp_path / "clean.parquet")
    save(["a", "b", "d", "c"])
    with pytest.raises(ValueError, match=r"row [23] of the train images to be '[cd]' .* but '[cd]' is there") as error:
        LabelAudit(audit.directory).apply("relabel", tmp_path / "other.parquet")
    assert "run the audit again" in str(error.value) and "\n" not in str(error.value)
    saved.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"can't be read again from where they lay: .*saved") as error:
        LabelAudit(audit.directory).apply("relabel", tmp_path / "other.parquet")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "other.parquet").exists()
