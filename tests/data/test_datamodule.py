import gzip
import struct

import datasets
import lightning.pytorch as L
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch

from lightning_noisy import NoisyImageDataModule
from lightning_noisy.noise.synthetic import uniform_matrix

from ..photos import draw_image
from .small import write_manifest


def label_of_each_id(data):
    return {
        name: data.class_names[label]
        for split in data.splits.values()
        for name, label in zip(split.ids.to_pylist(), split.noisy_labels, strict=True)
    }


def expected_labels(photos):
    return {file.relative_to(photos).as_posix(): file.parent.name for file in photos.rglob("*.png")}


# --- sources ---------------------------------------------------------------------------------------------------------


def test_a_folder_of_class_folders(photos):
    (photos / ".hidden").mkdir()
    (photos / "ant" / ".DS_Store").write_bytes(b"x")
    (photos / "ant" / "notes.txt").write_text("no image", encoding="utf-8")
    draw_image(0, 1).save(photos / "ant" / "upper.JPG")
    data = NoisyImageDataModule(str(photos), val_fraction=0.25)
    assert data.class_names == ["ant", "bee", "cat"]
    assert label_of_each_id(data) == {**expected_labels(photos), "ant/upper.JPG": "ant"}
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 28, "val": 9}
    assert not data.splits["train"].has_clean_labels
    assert data.transition_matrix is None
    assert data.label_noise_rate is None


def test_a_folder_with_its_own_splits(photos, tmp_path):
    root = tmp_path / "with splits"
    for split in ("train", "validation", "test"):
        (root / split).mkdir(parents=True)
        for name in ("ant", "bee", "cat"):
            (root / split / name).symlink_to(photos / name)
    data = NoisyImageDataModule(str(root), clean_splits=["test"])
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 36, "val": 36, "test": 36}
    assert data.splits["test"].has_clean_labels
    assert not data.splits["val"].has_clean_labels


@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "list.jsonl", "list.parquet"])
def test_a_manifest_of_paths(photos, name):
    data = NoisyImageDataModule(write_manifest(photos, name), val_fraction=0.0)
    assert label_of_each_id(data) == expected_labels(photos)
    assert data.splits["train"].read(0).size == (16, 16)


def test_columns_of_a_manifest_by_name(photos):
    clean = ["ant"] * 11 + [None] + ["bee"] * 24
    split = ["train", "val", "test"] * 12
    source = write_manifest(photos, "l.csv", truth=clean, part=split, key=[f"k{row}" for row in range(36)])
    data = NoisyImageDataModule(source, clean_label_column="truth", split_column="part", id_column="key")
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 12, "val": 12, "test": 12}
    train = data.splits["train"]
    assert train.ids.to_pylist() == [f"k{row}" for row in range(0, 36, 3)]
    assert [data.class_names[label] for label in train.clean_labels] == ["ant"] * 4 + ["bee"] * 8
    assert data.splits["test"].clean_labels.tolist().count(-1) == 1
    assert data.label_noise_rate == pytest.approx(4 / 12)  # the cats that are called bees
    assert data.transition_matrix is None, "no image is known to be a cat"


def test_integer_labels_are_class_numbers_and_names_can_be_given(photos):
    labels = [0] * 12 + [1] * 12 + [2] * 12
    source = write_manifest(photos, "l.csv", label=labels)
    assert NoisyImageDataModule(source).class_names == ["0", "1", "2"]
    assert NoisyImageDataModule(source, class_names=["x", "y", "z"]).class_names == ["x", "y", "z"]


def test_an_image_listed_twice_keeps_two_ids(photos):
    source = write_manifest(photos, "l.csv", path=["ant/00.png", "ant/00.png"] + ["bee/00.png"] * 34)
    ids = NoisyImageDataModule(source, val_fraction=0.0).splits["train"].ids.to_pylist()
    assert ids[:4] == ["ant/00.png", "ant/00.png#2", "bee/00.png", "bee/00.png#2"]
    assert len(set(ids)) == 36


def make_dataset(photos):
    files = sorted(photos.rglob("*.png"))
    names = ["ant", "bee", "cat"]
    return datasets.Dataset.from_dict(
        {"picture": [str(file) for file in files], "label": [names.index(file.parent.name) for file in files]},
        features=datasets.Features({"picture": datasets.Image(), "label": datasets.ClassLabel(names=names)}),
    )


def test_parquet_with_embedded_images_and_class_names(photos, tmp_path):
    linked = make_dataset(photos)
    pictures = [{"bytes": file.read_bytes(), "path": None} for file in sorted(photos.rglob("*.png"))]
    embedded = datasets.Dataset.from_dict({"picture": pictures, "label": linked["label"]}, features=linked.features)
    embedded.to_parquet(tmp_path / "images.parquet")
    for file in photos.rglob("*.png"):
        file.unlink()
    data = NoisyImageDataModule(str(tmp_path / "images.parquet"), val_fraction=0.0)
    assert data.class_names == ["ant", "bee", "cat"]
    train = data.splits["train"]
    assert np.asarray(train.read(13)).tolist() == np.asarray(draw_image(1, 101)).tolist()
    assert train.ids.to_pylist() == [str(row) for row in range(36)]


@pytest.mark.parametrize("embedded", [False, True])
def test_a_folder_called_like_a_column_adds_none_and_hides_none(photos, tmp_path, embedded):
    folder = tmp_path / "label=7"
    folder.mkdir()
    files = sorted(photos.rglob("*.png"))
    pictures = [{"bytes": file.read_bytes(), "path": None} if embedded else str(file) for file in files]
    table = pa.table({"image": pictures, "label": [file.parent.name for file in files]})
    pyarrow.parquet.write_table(table, folder / "images.parquet")
    data = NoisyImageDataModule(str(folder / "images.parquet"), val_fraction=0.0)
    assert data.class_names == ["ant", "bee", "cat"]


def test_a_data_set_saved_to_disk_and_one_with_splits(photos, tmp_path):
    dataset = make_dataset(photos)
    dataset.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": dataset, "test": dataset.select(range(5))}).save_to_disk(tmp_path / "two")
    one = NoisyImageDataModule(f"hub:{tmp_path / 'one'}", val_fraction=0.0)
    two = NoisyImageDataModule(f"hub:{tmp_path / 'two'}", val_fraction=0.0)
    assert len(one.splits["train"]) == len(two.splits["train"]) == 36
    assert len(two.splits["test"]) == 5
    assert one.class_names == two.class_names == ["ant", "bee", "cat"]
    assert one.splits["train"].read(0).mode == "RGB"
    assert NoisyImageDataModule(str(tmp_path / "one")).num_classes == 3


def test_a_class_number_that_the_data_have_no_name_for(photos, tmp_path):
    dataset = make_dataset(photos)
    table = dataset.data.table.slice(0)
    labels = [-1, *dataset["label"][1:]]
    features = dataset.features
    changed = pa.table({"picture": table["picture"], "label": pa.array(labels, pa.int64())})
    datasets.Dataset(changed.replace_schema_metadata(features.arrow_schema.metadata)).save_to_disk(tmp_path / "d")
    for options in ({}, {"class_names": ["cat", "bee", "ant"]}, {"merge_similar_classes": True}):
        with pytest.raises(ValueError, match=r"row 0|Row 0"):
            _ = NoisyImageDataModule(str(tmp_path / "d"), **options).splits


def write_idx(path, values):
    header = struct.pack(">BBBB", 0, 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    with gzip.open(path, "wb") if path.suffix == ".gz" else open(path, "wb") as file:
        file.write(header + values.astype(np.uint8).tobytes())


def test_mnist_style_files(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (20, 6, 5))
    labels = np.arange(20) % 4
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", pixels)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", labels)
    write_idx(tmp_path / "t10k-images-idx3-ubyte", pixels[:8])
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", labels[:8])
    data = NoisyImageDataModule(f"idx:{tmp_path}", val_fraction=0.0)
    assert data.num_classes == 4
    assert len(data.splits["test"]) == 8
    image = np.asarray(data.splits["train"].read(3))
    assert (image == pixels[3][:, :, None]).all()
    assert data.splits["test"].has_clean_labels


def test_the_real_mnist(shared_data):
    data = NoisyImageDataModule(f"idx:{shared_data / 'mnist'}", max_train_images=500)
    assert (len(data.splits["train"]), len(data.splits["test"])) == (500, 10_000)
    assert (data.class_counts > 30).all()


@pytest.mark.skip(reason="needs the Hub")
def test_a_data_set_on_the_hub():
    assert NoisyImageDataModule("hub:ylecun/mnist").num_classes == 10


# --- splits, noise and labels ----------------------------------------------------------------------------------------


def test_digits_are_split_as_documented_and_by_the_seed():
    data = NoisyImageDataModule("digits", noise="uniform:0.5")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 1171, "val": 129, "test": 497}
    assert torch.equal(data.transition_matrix, uniform_matrix(10, 0.5))
    assert data.label_noise_rate == pytest.approx(0.45, abs=0.03)
    assert (data.splits["test"].noisy_labels == data.splits["test"].clean_labels).all()
    assert (data.splits["val"].noisy_labels != data.splits["val"].clean_labels).any()
    again, other = NoisyImageDataModule("digits", noise="uniform:0.5"), NoisyImageDataModule("digits", seed=1)
    assert (again.splits["train"].noisy_labels == data.splits["train"].noisy_labels).all()
    assert again.splits["train"].ids.equals(data.splits["train"].ids)
    assert not other.splits["train"].ids.equals(data.splits["train"].ids)


def test_no_image_is_in_two_splits_and_each_class_is_held_out(photos):
    data = NoisyImageDataModule(str(photos), val_fraction=0.25)
    train, val = (set(data.splits[name].ids.to_pylist()) for name in ("train", "val"))
    assert not train & val
    assert np.bincount(data.splits["val"].noisy_labels).tolist() == [3, 3, 3]


def test_synthetic_noise_keeps_the_given_labels_as_clean_ones(photos):
    data = NoisyImageDataModule(str(photos), noise="pair:1.0", val_fraction=0.0)
    train = data.splits["train"]
    assert (train.noisy_labels == (train.clean_labels + 1) % 3).all()
    assert data.label_noise_rate == 1.0


def test_the_counted_matrix_is_of_clean_and_noisy_labels(photos):
    clean = ["ant"] * 12 + ["bee"] * 12 + ["cat"] * 12
    noisy = ["bee"] * 3 + ["ant"] * 9 + ["bee"] * 12 + ["ant"] * 6 + ["cat"] * 6
    source = write_manifest(photos, "l.csv", label=noisy, truth=clean)
    data = NoisyImageDataModule(source, clean_label_column="truth", val_fraction=0.0)
    expected = torch.tensor([[0.75, 0.25, 0], [0, 1, 0], [0.5, 0, 0.5]], dtype=torch.float64)
    assert torch.allclose(data.transition_matrix, expected)
    assert data.class_counts.tolist() == [15, 15, 6]


def test_other_sources_for_validation_and_test_map_their_classes_by_name(photos, tmp_path):
    (tmp_path / "test" / "cat").mkdir(parents=True)
    draw_image(2, 7).save(tmp_path / "test" / "cat" / "one.png")
    checked = write_manifest(photos, "val.csv", 20)
    data = NoisyImageDataModule(str(photos), val_source=checked, test_source=str(tmp_path / "test"))
    assert [len(data.splits[name]) for name in ("train", "val", "test")] == [36, 20, 1]
    assert data.splits["test"].noisy_labels.tolist() == [2]


def test_a_test_table_may_have_the_clean_column_alone(photos):
    train = write_manifest(photos, "train.csv", label=["ant", "bee", "cat"] * 12, truth=["ant", "bee", "bee"] * 12)
    test = photos / "test.csv"
    test.write_text("path,truth\nant/00.png,ant\n", encoding="utf-8")
    data = NoisyImageDataModule(train, label_column="label", clean_label_column="truth", test_source=str(test))
    assert data.splits["test"].clean_labels.tolist() == [0]


def test_fewer_training_images_are_drawn_class_by_class(photos):
    data = NoisyImageDataModule(str(photos), val_fraction=0.0, max_train_images=9)
    assert data.class_counts.tolist() == [3, 3, 3]


# --- transforms and loaders ------------------------------------------------------------------------------------------


class Wants(L.LightningModule):
    @property
    def data_config(self):
        half = (0.5, 0.5, 0.5)
        return {"input_size": (3, 24, 24), "mean": half, "std": half, "interpolation": "nearest", "crop_pct": 1.0}


def test_size_and_normalisation_come_from_the_model(photos):
    data = NoisyImageDataModule(str(photos), num_workers=0)
    data.trainer = L.Trainer(logger=False, accelerator="cpu")
    data.trainer.strategy._lightning_module = Wants()
    data.setup("fit")
    images, _ = next(iter(data.val_dataloader()))
    assert images.shape[1:] == (3, 24, 24)
    original = data.splits["val"].read(0).resize((24, 24), 0)
    expected = torch.tensor(np.asarray(original) / 127.5 - 1).permute(2, 0, 1).float()
    assert torch.allclose(images[0], expected, atol=1e-5)


def test_plain_numbers_are_not_augmented_and_photos_are(photos):
    for source, is_random in (("digits", False), (str(photos), True)):
        data = NoisyImageDataModule(source, image_size=16, num_workers=0, val_fraction=0.0)
        data.setup("fit")
        loader = data.train_dataloader()
        epochs = []
        for epoch in (0, 1):
            loader.sampler.set_epoch(epoch)
            epochs.append(
                {name: image for batch in loader for name, image in zip(batch.ids, batch.images, strict=True)}
            )
        differs = any(not torch.equal(epochs[0][name], epochs[1][name]) for name in epochs[0])
        assert differs == is_random


def test_a_last_batch_of_one_image_is_left_out_of_training(photos):
    data = NoisyImageDataModule(str(photos), val_fraction=0.0, batch_size=7, image_size=8, num_workers=0)
    data.setup("fit")
    assert [len(batch) for batch in data.train_dataloader()] == [7] * 5


def test_prediction_sees_every_training_image_in_order(photos):
    data = NoisyImageDataModule(str(photos), batch_size=7, image_size=8, num_workers=0)
    data.setup("predict")
    ids = [name for batch in data.predict_dataloader() for name in batch.ids]
    assert ids == data.splits["train"].ids.to_pylist()


def test_without_validation_images_there_is_no_validation_loader(photos):
    data = NoisyImageDataModule(str(photos), val_fraction=0.0, num_workers=0)
    data.setup("fit")
    assert data.val_dataloader() == []
    with pytest.raises(ValueError, match=r"no test split.*`test_source`"):
        data.test_dataloader()
