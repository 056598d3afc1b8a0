"""Classes whose names differ by case, spaces or Unicode form alone."""

import unicodedata
import warnings

import datasets
import pytest

from lightning_noisy import NoisyImageDataModule, StreamingImageDataModule
from lightning_noisy.data.similar_classes import similar_names, spelling_key

from ..photos import draw_image
from ..streaming.shard_files import NAMES, write_parquet

SPLIT_E = unicodedata.normalize("NFD", "café")


def write(root, labels, name="l.csv", clean=None):
    lines = ["path;label;clean"]
    for row, label in enumerate(labels):
        draw_image(row, row).save(root / f"{row}.png")
        lines.append(f"{row}.png;{label};{clean[row] if clean else ''}")
    (root / name).write_text("\n".join(lines), encoding="utf-8")
    return str(root / name)


@pytest.mark.parametrize(
    ("one", "other"),
    [("Dog", "dog"), ("dog", " dog "), ("hot dog", "hot  dog"), ("hot dog", "hot\u00a0dog"), ("café", SPLIT_E),
     ("Straße", "STRASSE"), ("ﬁsh", "fish"), ("dog\u200b", "dog")],
)  # fmt: skip
def test_alike(one, other):
    assert one != other
    assert spelling_key(one) == spelling_key(other)


@pytest.mark.parametrize(("one", "other"), [("dog", "dogs"), ("007", "7"), ("cafe", "café"), ("a-b", "ab")])
def test_not_alike(one, other):
    assert similar_names([one, other]) == []


def test_a_warning_names_them_and_how_to_merge_them(tmp_path):
    source = write(tmp_path, ["Dog", "dog ", "cat", " cat", "dog ", "owl"])
    with pytest.warns(UserWarning, match="differ by case") as caught:
        names = NoisyImageDataModule(source, val_fraction=0.0).class_names
    (warning,) = [str(w.message) for w in caught if "differ by case" in str(w.message)]
    assert names == [" cat", "Dog", "cat", "dog ", "owl"]
    assert "' cat' (1 images) and 'cat' (1 images)" in warning and "'Dog' (1 images) and 'dog ' (2 images)" in warning
    assert "`--data.merge_similar_classes true`" in warning and "owl" not in warning


def test_they_become_one_class_with_the_most_frequent_spelling(tmp_path):
    labels = ["Dog", "dog ", "dog ", "café", SPLIT_E, "owl"]
    source = write(tmp_path, labels, clean=["DOG", "", "", "owl", "", ""])
    checked = write(tmp_path, ["DOG", "Owl", "CAFÉ"], "val.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        columns = {"label_column": "label", "clean_label_column": "clean"}
        data = NoisyImageDataModule(source, val_source=checked, merge_similar_classes=True, **columns)
        train = data.splits["train"]
    assert data.class_names == ["café", "dog", "owl"]
    assert train.noisy_labels.tolist() == [1, 1, 1, 0, 0, 2]
    assert train.clean_labels.tolist() == [1, -1, -1, 2, -1, -1]
    assert data.splits["val"].noisy_labels.tolist() == [1, 2, 0]


def test_the_given_names_are_the_spelling(tmp_path):
    source = write(tmp_path, ["dog", "dog", "CAT", "cat"])
    data = NoisyImageDataModule(source, class_names=["Dog", "Cat"], merge_similar_classes=True, val_fraction=0.0)
    assert data.class_names == ["Dog", "Cat"]
    assert data.splits["train"].noisy_labels.tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match=r"`class_names`.*\['Dog', 'dog'\]"):
        _ = NoisyImageDataModule(source, class_names=["Dog", "dog", "cat"], merge_similar_classes=True).splits


def test_names_that_the_data_have_for_their_numbers(tmp_path):
    paths = [tmp_path / f"{row}.png" for row in range(4)]
    for row, path in enumerate(paths):
        draw_image(row, row).save(path)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee", "Ant"])})
    table = {"image": list(map(str, paths)), "label": [0, 1, 2, 0]}
    datasets.Dataset.from_dict(table, features=features).save_to_disk(tmp_path / "d")
    data = NoisyImageDataModule(str(tmp_path / "d"), merge_similar_classes=True, val_fraction=0.0)
    assert data.class_names == ["ant", "bee"]
    assert data.splits["train"].noisy_labels.tolist() == [0, 1, 0, 0]


def test_an_audit_reads_them_merged_again(tmp_path):
    source = write(tmp_path, ["Dog", "dog", "cat"])
    data = NoisyImageDataModule(source, merge_similar_classes=True)
    assert NoisyImageDataModule(**data.arguments()).class_names == data.class_names == ["Dog", "cat"]


def test_classes_of_shards_that_are_called_alike_are_named(tmp_path):
    spellings = {0: ("Ant", "ant"), 1: ("caf\u00e9", "cafe\u0301"), 2: ("dog", "dog")}
    shards = write_parquet(tmp_path / "p", (13, 13), label=lambda number, kind: spellings[kind][number % 2])
    data = StreamingImageDataModule(str(shards))
    with pytest.warns(UserWarning, match=r"'Ant' \(5 images\) and 'ant' \(4 images\).*write one name") as caught:
        assert len(data.class_names) == 5
    assert len(caught) == 1 and "caf\u00e9" in str(caught[0].message)
    data = StreamingImageDataModule(str(write_parquet(tmp_path / "q", (13, 13))), class_names=list(NAMES))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert data.class_names == list(NAMES)
