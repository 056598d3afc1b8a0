"""Folders as they lie on people's disks."""

import json
import warnings

import pyarrow as pa
import pyarrow.parquet
import pytest

from lightning_noisy import NoisyImageDataModule

from ...photos import draw_image


def label_of_each_id(data, split="train"):
    images = data.splits[split]
    return {
        name: data.class_names[label] for name, label in zip(images.ids.to_pylist(), images.noisy_labels, strict=True)
    }


def module(root, **options):
    return NoisyImageDataModule(str(root), **{"val_fraction": 0.0, **options})


def save(path, label=0, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_image(label, seed).save(path)


def test_what_systems_leave_behind_is_no_data(photos):
    expected = label_of_each_id(module(photos))
    save(photos / "__MACOSX" / "ant" / "0.jpg")
    save(photos / "ant" / "@eaDir" / "00.png" / "SYNOPHOTO_THUMB.jpg")
    save(photos / "ant" / ".thumbnails" / "00.jpg")
    save(photos / "$RECYCLE.BIN" / "0.jpg")
    (photos / "bee" / "._00.png").write_bytes(b"\0\5\x16\7")
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
        draw_image(0, 0).save(photos / "ant" / name, "PNG")
        (photos / name).write_bytes(b"x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert label_of_each_id(module(photos)) == expected


def test_images_without_a_suffix_or_with_one_of_no_kind_are_read(photos):
    for number, name in enumerate(("a", "b.jpg_large", "c.png?size=big", "2024.05")):
        draw_image(0, number).save(photos / "ant" / name, "JPEG")
    (photos / "ant" / "LICENSE").write_text("no image", encoding="utf-8")
    (photos / "ant" / "empty").write_bytes(b"")
    draw_image(0, 5).save(photos / "ant" / "notes.txt", "PNG")
    data = module(photos, image_size=8, num_workers=0)
    added = {f"ant/{name}" for name in ("a", "b.jpg_large", "c.png?size=big", "2024.05")}
    assert {name for name in label_of_each_id(data) if "." not in name or not name.endswith(".png")} == added
    data.setup("fit")
    assert sum(len(batch) for batch in data.train_dataloader()) == 40


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_metadata_of_the_imagefolder_form(tmp_path, kind):
    rows = [{"file_name": f"{row}.jpg", "label": "xy"[row % 2]} for row in range(6)]
    for row in range(6):
        save(tmp_path / "m" / f"{row}.jpg", row)
    write_metadata(tmp_path / "m", kind, rows)
    data = module(tmp_path / "m")
    assert label_of_each_id(data) == {row["file_name"]: row["label"] for row in rows}
    assert data.splits["train"].read(0).size == (16, 16)


def write_metadata(folder, kind, rows):
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    if kind == "csv":
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        (folder / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    elif kind == "jsonl":
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        pyarrow.parquet.write_table(table, folder / "metadata.parquet")


def test_metadata_of_each_split_and_of_all_of_them(tmp_path):
    for split in ("train", "test"):
        for row in range(4):
            save(tmp_path / "m" / split / f"{row}.jpg", row)
        write_metadata(tmp_path / "m" / split, "csv", [{"file_name": f"{r}.jpg", "label": r % 2} for r in range(4)])
    apart = module(tmp_path / "m")
    assert {split: len(images) for split, images in apart.splits.items()} == {"train": 4, "test": 4}
    rows = [{"file_name": f"{split}/{r}.jpg", "label": r % 2} for split in ("train", "test") for r in range(4)]
    write_metadata(tmp_path / "m", "csv", rows)
    together = module(tmp_path / "m")
    assert {split: images.ids.to_pylist()[0] for split, images in together.splits.items()} == {
        "train": "train/0.jpg",
        "test": "test/0.jpg",
    }


def test_metadata_without_labels_leaves_them_to_the_folders(photos):
    expected = label_of_each_id(module(photos))
    write_metadata(photos, "csv", [{"file_name": "ant/00.png", "text": "an ant"}])
    assert label_of_each_id(module(photos)) == expected
    write_metadata(photos, "csv", [{"file_name": f"{name}/00.png", "label": name.upper()} for name in ("ant", "bee")])
    assert label_of_each_id(module(photos)) == {"ant/00.png": "ANT", "bee/00.png": "BEE"}
    write_metadata(photos, "jsonl", [{"file_name": "ant/00.png", "label": "ant"}])
    with pytest.raises(ValueError, match=r"`source`.*'metadata\.csv' and 'metadata\.jsonl'"):
        _ = module(photos).splits


def test_links_in_a_circle_are_left_out_with_a_warning(photos):
    expected = label_of_each_id(module(photos))
    (photos / "all").symlink_to(photos)
    (photos / "ant" / "again").symlink_to(photos / "ant")
    (photos / "bee" / "up").symlink_to(photos.parent)
    (photos / "bee" / "deep").mkdir()
    (photos / "bee" / "deep" / "bee").symlink_to(photos / "bee")
    with pytest.warns(UserWarning, match="read already") as caught:
        assert label_of_each_id(module(photos)) == expected
    named = " ".join(str(warning.message) for warning in caught)
    assert all(name in named for name in ("all'", "ant/again'", "bee/up'", "bee/deep/bee'"))


def test_links_to_images_elsewhere_are_followed(photos, tmp_path):
    save(tmp_path / "elsewhere" / "new.png")
    (photos / "ant" / "more").symlink_to(tmp_path / "elsewhere")
    (photos / "owl").symlink_to(tmp_path / "elsewhere")
    found = label_of_each_id(module(photos))
    assert found["ant/more/new.png"] == "ant" and found["owl/new.png"] == "owl"


def test_an_empty_class_is_an_error_or_left_out_as_asked(photos):
    (photos / "dog").mkdir()
    with pytest.raises(ValueError, match=r"Class 'dog' has no images.*`--data.on_empty_class skip`"):
        _ = module(photos).splits
    with pytest.warns(UserWarning, match="Class 'dog' has no images in .* and is left out"):
        data = module(photos, on_empty_class="skip")
        assert data.class_names == ["ant", "bee", "cat"]
    assert NoisyImageDataModule(**data.arguments()).class_names == ["ant", "bee", "cat"]
    with pytest.raises(ValueError, match="`on_empty_class` to be 'error' or 'skip', but got 'drop'"):
        module(photos, on_empty_class="drop")


def test_a_named_class_without_images_is_left_out_of_all_splits(photos, tmp_path):
    names = ["cow", "cat", "dog", "bee", "ant"]
    save(tmp_path / "test" / "ant" / "0.png")
    with pytest.warns(UserWarning, match="Class 'cow', 'dog' has no images for training"):
        data = module(photos, class_names=names, test_source=str(tmp_path / "test"), on_empty_class="skip")
        assert data.class_names == ["cat", "bee", "ant"]
    assert label_of_each_id(data)["ant/00.png"] == "ant" and label_of_each_id(data)["cat/00.png"] == "cat"
    assert data.splits["test"].noisy_labels.tolist() == [2]
    assert data.splits["train"].clean_labels.tolist() == [-1] * 36


def test_a_class_that_only_the_test_images_have(photos, tmp_path):
    save(tmp_path / "test" / "wolf" / "0.png")
    save(tmp_path / "test" / "wolf" / "1.png")
    save(tmp_path / "test" / "yak" / "1.png")
    save(tmp_path / "test" / "ant" / "1.png")
    options = {"test_source": str(tmp_path / "test")}
    message = r"test images.*of the 3 classes.*2 of them, the first 'wolf/0\.png', are labelled 'wolf', and so.*1 more"
    with pytest.raises(ValueError, match=message):
        _ = module(photos, **options).splits
    given = {"class_names": ["ant", "bee", "cat", "wolf", "yak"], "on_empty_class": "skip"}
    with pytest.raises(ValueError, match=r"Class 'wolf' has no images for training.*label of 2 test images"):
        _ = module(photos, **options, **given).splits


def test_lists_inside_class_folders_may_not_contradict_them(photos):
    expected = label_of_each_id(module(photos))
    write_metadata(photos / "ant", "csv", [{"file_name": "00.png", "text": "an ant"}])
    write_metadata(photos / "bee", "jsonl", [{"file_name": f"{n:02}.png", "label": 7} for n in range(12)])
    assert label_of_each_id(module(photos)) == expected, "one label throughout says nothing else than the folder"
    write_metadata(photos / "cat", "parquet", [{"file_name": f"{n:02}.png", "label": "lt"[n % 2]} for n in range(12)])
    with pytest.raises(
        ValueError, match=r"cat/metadata\.parquet' gives .* the folder 'cat' the labels 'l', 't'\. Join"
    ):
        _ = module(photos).splits


def test_files_that_are_no_images_are_counted_by_their_kinds(photos):
    expected = label_of_each_id(module(photos))
    for name in (
        "ant/list.txt",
        "bee/deep/a.TXT",
        "bee/b.heic",
        "cat/LICENSE",
        "notes.md",
        "ant/.hidden",
        "ant/Thumbs.db",
    ):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_text("no image", encoding="utf-8")
    save(photos / "stray.png")
    (photos / "cat" / "gone.png").symlink_to(photos / "nowhere.png")
    (photos / "cat" / "round").symlink_to(photos / "cat" / "about")
    (photos / "cat" / "about").symlink_to(photos / "cat" / "round")
    data = module(photos)
    assert label_of_each_id(data) == expected
    assert data._not_read == {
        "train": {
            "an image beside the class folders": (1, "stray.png"),
            ".txt": (2, "ant/list.txt"),
            ".heic": (1, "bee/b.heic"),
            "no suffix": (1, "cat/LICENSE"),
            "a link that leads nowhere": (3, "cat/about"),
        }
    }


def test_folders_of_splits_by_other_names(tmp_path):
    for name in ("Training/ant/0.png", "Training/bee/0.png", "testing/ant/0.png", "Valid/bee/0.png"):
        save(tmp_path / name)
    data = module(tmp_path)
    assert data.class_names == ["ant", "bee"]
    assert {split: len(images) for split, images in data.splits.items()} == {"train": 2, "test": 1, "val": 1}
    save(tmp_path / "train" / "ant" / "0.png")
    with pytest.raises(ValueError, match=r"one folder of training images.*'Training' and 'Valid' and 'testing' and"):
        _ = module(tmp_path).splits


def test_splits_without_a_training_are_no_classes(photos, tmp_path):
    save(tmp_path / "others" / "val" / "ant" / "0.png")
    save(tmp_path / "others" / "test" / "bee" / "0.png")
    with pytest.raises(ValueError, match=r"holds 'test' and 'val'\. Add a folder 'train'.*`test_source`"):
        _ = module(tmp_path / "others").splits
    data = module(photos, test_source=str(tmp_path / "others"))
    assert label_of_each_id(data, "test") == {"test/bee/0.png": "bee"}


def test_a_folder_around_the_classes_or_beside_a_list_is_not_meant(photos, tmp_path):
    with pytest.raises(ValueError, match=r"holds one, 'photos'\. Did you mean '.*/photos'\?"):
        _ = module(photos.parent).splits
    save(tmp_path / "shop" / "img" / "0.png")
    (tmp_path / "shop" / "labels.csv").write_text("path,label\nimg/0.png,a\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"holds one, 'img'\. Did you mean '.*/shop/labels\.csv'\?"):
        _ = module(tmp_path / "shop").splits


def test_a_class_folder_of_other_files_says_so(photos):
    (photos / "dog").mkdir()
    (photos / "dog" / "a.heic").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"Class 'dog' has no images.*but 1 others, such as 'a\.heic'"):
        _ = module(photos).splits
