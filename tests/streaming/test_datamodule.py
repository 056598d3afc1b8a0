"""The data module for streams: its sources, its classes, its evaluation, and what it says to mistakes."""

import gc
import json

import datasets
import fsspec.config
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from lightning_noisy.streaming import datamodule as streaming

from ..data.small import write_manifest
from .shard_files import NAMES, picture, served, write_class_label_parquet, write_parquet, write_tars
from .small import PARQUET, SIZES, TAR, expected_labels, make, own_ids, read_labels

# --- sources and classes ---------------------------------------------------------------------------------------------


def test_parquet_shards_with_names(tmp_path):
    folder = write_parquet(tmp_path / "shards", SIZES)
    for source in (folder, f"{folder}/*.parquet", f"{folder}/{{000..003}}.parquet", f"hub:{folder}"):
        data = make(source)
        assert data.class_names == list(NAMES)
        assert read_labels(data) == expected_labels(PARQUET)
        assert data.class_counts.tolist() == [9, 9, 8]
        assert len(data.splits["train"]) == 26
    assert len(read_labels(make(folder / "002.parquet"))) == 11


def test_a_folder_with_unusual_letters(tmp_path):
    folder = write_parquet(tmp_path / "my [web] shards *", SIZES)
    assert read_labels(make(folder)) == expected_labels(PARQUET)


def test_parquet_shards_with_numbers(tmp_path):
    folder = write_parquet(tmp_path / "shards", SIZES, label=lambda number, kind: kind)
    assert read_labels(make(folder)) == expected_labels(PARQUET, names="012")
    assert read_labels(make(folder, class_names=list(NAMES))) == expected_labels(PARQUET)


def test_parquet_shards_with_a_class_label(tmp_path):
    names = ("cat", "bee", "ant")
    folder = write_class_label_parquet(tmp_path / "shards", SIZES, names)
    data = make(folder)
    assert data.class_names == list(names)
    assert read_labels(data) == expected_labels(PARQUET)
    data = make(folder, class_names=list(NAMES))
    assert read_labels(data) == expected_labels(PARQUET), "numbers are taken by the names of the shards"
    assert data.class_counts.tolist() == [9, 9, 8]


@pytest.mark.parametrize(
    ("members", "options", "names"),
    [
        (lambda number, kind: {"cls": str(kind)}, {}, "012"),
        (lambda number, kind: {"cls": str(kind)}, {"class_names": list(NAMES)}, NAMES),
        (lambda number, kind: {"label.txt": NAMES[kind] + "\n"}, {}, NAMES),
        (lambda number, kind: {"txt": NAMES[kind]}, {"label_column": "txt"}, NAMES),
        (lambda number, kind: {"label": NAMES[kind]}, {}, NAMES),
        (lambda number, kind: {"json": json.dumps({"label": NAMES[kind], f"more{number}": []})}, {}, NAMES),
        (lambda number, kind: {"json": json.dumps({"word": kind})}, {"label_column": "json.word"}, "012"),
        (lambda number, kind: {"txt": "a caption", "cls": str(kind)}, {}, "012"),
    ],
)
def test_tar_shards(members, options, names, tmp_path):
    data = make(write_tars(tmp_path / "shards", SIZES, members), **options)
    assert data.class_names == list(names)
    assert read_labels(data) == expected_labels(TAR, names=names)
    assert data.class_counts.tolist() == [9, 9, 8]


def test_ids_are_those_of_a_column(tmp_path):
    data = make(write_parquet(tmp_path / "shards", SIZES), id_column="name")
    assert read_labels(data) == {str(number): NAMES[number % 3] for number in range(26)}
    folder = write_tars(
        tmp_path / "tars", SIZES, lambda number, kind: {"json": f'{{"label": {kind}, "key": {number}}}'}
    )
    data = make(folder, id_column="json.key")
    assert read_labels(data) == {str(number): "012"[number % 3] for number in range(26)}


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_are_streamed_from_a_server(workers, tmp_path):
    write_parquet(tmp_path / "p", SIZES)
    write_tars(tmp_path / "t", SIZES)
    with served(tmp_path) as (url, asked):
        data = make(f"{url}/p/{{000..003}}.parquet", num_workers=workers)
        assert read_labels(data) == expected_labels(PARQUET)
        assert make(f"{url}/p/").class_names == make(f"{url}/p/0*.parquet").class_names == list(NAMES)
        data = make(f"{url}/t/{{000..003}}.tar", num_workers=workers, class_names=list(NAMES))
        assert read_labels(data) == expected_labels(TAR)
        assert data.class_counts is None and data.label_noise_rate is None and data.transition_matrix is None
        assert len(data.splits["train"]) == 26
        before = len(asked)
        data.setup("fit")
        list(data.train_dataloader())
        tars = [path for path in asked[before:] if path.endswith(".tar")]
        assert sorted(set(tars)) == [f"/t/{shard:03}.tar" for shard in range(4)]


def test_workers_leave_the_connections_of_their_parent_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(fsspec.config.conf, "timeout", 20)  # otherwise five minutes
    write_parquet(tmp_path / "p", SIZES)
    with served(tmp_path) as (url, _):
        data = make(f"{url}/p/{{000..003}}.parquet", num_workers=2)
        data.setup("fit")
        transform, collected = data._train_transform, []

        def collect_first(image):
            if not collected:
                collected.append(gc.collect())  # which is when a worker would close what it has inherited
            return transform(image)

        data._train_transform = collect_first
        for _ in range(2):
            assert len(own_ids(data.train_dataloader())) == 26
            assert len(make(f"{url}/p/").train_shards) == 26


def test_counts_are_kept_until_a_shard_changes(tmp_path, monkeypatch):
    folder = write_tars(tmp_path / "shards", SIZES)
    first = make(folder)
    assert len(first.train_shards) == 26
    monkeypatch.setattr("lightning_noisy.streaming.counts.tar_samples", None)  # no shard is read again
    assert make(folder).class_counts.tolist() == first.class_counts.tolist()
    monkeypatch.undo()
    write_tars(folder, [4, 4, 4, 4])
    assert len(make(folder).train_shards) == 16


def test_clean_labels_tell_the_noise(tmp_path):
    def checked(number, kind):
        return NAMES[(kind + (number == 4)) % 3] if number < 20 else None

    folder = write_parquet(tmp_path / "p", SIZES, checked=checked)
    data = make(folder, clean_label_column="checked")
    assert data.label_noise_rate == pytest.approx(1 / 20)
    expected = np.array([[7, 0, 0], [0, 6, 0], [0, 1, 6]])
    assert data.transition_matrix.numpy() == pytest.approx(expected / expected.sum(1, keepdims=True))
    data.setup("fit")
    pairs = [
        (noisy, clean)
        for batch in data.train_dataloader()
        for noisy, clean in zip(batch.noisy_labels.tolist(), batch.clean_labels.tolist(), strict=True)
        if noisy >= 0
    ]
    assert pairs.count((1, 2)) == 1 and sum(clean == -1 for _, clean in pairs) == 6
    only_confirmed = make(write_parquet(tmp_path / "q", SIZES, checked=lambda number, kind: NAMES[kind] * (number < 9)))
    assert only_confirmed.label_noise_rate is None and only_confirmed.transition_matrix is None


# --- validation and test ---------------------------------------------------------------------------------------------


def evaluated(data, processes, split, monkeypatch):
    """The ids that count in an evaluation, of all processes, and how many batches each made."""
    found, lengths = [], []
    for rank in range(processes):
        monkeypatch.setattr(streaming, "world", lambda rank=rank: (processes, rank))
        monkeypatch.setattr("lightning_noisy.data.loader.world", lambda rank=rank: (processes, rank))
        batches = list(getattr(data, f"{split}_dataloader")())
        found += own_ids(batches)
        lengths.append(len(batches))
    return sorted(found), lengths


@pytest.mark.parametrize("kind", ["folder", "manifest", "saved", "parquet", "one parquet shard", "tar", "hub"])
@pytest.mark.parametrize("workers", [0, 2])
def test_validation_counts_every_image_once(kind, workers, photos, tmp_path, monkeypatch):
    options = {}
    if kind == "folder":
        source, count = photos, 36
    elif kind == "manifest":
        source, count = write_manifest(photos, "photos.csv"), 36
    elif kind == "saved":
        source, count = tmp_path / "saved", 6
        table = {"image": [{"bytes": picture(n % 3, n), "path": None} for n in range(6)], "label": list(NAMES) * 2}
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
        datasets.Dataset.from_dict(table, features).save_to_disk(str(source))
    elif kind == "tar":
        source, count = write_tars(tmp_path / "val", SIZES), 26
    else:
        sizes = (10,) if kind == "one parquet shard" else SIZES
        source, count = write_parquet(tmp_path / "val", sizes), sum(sizes)
        source = f"hub:{source}" if kind == "hub" else source
    data = make(write_parquet(tmp_path / "train", SIZES), val_source=str(source), num_workers=workers, **options)
    data.setup("validate")
    assert len(data.splits["val"]) == count
    for processes in (1, 3):
        ids, lengths = evaluated(data, processes, "val", monkeypatch)
        assert len(ids) == len(set(ids)) == count
        assert len(set(lengths)) == 1


def test_the_splits_of_a_hub_data_set(tmp_path, monkeypatch):
    folder = tmp_path / "set"
    for split, count in {"train": 4, "validation": 1, "test": 2}.items():
        write_class_label_parquet(folder / split, [6] * count)
        for shard, file in enumerate(sorted((folder / split).iterdir())):
            file.rename(folder / f"{split}-{shard:05}-of-{count:05}.parquet")
        (folder / split).rmdir()
    data = make(f"hub:{folder}", clean_splits=["test"])
    data.setup("fit")
    assert {split: len(images) for split, images in data.splits.items()} == {"train": 24, "val": 6, "test": 12}
    assert len(evaluated(data, 2, "test", monkeypatch)[0]) == 12
    batch = next(iter(data.test_dataloader()))
    assert batch.clean_labels.tolist() == batch.noisy_labels.tolist()
    assert next(iter(data.val_dataloader())).clean_labels is None


def test_without_other_sources_there_is_no_evaluation(tmp_path):
    data = make(write_parquet(tmp_path / "train", SIZES))
    data.setup("fit")
    assert data.val_dataloader() == []
    with pytest.raises(ValueError, match=r"Expected test images.*Give `test_source`"):
        data.test_dataloader()


def test_prediction_reads_all_images_in_order(tmp_path):
    data = make(write_parquet(tmp_path / "train", SIZES), num_workers=2)
    data.setup("predict")
    ids = [name for batch in data.predict_dataloader() for name in batch.ids]
    assert ids == list(expected_labels(PARQUET))


def test_clean_labels_of_the_training_stand_in_for_the_given_ones_elsewhere(tmp_path):
    folder = write_parquet(tmp_path / "train", SIZES, checked=lambda number, kind: NAMES[kind])
    other = tmp_path / "other"
    other.mkdir()
    table = {"image": [{"bytes": picture(1, 1), "path": None}], "checked": ["bee"]}
    pyarrow.parquet.write_table(pa.table(table), other / "0.parquet")
    data = make(folder, label_column="label", clean_label_column="checked", test_source=str(other))
    data.setup("test")
    assert next(iter(data.test_dataloader())).noisy_labels.tolist()[0] == 1


# --- as many workers as shards ---------------------------------------------------------------------------------------


def test_unset_workers_fit_the_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming.os, "cpu_count", lambda: 16)
    data = make(write_parquet(tmp_path / "train", SIZES), num_workers=None)
    data.setup("fit")
    assert data.train_dataloader().num_workers == 4
    monkeypatch.setattr(streaming, "world", lambda: (2, 0))
    assert data.train_dataloader().num_workers == 2
    monkeypatch.setattr(streaming, "world", lambda: (1, 0))
    data.load_state_dict({"train_loader": {**data.train_dataloader().state_dict(), "num_workers": 3, "steps_done": 0}})
    data._loader_state["steps"] = 0
    assert data.train_dataloader().num_workers == 3, "a run that goes on keeps its number"


def test_more_processes_or_workers_than_shards(tmp_path, monkeypatch):
    folder = write_parquet(tmp_path / "train", [*SIZES, 0])
    with pytest.raises(ValueError, match=r"`num_workers` to be at most 4, since .* has 4 shards, 4 for each.*got 5"):
        make(folder, num_workers=5).setup("fit")
    monkeypatch.setattr(streaming, "world", lambda: (5, 0))
    with pytest.raises(ValueError, match=r"as many shards as processes, 5, but .* has 4 .*Start at most 4"):
        make(folder).setup("fit")
    with pytest.raises(ValueError, match=r"Start at most 4"):
        make(folder, num_workers=None).setup("fit")
