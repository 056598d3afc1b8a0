import pytest

from lightning_noisy import NoisyImageDataModule
from lightning_noisy.data.readers.published import ANIMALS, READERS
from tests.data.readers import layouts

from ...photos import draw_image


def sizes(data):
    return {split: len(images) for split, images in data.splits.items()}


def labels_by_id(data, split, kind="noisy_labels"):
    images = data.splits[split]
    return dict(zip(images.ids.to_pylist(), getattr(images, kind).tolist(), strict=True))


# --- each data set ---------------------------------------------------------------------------------------------------


def test_clothing1m(tmp_path):
    data = NoisyImageDataModule(f"clothing1m:{layouts.clothing1m(tmp_path)}")
    assert sizes(data) == {"train": 12, "val": 3, "test": 3}
    assert data.class_names == layouts.CLOTHES
    noisy, clean = (labels_by_id(data, "train", kind) for kind in ("noisy_labels", "clean_labels"))
    assert noisy["images/1/02/12,2.jpg"] == 1
    assert {key: label for key, label in clean.items() if label >= 0} == {
        "images/0/00/12,0.jpg": 2,  # the label that was given is wrong
        "images/1/00/12,0.jpg": 1,
        "images/2/00/12,0.jpg": 2,
    }
    assert data.label_noise_rate == pytest.approx(1 / 3)
    for split in ("val", "test"):
        expected = {f"images/{label}/99/{split},7.jpg": label for label in range(3)}
        assert labels_by_id(data, split) == labels_by_id(data, split, "clean_labels") == expected
    assert data.splits["train"].path(0).endswith("images/0/00/12,0.jpg")
    assert data.splits["train"].read(0).size == (16, 16)


def test_food101n(tmp_path):
    root, test = layouts.food101n(tmp_path / "n"), layouts.food101(tmp_path / "food-101")
    data = NoisyImageDataModule(f"food101n:{root}", test_source=f"food101:{test}")
    assert sizes(data) == {"train": 9, "val": 6, "test": 3}
    assert data.class_names == layouts.FOODS, "in their order, without the header"
    assert labels_by_id(data, "val")["waffles/0003.jpg"] == 1
    clean = labels_by_id(data, "train", "clean_labels")
    assert {key: label for key, label in clean.items() if label >= 0} == {
        f"{food}/0000.jpg": label for label, food in enumerate(layouts.FOODS)
    }
    known_in_val = labels_by_id(data, "val", "clean_labels")
    assert known_in_val["sushi/0002.jpg"] == 2
    assert known_in_val["sushi/0003.jpg"] == -1, "verified as wrong"
    assert labels_by_id(data, "test", "clean_labels") == {f"{food}/3": n for n, food in enumerate(layouts.FOODS)}
    assert data.splits["train"].read(0).size == data.splits["test"].read(0).size == (16, 16)


def test_labels_that_were_only_ever_confirmed_do_not_pass_for_a_noise_rate_of_zero(tmp_path):
    data = NoisyImageDataModule(f"food101n:{layouts.food101n(tmp_path)}")
    assert data.splits["train"].has_clean_labels
    assert data.label_noise_rate is None
    assert data.transition_matrix is None
    assert NoisyImageDataModule("digits").label_noise_rate == 0.0, "there all of them are known"


def test_food101_alone(tmp_path):
    data = NoisyImageDataModule(f"food101:{layouts.food101(tmp_path)}", val_fraction=0.0)
    assert sizes(data) == {"train": 6, "test": 3}
    assert not data.splits["train"].has_clean_labels
    assert data.splits["test"].has_clean_labels


def test_webvision(tmp_path):
    data = NoisyImageDataModule(f"webvision:{layouts.webvision(tmp_path)}")
    assert sizes(data) == {"train": 9, "val": 3}
    assert data.class_names == ["tench, Tinca tinca", "crane (n00000001)", "crane (n00000002)"]
    assert labels_by_id(data, "train")["flickr/q0002/0.jpg"] == 2
    assert not data.splits["train"].has_clean_labels
    assert labels_by_id(data, "val", "clean_labels") == {f"val{label:06}.jpg": label for label in range(3)}
    assert data.splits["val"].read(0).size == (16, 16)


def test_mini_webvision_is_the_first_50_classes_from_google(tmp_path):
    data = NoisyImageDataModule(f"mini-webvision:{layouts.webvision(tmp_path, num_classes=52)}")
    assert sizes(data) == {"train": 100, "val": 50}
    assert data.num_classes == 50
    assert data.class_names[-1] == "thing 49"
    assert {name.partition("/")[0] for name in data.splits["train"].ids.to_pylist()} == {"google"}


def test_animal10n(tmp_path):
    root = layouts.animal10n(tmp_path)
    (root / "training" / "._0_1.jpg").write_bytes(b"left by another system")
    data = NoisyImageDataModule(f"animal10n:{root}", val_fraction=0.0)
    assert sizes(data) == {"train": 20, "test": 10}
    assert data.class_names == ANIMALS
    assert labels_by_id(data, "train")["training/7_701.jpg"] == 7
    assert not data.splits["train"].has_clean_labels
    assert data.splits["test"].has_clean_labels
    assert data.splits["test"].read(3).size == (16, 16)


@pytest.mark.parametrize("ending", ["\r\n", "\n\n"])
def test_lists_with_other_line_ends_and_an_utf8_mark(ending, tmp_path):
    root = layouts.clothing1m(tmp_path)
    for path in root.glob("*.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", ending.encode()))
    data = NoisyImageDataModule(f"clothing1m:{root}")
    assert data.class_names == layouts.CLOTHES
    assert sizes(data) == {"train": 12, "val": 3, "test": 3}


def test_the_record_of_a_run_calls_the_data_by_their_name_and_keeps_the_folder_to_itself(tmp_path):
    data = NoisyImageDataModule(f"clothing1m:{layouts.clothing1m(tmp_path)}")
    assert data.describe()["name"] == "clothing1m"


# --- mistakes --------------------------------------------------------------------------------------------------------


def without(root, name):
    (root / name).rename(root / "elsewhere")
    return root


def with_line(root, name, line):
    with open(root / name, "a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    return root


def with_bytes(root, name, content):
    (root / name).write_bytes(content)
    return root


def with_image(root, name):
    draw_image(0, 0).save(root / name)
    return root


MISTAKES = {
    "no folder": (
        "clothing1m",
        lambda p: p / "none",
        r"`source` \('clothing1m:.*images'.*folder does not exist.*Unpack",
    ),
    "no images": ("clothing1m", lambda p: without(layouts.clothing1m(p), "images"), "a folder 'images'.*is not there"),
    "no list": (
        "clothing1m",
        lambda p: without(layouts.clothing1m(p), "clean_val_key_list.txt"),
        r"`source`.*the file 'clean_val_key_list\.txt', but it is not there\. Unpack.*'clothing1m:THAT_FOLDER'",
    ),
    "no label in a line": (
        "clothing1m",
        lambda p: with_line(layouts.clothing1m(p), "noisy_label_kv.txt", "images/0/1.jpg"),
        r"`source`.*'noisy_label_kv\.txt' has lines like '.* 3', but line 14 is 'images/0/1\.jpg'\. Correct the line",
    ),
    "no label for an image": (
        "clothing1m",
        lambda p: with_line(layouts.clothing1m(p), "clean_test_key_list.txt", "images/0/new.jpg"),
        r"`source`.*'clean_label_kv\.txt' has a label for each image.*'images/0/new\.jpg' has none",
    ),
    "class out of range": (
        "clothing1m",
        lambda p: with_line(
            with_line(layouts.clothing1m(p), "noisy_label_kv.txt", "images/0/x.jpg 14"),
            "noisy_train_key_list.txt",
            "images/0/x.jpg",
        ),
        r"'clothing1m:.*in 0\.\.2, but row 12 \('images/0/x\.jpg'\) has 14",
    ),
    "empty list": (
        "clothing1m",
        lambda p: with_bytes(layouts.clothing1m(p), "noisy_train_key_list.txt", b""),
        r"`source`.*'noisy_train_key_list\.txt'.*it has none",
    ),
    "blank list": (
        "clothing1m",
        lambda p: with_bytes(layouts.clothing1m(p), "noisy_train_key_list.txt", b"\n \n"),
        r"`source`.*'noisy_train_key_list\.txt'.*it has none",
    ),
    "no text": (
        "clothing1m",
        lambda p: with_bytes(layouts.clothing1m(p), "noisy_label_kv.txt", b"images/\xff.jpg 1\n"),
        r"`source`.*'noisy_label_kv\.txt' is a text file in UTF-8, but it can't be read",
    ),
    "verification": (
        "food101n",
        lambda p: with_line(layouts.food101n(p), "meta/verified_val.tsv", "sushi/1.jpg\tyes"),
        r"`source`.*'meta/verified_val\.tsv'.*line 9 is 'sushi/1\.jpg\\tyes'",
    ),
    "only a header": (
        "food101n",
        lambda p: with_bytes(layouts.food101n(p), "meta/imagelist.tsv", b"class_name/key\n"),
        r"`source`.*'meta/imagelist\.tsv'.*it has none",
    ),
    "unknown food": (
        "food101n",
        lambda p: with_line(layouts.food101n(p), "meta/imagelist.tsv", "waffle/1.jpg"),
        "'food101n:.*'waffle'.*Did you mean 'waffles'",
    ),
    "not Food-101": ("food101", lambda p: without(layouts.food101(p), "meta/test.txt"), r"'meta/test\.txt'.*not there"),
    "no pictures of Flickr": (
        "webvision",
        lambda p: without(layouts.webvision(p), "flickr"),
        "`source`.*'flickr'.*not there",
    ),
    "no number": (
        "mini-webvision",
        lambda p: with_line(layouts.webvision(p), "info/val_filelist.txt", "val9.jpg tench"),
        r"`source`.*'info/val_filelist\.txt'.*line 4 is 'val9\.jpg tench'",
    ),
    "no synset": (
        "webvision",
        lambda p: with_line(layouts.webvision(p), "info/synsets.txt", "tench"),
        r"`source`.*'info/synsets\.txt'.*line 4 is 'tench'",
    ),
    "a long line": (
        "webvision",
        lambda p: with_line(layouts.webvision(p), "info/synsets.txt", "x" * 500),
        r"line 4 is 'x{80}…'",
    ),
    "no animal": (
        "animal10n",
        lambda p: with_image(layouts.animal10n(p), "training/cat.jpg"),
        r"`source`.*'training'.*LABEL_NUMBER.*one is called 'cat\.jpg'",
    ),
    "no test animals": ("animal10n", lambda p: without(layouts.animal10n(p), "testing"), "`source`.*'testing'"),
}


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_a_mistake_is_named_in_one_sentence(mistake, tmp_path):
    kind, make, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message) as caught:
        _ = NoisyImageDataModule(f"{kind}:{make(tmp_path)}").splits
    assert "\n" not in str(caught.value)


def test_an_image_of_the_list_that_is_not_there_is_named_before_the_training(tmp_path):
    root = layouts.clothing1m(tmp_path)
    (root / "images/1/02/12,2.jpg").unlink()
    source = f"clothing1m:{root}"
    with pytest.raises(
        ValueError, match=r"1 of 18.*`source`.*images/1/02/12,2\.jpg \(FileNotFoundError.*`--data.on_broken"
    ):
        NoisyImageDataModule(source).setup("fit")
    data = NoisyImageDataModule(source, on_broken="skip", num_workers=0)
    with pytest.warns(UserWarning, match=r"1 of 18 images.*left out"):
        data.setup("fit")


def test_a_source_that_lacks_the_split_is_not_tested_on_its_training_images(tmp_path):
    source = f"webvision:{layouts.webvision(tmp_path)}"
    with pytest.raises(ValueError, match=r"`test_source`.*\['train', 'val'\] and no 'test'"):
        _ = NoisyImageDataModule(source, test_source=source).splits


def test_what_is_no_source_is_told_of_the_published_ones():
    with pytest.raises(ValueError, match="'clothing1M:photos' does not exist") as caught:
        _ = NoisyImageDataModule("clothing1M:photos").splits
    assert all(f"'{kind}:DIR'" in str(caught.value) for kind in READERS)
