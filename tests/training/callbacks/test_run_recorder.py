import csv
from types import SimpleNamespace

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from lightning_noisy import NoisyImageClassifier, NoisyImageDataModule, StreamingImageDataModule
from lightning_noisy.data.description import describe
from lightning_noisy.run_record import RunRecord
from lightning_noisy.training.loggers.wandb_artifacts import _describe_dataset

from ...streaming.shard_files import NAMES, served, write_parquet, write_tars
from ..small import QUIET

OPTIONS = {"pretrained": False, "image_size": 16, "backbone_kwargs": {"patch_size": 4}}


def fit(photos, tmp_path, epochs, ckpt_path=None, **trainer_options):
    data = NoisyImageDataModule(
        str(photos), image_size=16, batch_size=6, num_workers=0, noise="pair:0.2", val_fraction=0.25
    )
    model = NoisyImageClassifier("timm:test_vit", 3, ["ant", "bee", "cat"], noise={"warmup_epochs": 1}, **OPTIONS)
    trainer = L.Trainer(max_epochs=epochs, **{**QUIET, **trainer_options})
    trainer.fit(model, data, ckpt_path=ckpt_path)
    trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
    return torch.load(tmp_path / f"{epochs}.ckpt", weights_only=True)["noisy_run"], trainer


def test_a_checkpoint_keeps_the_record_of_its_run(photos, tmp_path):
    record, trainer = fit(photos, tmp_path, epochs=2)
    assert (record["trainer"], record["epochs"], record["steps"]) == ("lightning", 2.0, trainer.global_step)
    assert record["data"] == {
        "name": "photos",
        "noise": "pair:0.2",
        "label_noise_rate": trainer.datamodule.label_noise_rate,
        "train_images": 27,
        "val_images": 9,
    }
    assert sum(count for _, _, count in record["label_counts"]) == 27
    assert {"val/accuracy_noisy", "val/accuracy_clean", "val/loss_noisy"} <= set(record["metrics"])
    assert record["metrics"]["val/accuracy_clean"] == trainer.callback_metrics["val/accuracy_clean"].item()
    assert "images_per_second" in trainer.callback_metrics and "images_per_second" not in record["metrics"]
    assert record["hyperparameters"]["optimizer"] == "AdamW(lr=0.001, weight_decay=0.01)"
    assert record["hyperparameters"]["batch_size"] == 6
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert record["seconds"] > 0
    assert str(tmp_path) not in str(record)


def test_a_checkpoint_of_the_middle_of_the_run_knows_its_labels_too(photos, tmp_path):
    written = []

    class Watch(L.Callback):
        def on_validation_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                trainer.save_checkpoint(tmp_path / "now.ckpt")
                written.append(torch.load(tmp_path / "now.ckpt", weights_only=True)["noisy_run"])

    fit(photos, tmp_path, epochs=2, callbacks=[Watch()])
    assert [sum(count for _, _, count in record["label_counts"]) for record in written] == [27, 27]
    assert [record["epochs"] for record in written] == [1.0, 2.0]


def test_a_resumed_run_adds_its_time(photos, tmp_path):
    first, _ = fit(photos, tmp_path, epochs=1)
    second, _ = fit(photos, tmp_path, epochs=2, ckpt_path=tmp_path / "1.ckpt")
    assert second["epochs"] == 2.0
    assert second["seconds"] > first["seconds"]


def rows_of_csv(path, name):
    with open(path, newline="", encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


KEPT = ("val/accuracy_noisy", "val/accuracy_clean", "val/loss_noisy", "train/loss_clean", "noise/share")


def test_the_history_is_what_a_csv_log_has_across_a_resume(photos, tmp_path):
    first, _ = fit(photos, tmp_path, epochs=2, logger=CSVLogger(tmp_path, "first", ""))
    options = {"check_val_every_n_epoch": 2, "logger": CSVLogger(tmp_path, "second", "")}
    second, _ = fit(photos, tmp_path, epochs=4, ckpt_path=tmp_path / "2.ckpt", **options)
    assert [row["epoch"] for row in first["history"]] == [1.0, 2.0]
    assert second["history"][:2] == first["history"]
    assert [row["epoch"] for row in second["history"]] == [1.0, 2.0, 3.0, 4.0]
    assert "val/accuracy_noisy" not in second["history"][2], "it was measured in every second epoch alone"
    for name in KEPT:
        logged = [value for part in ("first", "second") for value in rows_of_csv(tmp_path / part / "metrics.csv", name)]
        assert [row[name] for row in second["history"] if name in row] == pytest.approx(logged, rel=1e-5), name


@pytest.mark.parametrize("source", ["digits", "hub:me/birds", "hub:./birds", "idx:/data/mnist", "/home/me/photos"])
def test_of_a_path_only_its_last_part_is_kept(source):
    class Data:
        noise = "matrix:/home/me/t.csv"
        label_noise_rate = None
        splits: dict = {}  # noqa: RUF012

    Data.source = source
    described = describe(Data())
    assert "/home" not in str(described) and "/data" not in str(described)
    assert described["noise"] == "matrix"
    assert described.get("hub_id") == ("me/birds" if source == "hub:me/birds" else None)


def test_a_stream_is_described_without_what_a_url_must_not_tell(tmp_path):
    write_parquet(tmp_path / "web", [4, 3], checked=lambda number, kind: NAMES[kind])
    write_tars(tmp_path / "birds", [4, 3])
    options = {"clean_label_column": "checked"}
    for source in (tmp_path / "web", f"{tmp_path}/web/*.parquet", f"{tmp_path}/web/{{000..001}}.parquet"):
        described = StreamingImageDataModule(str(source), **options).describe()
        assert described == {"name": "web", "train_images": 7, "label_noise_rate": 0.0}
    with served(tmp_path) as (url, _):
        source = f"{url}/birds/{{000..001}}.tar?key=secret"
        data = StreamingImageDataModule(source, class_names=list(NAMES), val_source=str(tmp_path / "web"))
        assert data.describe() == {"name": "birds", "train_images": 7, "val_images": 7}
        record = RunRecord(data=data.describe())
        described = _describe_dataset(SimpleNamespace(datamodule=data), record)
    assert described == {**record.data, "class_names": list(NAMES)}, "no counts where nothing tells them"
