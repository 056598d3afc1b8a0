"""What may be wrong with shards: each mistake ends in one sentence."""

import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from .shard_files import NAMES, served, write_parquet, write_tars
from .small import PARQUET, SIZES, TAR, expected_labels, make, own_ids, read_labels


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"buffer_size": 1}, r"`buffer_size` to be an integer of at least 2, but got 1"),
        ({"batch_size": 0}, r"`batch_size` to be an integer of at least 1"),
        ({"num_workers": -1}, r"`num_workers` to be an integer of at least 0"),
        ({"on_broken": "ignore"}, r"`on_broken` to be 'error' or 'skip'"),
        ({"augmentation": {"flip": 1}}, r"`augmentation`"),
        ({"clean_splits": ["train"]}, r"`clean_splits` to hold 'val' or 'test' only"),
        ({"label_column": "lable"}, r"`label_column` to name a column .* but got 'lable'. Did you mean 'label'\?"),
        ({"image_column": "photo"}, r"`image_column` to name a column"),
        ({"class_names": ["ant", "bee"]}, r"among the 2 classes.*but '00.\.parquet' has 'cat'.*all `class_names`"),
        ({"class_names": [*NAMES, "dog"]}, r"Class 'dog' has no images for training"),
        ({"class_names": ["ant", "ant"]}, r"`class_names` to be at least 2 different names"),
        ({"val_source": "nowhere"}, r"`val_source` to be .*'nowhere' does not exist"),
        ({"test_source": "nowhere/*.tar"}, r"`test_source` to name shards.*there are none in"),
    ],
)
def test_a_wrong_argument_is_named(options, message, tmp_path):
    folder = write_parquet(tmp_path / "train", SIZES)
    with pytest.raises(ValueError, match=message):
        make(folder, **options).setup("fit")


def test_sources_that_are_none(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"`source` to name shards .*but there are none in .*empty"):
        make(tmp_path / "empty").setup("fit")
    with pytest.raises(ValueError, match=r"`source` to name shards"):
        make(tmp_path / "nowhere.tar").setup("fit")
    write_parquet(tmp_path / "both", SIZES)
    write_tars(tmp_path / "both", SIZES)
    with pytest.raises(ValueError, match=r"all of one kind, but .* has both \.parquet and \.tar"):
        make(tmp_path / "both").setup("fit")
    with pytest.raises(ValueError, match="has no images: its 2 shards are empty"):
        make(write_parquet(tmp_path / "none", [0, 0])).setup("fit")
    with pytest.raises(ValueError, match=r"'hub:.*/none' can't be read"):
        make(f"hub:{tmp_path}/nowhere/none").setup("fit")


def test_labels_that_are_missing_or_of_two_kinds(tmp_path):
    folder = write_parquet(tmp_path / "p", SIZES, label=lambda number, kind: NAMES[kind] if number != 8 else None)
    with pytest.raises(ValueError, match=r"'001\.parquet' .*can't be used: 1 of its 3 images have no label"):
        make(folder).setup("fit")
    members = lambda number, kind: {"cls": str(kind)} if number != 12 else {}  # noqa: E731
    with pytest.raises(ValueError, match=r"'002\.tar' .*: 1 of its 11 images have no label"):
        make(write_tars(tmp_path / "t", SIZES, members)).setup("fit")
    folder = write_tars(tmp_path / "m", SIZES, lambda n, kind: {"json": json.dumps({"label": kind if n else "ant"})})
    with pytest.raises(ValueError, match="to be all names or all numbers, but got both"):
        make(folder).setup("fit")
    with pytest.raises(ValueError, match=r"'000\.tar' .*invalid literal for int.*'ant'"):
        make(write_tars(tmp_path / "c", SIZES, lambda number, kind: {"cls": NAMES[kind]})).setup("fit")


def test_lists_of_labels_are_not_handled(tmp_path):
    folder = write_parquet(tmp_path / "g", SIZES, label=lambda number, kind: [kind, 0])
    with pytest.raises(ValueError, match=r"`label_column`.*'label' holds lists.*multi-label"):
        make(folder).setup("fit")


def test_labels_may_be_ids_with_gaps(tmp_path):
    data = make(write_parquet(tmp_path / "g", SIZES, label=lambda number, kind: 2 * kind))
    assert data.class_names == ["0", "2", "4"]
    assert read_labels(data) == expected_labels(PARQUET, names=["0", "2", "4"])


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_a_class_that_only_the_test_shards_have(kind, tmp_path):
    train = write_parquet(tmp_path / "train", SIZES)
    if kind == "parquet":
        test = write_parquet(tmp_path / "test", (3, 3), label=lambda number, kind: "wolf" if number == 4 else "ant")
    else:
        test = write_tars(
            tmp_path / "test", (3, 3), lambda n, k: {"json": json.dumps({"label": "wolf" if n == 4 else "ant"})}
        )
    data = make(train, test_source=str(test))
    with pytest.raises(ValueError, match=r"test images to be of the 3 classes.*'001\.\w+' has 'wolf'.*Add training"):
        data.setup("test")


def test_a_shard_that_is_no_shard_is_named(tmp_path):
    for write, suffix in ((write_parquet, "parquet"), (write_tars, "tar")):
        folder = write(tmp_path / suffix, SIZES)
        file = folder / f"002.{suffix}"
        file.write_bytes(b"<html>404</html>")
        with pytest.raises(ValueError, match=rf"The shard '002\.{suffix}' of .* can't be used"):
            make(folder).setup("fit")


def test_remote_tars_need_sizes_and_class_names(tmp_path):
    folder = write_tars(tmp_path / "t", SIZES)
    with served(tmp_path) as (url, _):
        with pytest.raises(ValueError, match=r"Expected argument `class_names` to be given"):
            make(f"{url}/t/{{000..003}}.tar").setup("fit")
        with pytest.raises(ValueError, match=r"The shard '004\.tar' .*404|it lacks '004\.tar'"):
            make(f"{url}/t/{{000..004}}.tar", class_names=list(NAMES)).setup("fit")
        (folder / "sizes.json").write_text('{"000.tar": 7, "001.tar": 3, "002.tar": 11, "003.tar": 6}')
        data = make(f"{url}/t/{{000..003}}.tar", class_names=list(NAMES))
        with pytest.raises(ValueError, match=r"'003\.tar' of .* does not hold the 6 images.*Correct 'sizes.json'"):
            read_labels(data)
        (folder / "sizes.json").unlink()
        with pytest.raises(ValueError, match=r"Expected a file 'sizes\.json' beside .*\"000\.tar\": 1000.*Parquet"):
            make(f"{url}/t/{{000..003}}.tar", class_names=list(NAMES)).setup("fit")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("left_out", [-1, 1])
def test_more_or_less_images_than_were_counted_end_the_training(workers, left_out, tmp_path):
    folder = write_parquet(tmp_path / "train", SIZES)
    data = make(folder, num_workers=workers)
    data.setup("fit")
    table = pyarrow.parquet.read_table(folder / "002.parquet")
    table = table.slice(1) if left_out == 1 else pa.concat_tables([table, table.slice(0, 1)])
    pyarrow.parquet.write_table(table, folder / "002.parquet")
    with pytest.raises(ValueError, match=r"^The shard '002.parquet' of .* does not hold the 11 images"):
        list(data.train_dataloader())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_named_or_left_out(workers, tmp_path):
    def members(number, kind):
        return {"cls": str(kind), **({"png": b"<html>404</html>"} if number in (4, 20) else {})}

    folder = write_tars(tmp_path / "train", SIZES, members)
    data = make(folder, num_workers=workers)
    data.setup("fit")
    with pytest.raises(
        ValueError, match=r"^The image '00.\.tar/photos/000..' of .* can't be decoded.*--data.on_broken skip`\)\.$"
    ):
        list(data.train_dataloader())
    data = make(folder, num_workers=workers, on_broken="skip")
    data.setup("fit")
    loader = data.train_dataloader()
    if workers == 0:
        with pytest.warns(UserWarning, match=r"photos/00004.* left out"):
            batches = list(loader)
    else:
        batches = list(loader)
    assert len(batches) == len(loader)
    expected = {name for name in expected_labels(TAR) if not name.endswith(("00004", "00020"))}
    assert set(own_ids(batches)) == expected
    assert len(own_ids(batches)) == 24


def test_a_shard_that_goes_away_is_named(tmp_path):
    folder = write_tars(tmp_path / "train", SIZES)
    data = make(folder, num_workers=2)
    data.setup("fit")
    (folder / "001.tar").unlink()
    with pytest.raises(ValueError, match=r"^The shard '001\.tar' of .* can't be read after image 0: "):
        list(data.train_dataloader())
