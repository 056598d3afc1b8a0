"""Broken images, and what a user may get wrong: each ends in one sentence."""

import csv

import pytest

from lightning_noisy import NoisyImageDataModule

from ..photos import draw_image
from .small import write_manifest


def break_two(photos):
    whole = (photos / "ant" / "00.png").read_bytes()
    (photos / "ant" / "00.png").write_bytes(whole[: len(whole) // 2])
    (photos / "bee" / "03.png").write_bytes(b"<html>404</html>")


def test_a_broken_image_stops_the_run_before_it_starts(photos, tmp_path):
    break_two(photos)
    data = NoisyImageDataModule(str(photos))
    data.prepare_data()
    with pytest.raises(ValueError, match=r"2 of 36 images.*ant/00\.png.*broken_images\.csv.*`--data.on_broken skip`"):
        data.setup("fit")
    with open(tmp_path / "broken_images.csv", encoding="utf-8") as file:
        listed = {row["id"]: row["reason"] for row in csv.DictReader(file)}
    assert set(listed) == {"ant/00.png", "bee/03.png"}
    assert all(listed.values())


def test_a_broken_image_is_left_out_and_listed_where_the_user_says_so(photos, tmp_path):
    break_two(photos)
    data = NoisyImageDataModule(str(photos), on_broken="skip", val_fraction=0.0, image_size=8, num_workers=0)
    with pytest.warns(UserWarning, match=r"2 of 36 images.*left out"):
        data.setup("fit")
    seen = {name for batch in data.train_dataloader() for name in batch.ids}
    assert len(seen) == 34
    assert not seen & {"ant/00.png", "bee/03.png"}
    assert (tmp_path / "broken_images.csv").is_file()


def test_a_repaired_image_is_looked_at_again_and_an_unchanged_one_is_not(photos, monkeypatch):
    break_two(photos)
    with pytest.raises(ValueError, match="2 of 36"):
        NoisyImageDataModule(str(photos)).setup("fit")
    draw_image(0, 100).save(photos / "ant" / "00.png")
    with pytest.raises(ValueError, match="1 of 36"):
        NoisyImageDataModule(str(photos)).setup("fit")
    monkeypatch.setattr("lightning_noisy.data.broken_images._decode_all", lambda *_: pytest.fail("looked again"))
    with pytest.raises(ValueError, match="1 of 36"):
        NoisyImageDataModule(str(photos)).setup("fit")


def test_a_missing_file_of_a_manifest_is_broken(photos):
    source = write_manifest(photos, "l.csv")
    (photos / "cat" / "05.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 36.*cat/05\.png.*FileNotFoundError"):
        NoisyImageDataModule(source).setup("fit")


def mistake_in_a_manifest(photos, **columns):
    return {"source": write_manifest(photos, "l.csv", **columns)}


MISTAKES = {
    "no such root": (lambda _: {"source": "nowhere"}, r"`source`.*'nowhere' does not exist"),
    "empty folder": (lambda p: {"source": str(p / "ant")}, "a folder for each class"),
    "class without images": (lambda p: {"source": str(_with_folder(p, "dog"))}, "Class 'dog' has no images"),
    "no such column": (
        lambda p: {**mistake_in_a_manifest(p), "label_column": "lable"},
        r"`label_column`.*\['path', 'label'\].*'lable'.*Did you mean 'label'",
    ),
    "no usual column": (lambda p: {"source": _csv(p, "a,b\n1,2\n")}, r"`image_column`.*\['a', 'b'\]"),
    "label missing": (
        lambda p: mistake_in_a_manifest(p, label=["ant"] * 5 + [""] + ["bee"] * 30),
        r"row 5 \('ant/05\.png'\) has none, one of 1 such rows",
    ),
    "gap": (
        lambda p: {**mistake_in_a_manifest(p, label=[0, 1, 3] * 12), "class_names": list("abcd")},
        "Class 'c' has no images.*`--data.on_empty_class skip`",
    ),
    "negative": (lambda p: mistake_in_a_manifest(p, label=[0, 1, -1] * 12), "got -1"),
    "one class": (lambda p: mistake_in_a_manifest(p, label=["a"] * 36), "at least 2 classes"),
    "outside": (
        lambda p: {**mistake_in_a_manifest(p, label=[0, 1, 2] * 12), "class_names": ["a", "b"]},
        r"in 0\.\.1, but row 2 \('ant/02\.png'\) has 2",
    ),
    "unknown name": (
        lambda p: {"source": str(p), "class_names": ["ant", "bees", "cat"]},
        "has 'bee'.*Did you mean 'bees'",
    ),
    "named but absent": (
        lambda p: {"source": str(p), "class_names": ["ant", "bee", "cat", "dog"]},
        "Class 'dog' has no",
    ),
    "unknown split": (lambda p: mistake_in_a_manifest(p, split=["train", "holdout"] * 18), "'holdout'"),
    "suffix": (lambda p: {"source": str(_file(p, "list.xlsx"))}, r"\.csv.*'list\.xlsx'"),
    "unreadable": (lambda p: {"source": str(_file(p, "list.parquet"))}, r"list\.parquet' can't be read"),
    "no idx files": (lambda p: {"source": f"idx:{p}"}, "train-images-idx3-ubyte"),
    "not saved": (lambda p: {"source": f"hub:{p}/none"}, r"`source`.*can load"),
    "test class": (
        lambda p: {"source": str(p), "test_source": str(_other(p))},
        "test images.*1 of them.*wolf/one.png.*'wolf'",
    ),
    "noise": (lambda p: {"source": str(p), "noise": "uniform"}, "`noise` to end in a level"),
}


def _with_folder(photos, name):
    (photos / name).mkdir()
    return photos


def _csv(photos, text):
    (photos / "l.csv").write_text(text, encoding="utf-8")
    return str(photos / "l.csv")


def _file(photos, name):
    (photos / name).write_bytes(b"no table")
    return photos / name


def _other(photos):
    other = photos.parent / "other"
    (other / "wolf").mkdir(parents=True)
    draw_image(0, 0).save(other / "wolf" / "one.png")
    return other


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_a_mistake_in_the_data_is_named_in_one_sentence(mistake, photos):
    make_options, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message) as caught:
        _ = NoisyImageDataModule(**make_options(photos)).splits
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fraction": 1.5}, r"`val_fraction`.*\[0,1\).*1.5"),
        ({"batch_size": 0}, "`batch_size`.*at least 1.*0"),
        ({"num_workers": -1}, "`num_workers`"),
        ({"on_broken": "ignore"}, "`on_broken`.*'error' or 'skip'.*'ignore'"),
        ({"clean_splits": ["train"]}, "`clean_splits`.*'train'"),
        ({"augmentation": {"hflop": 0.5}}, "`augmentation`.*'hflop'.*Did you mean `hflip`"),
        ({"image_size": 0}, "`image_size`"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        NoisyImageDataModule("digits", **options)
