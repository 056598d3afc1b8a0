"""A pass of a frozen backbone over all images: its features, as a table; resumed after a kill."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from lightning.pytorch.utilities import rank_zero_warn
from rich.progress import track
from torch import nn

from lightning_noisy import models
from lightning_noisy.data.datamodule import NoisyImageDataModule
from lightning_noisy.features.table import FEATURE_FILES, INFO_FILE, Features, read_features, write_features
from lightning_noisy.inference import parts
from lightning_noisy.inference.facts import FACTS_SCHEMA, read_facts
from lightning_noisy.inference.images import AllImages, unique_over_splits
from lightning_noisy.inference.parts import PartWriter
from lightning_noisy.inference.predicting import EveryImage, check_none_is_missing, predict
from lightning_noisy.models.features import FeatureExtractor, feature_size
from lightning_noisy.models.fingerprint import add_weights


class FeatureModule(L.LightningModule):
    """Gives the features of a batch of images.

    Args:
        extractor: The frozen backbone.
    """

    def __init__(self, extractor: FeatureExtractor) -> None:
        super().__init__()
        self.extractor = extractor.eval()

    @property
    def data_config(self) -> dict[str, Any]:
        """How the backbone wants its images."""
        return models.resolve_data_config(self.extractor.model)

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Images, positions (B,) and facts -> the columns ``position``, ``features`` (B, D) float16, and facts."""
        images, _, positions, facts = batch
        features = self.extractor(images).float()
        if not bool(features.half().isfinite().all()):
            raise ValueError(
                "Expected the backbone to give features within the range of half precision, but got NaN, infinity or "
                f"{float(features.abs().max()):.3g}. Look at its weights, or take `trainer.precision` 32-true."
            )
        columns = {"position": positions, "features": features.half(), **facts}
        return {name: values.cpu().numpy() for name, values in columns.items()}


def extract_features(
    backbone: str | nn.Module,
    datamodule: NoisyImageDataModule,
    output: str | Path,
    *,
    trainer: L.Trainer | None = None,
    pretrained: bool = True,
    name: str | None = None,
) -> Features:
    """The features of all images, each looked at once, not augmented.

    In several processes every one of them must call it. A run that was killed resumes where it stopped; one that is
    finished is read, if backbone, transform and images are the same.

    Args:
        backbone: ``"timm:NAME"``, ``"timm:local-dir:DIR"``, ``"hf:REPO_OR_DIR"`` or an image classifier in memory.
        datamodule: The images.
        output: A folder for the table, which all processes share.
        trainer: Decides on devices, processes and precision; by default one device of the best kind.
        pretrained: Whether to load the backbone's pretrained weights.
        name: What to call it; by default as ``backbone`` does.

    Raises:
        ValueError: If the backbone can't be loaded or gives no features, or ``output`` holds those of another one.
    """
    model = build_frozen(backbone, datamodule, pretrained)
    module = FeatureModule(FeatureExtractor(model))
    images = _all_images(datamodule)
    trainer = trainer or L.Trainer(devices=1, logger=False, enable_checkpointing=False)
    directory = Path(output).expanduser()
    key = _key(module, images, datamodule, trainer)
    if not _is_finished(directory, key, str(output)):
        parts.begin(directory, key, trainer.is_global_zero, FEATURE_FILES)
        size = feature_size(module.extractor, input_size(module, datamodule))
        own = datamodule.with_splits(images.splits)
        predict(trainer, module, EveryImage(own, images, np.ones(len(images), dtype=bool), directory), _schema(size))
        if trainer.is_global_zero:
            name = name or (backbone if isinstance(backbone, str) else type(backbone).__name__)
            _assemble(directory, images, size, {"key": key, "backbone": name, **_settings(module, datamodule, trainer)})
        trainer.strategy.barrier()
    if trainer.is_global_zero:
        shutil.rmtree(directory / parts.PARTS_FOLDER, ignore_errors=True)
    return read_features(directory)


def extract_within_fit(
    module: FeatureModule, datamodule: NoisyImageDataModule, output: Path, trainer: L.Trainer
) -> Features:
    """The same for the backbone of a fit that is being set up, by the fit's own processes, devices and precision.

    Args:
        module: The backbone, on its device.
        datamodule: The images of the fit.
        output: A folder for the table, which all processes share; what another fit has left there is replaced.
        trainer: Of the fit.

    Raises:
        ValueError: If an image can't be read any more, or ``output`` can't be written to.
    """
    images = _all_images(datamodule)
    key = _key(module, images, datamodule, trainer)
    is_there = _key_in(output) == key
    trainer.strategy.barrier()  # all have looked before the first one replaces what is there
    if not is_there:
        parts.begin(output, key, trainer.is_global_zero, FEATURE_FILES)
        data = EveryImage(datamodule.with_splits(images.splits), images, np.ones(len(images), dtype=bool), output)
        data.trainer = trainer
        data.setup("predict")
        size = feature_size(module.extractor, input_size(module, datamodule))
        writer = PartWriter(output, _schema(size), trainer.global_rank)
        hidden = not trainer.is_global_zero or trainer.progress_bar_callback is None
        device = next(module.parameters()).device
        with torch.inference_mode(), trainer.precision_plugin.forward_context():
            for batch in track(data.predict_dataloader(), "Looking at all images once", disable=hidden):
                pixels, *others = batch
                found = module.predict_step((pixels.to(device), *others), 0)
                writer.add({name: list(values) if values.ndim == 2 else values for name, values in found.items()})
        writer.flush()
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            check_none_is_missing(data)
            _assemble(
                output, images, size, {"key": key, "backbone": "of the fit", **_settings(module, datamodule, trainer)}
            )
            shutil.rmtree(output / parts.PARTS_FOLDER, ignore_errors=True)
        trainer.strategy.barrier()
    return read_features(output)


def _schema(size: int) -> pa.Schema:
    own = [pa.field("position", pa.int64()), pa.field("features", pa.list_(pa.float16(), size))]
    return pa.schema([*own, *FACTS_SCHEMA])


def build_frozen(backbone: str | nn.Module, datamodule: NoisyImageDataModule, pretrained: bool = True) -> nn.Module:
    """The backbone with the data's image size, in eval mode; a warning where its weights are random."""
    if not pretrained:
        rank_zero_warn(
            "The backbone has random weights (`pretrained` is false): its features mean little. Name one with "
            "pretrained weights."
        )
    if isinstance(backbone, nn.Module):
        return backbone.eval().requires_grad_(False)
    model = models.build_backbone(
        backbone, datamodule.num_classes, pretrained=pretrained, image_size=datamodule.image_size
    )
    return model.eval().requires_grad_(False)


def features_key(model: nn.Module, datamodule: NoisyImageDataModule, trainer: L.Trainer) -> str:
    """Changes with all that the features depend on: weights, transform, precision and images, not with their labels."""
    images = _all_images(datamodule)
    return _key(FeatureModule(FeatureExtractor(model)), images, datamodule, trainer)


def _all_images(datamodule: NoisyImageDataModule) -> AllImages:
    return AllImages(unique_over_splits(datamodule.splits))


def input_size(module: FeatureModule, datamodule: NoisyImageDataModule) -> tuple[int, int, int]:
    """(C, H, W) of the images that the backbone is given."""
    channels, height, width = module.data_config["input_size"]
    side = datamodule.image_size
    return (channels, height, width) if side is None else (channels, side, side)


def _settings(module: FeatureModule, datamodule: NoisyImageDataModule, trainer: L.Trainer) -> dict[str, Any]:
    config = {**module.data_config, "input_size": input_size(module, datamodule)}
    return {"data_config": config, "precision": str(trainer.precision)}


def _key(module: FeatureModule, images: AllImages, datamodule: NoisyImageDataModule, trainer: L.Trainer) -> str:
    settings = [_settings(module, datamodule, trainer), datamodule.on_broken]
    digest = hashlib.sha256(json.dumps(settings, default=str, sort_keys=True).encode())
    add_weights(digest, module.extractor.weights())
    ids: list[str] = []
    rows_of: dict[int, tuple[Any, list[np.ndarray]]] = {}  # whichever split an image is in: that depends on labels
    for part in images.splits.values():
        rows_of.setdefault(id(part.store), (part.store, []))[1].append(np.asarray(part.rows))
        ids += part.ids.to_pylist()
    for store, rows in rows_of.values():
        digest.update(store.fingerprint(np.sort(np.concatenate(rows))).encode())
    digest.update("\0".join(sorted(ids)).encode())
    return digest.hexdigest()[:32]


def _key_in(directory: Path) -> str | None:
    """Of the finished features that are there, if any."""
    return read_features(directory).info.get("key") if (directory / INFO_FILE).is_file() else None


def _is_finished(directory: Path, key: str, output: str) -> bool:
    found = _key_in(directory)
    if found is None:
        return False
    if found != key:
        raise ValueError(
            f"Expected the features in {output!r} to be of this backbone, transform and these images, but they are of "
            "others. Name another folder, or remove this one."
        )
    return True


def _assemble(directory: Path, images: AllImages, size: int, info: dict[str, Any]) -> None:
    positions = np.flatnonzero(parts.positions_done(directory, len(images)))
    row_of = np.full(len(images), -1)
    row_of[positions] = np.arange(len(positions))
    ids = pa.concat_arrays([part.ids for part in images.splits.values()]).take(pa.array(positions))
    rows = read_facts(directory).add_column(0, "id", ids)
    write_features(directory, rows, size, _read_parts(directory, row_of, size), info)


def _read_parts(directory: Path, row_of: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for path in parts.part_files(directory):
        table = pyarrow.parquet.read_table(path, columns=["position", "features"], partitioning=None)
        values = table["features"].combine_chunks().flatten().to_numpy().reshape(-1, size)
        yield row_of[table["position"].to_numpy()], values
