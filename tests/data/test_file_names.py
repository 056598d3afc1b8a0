"""Names of files that are not UTF-8, as disks have them that were written long ago or on other systems."""

import csv
import json
import os

import numpy as np
import pytest

from lightning_noisy import NoisyImageDataModule
from lightning_noisy.data.broken_images import scan_images

from ..photos import draw_image

LATIN = os.fsdecode(b"caf\xe9.png")


@pytest.fixture
def old_photos(photos):
    """Photos, one of them with a Latin-1 name, and a fourth class whose folder has one."""
    draw_image(1, 77).save(photos / "bee" / LATIN)
    folder = photos / os.fsdecode(b"\xfcber")
    folder.mkdir()
    for number in range(3):
        draw_image(2, number).save(folder / f"{number}.png")
    return photos


def test_they_are_read_and_named_in_text(old_photos):
    data = NoisyImageDataModule(str(old_photos), val_fraction=0.0)
    images = data.splits["train"]
    ids = images.ids.to_pylist()
    assert data.class_names == ["\\xfcber", "ant", "bee", "cat"]
    assert r"bee/caf\xe9.png" in ids and r"\xfcber/0.png" in ids
    json.dumps(ids).encode()
    row = ids.index(r"bee/caf\xe9.png")
    assert np.array_equal(np.asarray(images.read(row)), np.asarray(draw_image(1, 77)))
    assert images.path(row) is None, "no text can hold it"
    assert images.encoded(row) == (old_photos / "bee" / LATIN).read_bytes()
    assert images.path(ids.index("bee/00.png")) == str(old_photos / "bee" / "00.png")
    assert scan_images(images, "train").broken == {}


def test_a_broken_one_is_listed(old_photos):
    (old_photos / "bee" / LATIN).write_bytes(b"no image")
    data = NoisyImageDataModule(str(old_photos), on_broken="skip", num_workers=0)
    data.prepare_data()
    with pytest.warns(UserWarning, match="1 of 40 images can't be decoded"):
        data.setup("fit")
    with open("broken_images.csv", encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["id"], row["path"]) == (r"bee/caf\xe9.png", "")


def test_a_folder_above_may_have_such_a_name_too(photos, tmp_path):
    moved = photos.rename(tmp_path / os.fsdecode(b"\xe4lter"))
    images = NoisyImageDataModule(str(moved), val_fraction=0.0).splits["train"]
    assert images.path(0) is None
    assert images.read(0).size == (16, 16)
    (moved / "dog").mkdir()
    with pytest.raises(ValueError, match="'dog' has no images") as error:
        _ = NoisyImageDataModule(str(moved)).splits
    str(error.value).encode()
