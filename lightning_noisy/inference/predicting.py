"""Every image through a network once, by any number of processes; what was done before a kill is not done again."""

from collections.abc import Iterator, Sized
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as L
import numpy as np
import pyarrow as pa
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from lightning_noisy.data.datamodule import NoisyImageDataModule
from lightning_noisy.data.loader import Transform, world
from lightning_noisy.inference.facts import image_facts
from lightning_noisy.inference.images import AllImages
from lightning_noisy.inference.parts import PartWriter, positions_done


class EveryImage(L.LightningDataModule):
    """Hands out the images that are in no part yet, not augmented, as the network wants them, and the facts of each.

    Args:
        datamodule: Where they come from.
        images: All of them.
        wanted: (N,) bool, those that this network is to look at.
        directory: The folder of the pass, which has begun.

    Attributes:
        readable: (N,) bool, once it is set up: broken images that the data module leaves out are not.
    """

    def __init__(
        self,
        datamodule: NoisyImageDataModule,
        images: AllImages,
        wanted: np.ndarray,
        directory: Path,
    ) -> None:
        super().__init__()
        self.datamodule = datamodule
        self.images = images
        self.wanted = wanted
        self.directory = directory
        self.readable = np.zeros(len(images), dtype=bool)

    def prepare_data(self) -> None:
        self.datamodule.prepare_data()

    def setup(self, stage: str) -> None:
        self.datamodule.trainer = self.trainer
        self.datamodule.setup(stage)
        for split in self.images.splits:
            self.readable[self.images.positions(split, self.datamodule.readable(split))] = True
        done = positions_done(self.directory, len(self.images))
        self.positions = np.flatnonzero(self.wanted & self.readable & ~done)
        assert self.trainer is not None
        self.trainer.strategy.barrier()  # all have the same list before the first one writes a part

    def predict_dataloader(self) -> DataLoader:
        dataset = _Dataset(self.images, self.positions, self.datamodule.evaluation_transform)
        sampler = DisjointSampler(dataset, *world(), shuffle=False)
        options = self.datamodule.loader_options()
        return DataLoader(dataset, batch_size=self.datamodule.batch_size, sampler=sampler, **options)


class DisjointSampler(DistributedSampler):
    """In order, each image to one process alone; some processes get one more than others."""

    def __iter__(self) -> Iterator[int]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)

    @property
    def _own(self) -> range:
        return range(self.rank, len(cast(Sized, self.dataset)), self.num_replicas)


class PartsCallback(L.Callback):
    """Writes what the network says of each batch, every process into parts of its own.

    Args:
        directory: The folder of the pass.
        images: All images.
        schema: The columns to write: those that the network gives, and of the image what :class:`AllImages` knows.
    """

    def __init__(self, directory: Path, images: AllImages, schema: pa.Schema) -> None:
        self.directory = directory
        self.images = images
        self.schema = schema

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.writer = PartWriter(self.directory, self.schema, trainer.global_rank)

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        columns = {name: list(values) if values.ndim == 2 else values for name, values in outputs.items()}
        self.writer.add({**columns, **self.images.columns(outputs["position"])})

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.writer.flush()


def predict(trainer: L.Trainer, module: L.LightningModule, data: EveryImage, schema: pa.Schema) -> None:
    """Puts what a network says of the images into the parts of a pass; every process calls it.

    Args:
        trainer: Decides on devices, processes and precision.
        module: Its ``predict_step`` gives columns of the schema as NumPy arrays, ``position`` among them.
        data: The images.
        schema: The columns.

    Raises:
        ValueError: If an image can't be read any more, or afterwards an image is in no part.
    """
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callback = PartsCallback(data.directory, data.images, schema)
    callbacks.append(callback)
    of_the_fit = getattr(trainer, "datamodule", None)
    try:
        trainer.predict(module, datamodule=data, return_predictions=False)
    except ValueError as error:
        _, came_from_a_worker, said = str(error).rpartition("ValueError: ")
        if not came_from_a_worker:
            raise
        raise ValueError(said.strip()) from error  # without the worker's traceback
    finally:
        callbacks.remove(callback)
        trainer.datamodule = of_the_fit  # type: ignore[attr-defined]
    trainer.strategy.barrier()
    if trainer.is_global_zero:
        check_none_is_missing(data)


def check_none_is_missing(data: EveryImage) -> None:
    """Raises a :class:`ValueError` where an image that can be read is in no part."""
    done = positions_done(data.directory, len(data.images))
    missing = int((data.wanted & data.readable & ~done).sum())
    if missing:
        raise ValueError(
            f"The rows of {missing} images are missing in {str(data.directory)!r}. All processes must write to one "
            "folder that they share, and the trainer must not limit the batches (`limit_predict_batches`, "
            "`fast_dev_run`); then run the same again."
        )


class _Dataset(Dataset[tuple[Tensor, int, int, dict[str, Any]]]):
    def __init__(self, images: AllImages, positions: np.ndarray, transform: Transform) -> None:
        self.images = images
        self.positions = positions
        self.transform = transform

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int, dict[str, Any]]:
        position = int(self.positions[index])
        split, row = self.images.place(position)
        images = self.images.splits[split]
        try:
            image = images.read(row)
            facts = image_facts(image)
            pixels = self.transform(image)
        except OSError as error:
            raise ValueError(
                f"The image {images.ids[row].as_py()!r} can't be read any more ({error}). Put it back, or leave it out "
                "by `on_broken: skip` (`--data.on_broken skip`), and run the same again: what was looked at is kept."
            ) from error
        return pixels, int(images.noisy_labels[row]), position, facts
