"""Every image through the network once, by any number of processes; what was done before a kill is not done again."""

from collections.abc import Iterator, Sized
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as L
import numpy as np
import pyarrow as pa
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from lightning_noisy.audit.model import AuditModule
from lightning_noisy.audit.parts import PROBABILITIES, SCHEMA, PartWriter, positions_done
from lightning_noisy.data import LabelledImages, NoisyImageDataModule
from lightning_noisy.data.loading import Transform, world


class AuditedImages:
    """The images of all splits that are audited, one behind the other.

    Args:
        splits: By name. An image's position is its number over all of them.
    """

    def __init__(self, splits: dict[str, LabelledImages]) -> None:
        self.splits = splits
        self._starts = np.cumsum([0, *map(len, splits.values())])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def place(self, position: int) -> tuple[str, int]:
        """The split of an image and its row there."""
        index = int(np.searchsorted(self._starts, position, side="right")) - 1
        return list(self.splits)[index], int(position - self._starts[index])

    def positions(self, split: str, rows: np.ndarray) -> np.ndarray:
        """(M,) rows of a split -> their positions."""
        return self._starts[list(self.splits).index(split)] + rows

    def blocks(self, size: int = 100_000) -> Iterator[tuple[pa.StringArray, np.ndarray]]:
        """Ids and given labels, some at a time."""
        for images in self.splits.values():
            for first in range(0, len(images), size):
                yield images.ids[first : first + size], images.noisy_labels[first : first + size]

    def columns(self, positions: np.ndarray) -> dict[str, Any]:
        """What is known of each image without looking at it."""
        places = [self.place(position) for position in positions.tolist()]
        return {
            "id": [self.splits[split].ids[row].as_py() for split, row in places],
            "path": [self.splits[split].path(row) for split, row in places],
            "split": [split for split, _ in places],
            "row": [row for _, row in places],
        }


class AuditData(L.LightningDataModule):
    """Hands out the images that are in no part yet, not augmented, as the network wants them.

    Args:
        datamodule: Where they come from.
        images: All of them.
        wanted: (N,) bool, those that this network is to look at.
        directory: The audit's folder, which has begun.

    Attributes:
        readable: (N,) bool, once it is set up: broken images that the data module leaves out are not.
    """

    def __init__(
        self,
        datamodule: NoisyImageDataModule,
        images: AuditedImages,
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

    def predict_dataloader(self) -> DataLoader:
        dataset = _Dataset(self.images, self.positions, self.datamodule.evaluation_transform)
        sampler = SharedOut(dataset, *world(), shuffle=False)
        options = self.datamodule.loader_options()
        return DataLoader(dataset, batch_size=self.datamodule.batch_size, sampler=sampler, **options)


class SharedOut(DistributedSampler):
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
        directory: The audit's folder.
        images: All images.
        with_probabilities: Whether the posterior of all classes is there too.
    """

    def __init__(self, directory: Path, images: AuditedImages, with_probabilities: bool) -> None:
        self.directory = directory
        self.images = images
        self.schema = SCHEMA.append(PROBABILITIES) if with_probabilities else SCHEMA

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


def predict(trainer: L.Trainer, module: AuditModule, data: AuditData) -> None:
    """Puts what the network says of the images into the parts of the audit; every process calls it.

    Args:
        trainer: Decides on devices, processes and precision.
        module: The network.
        data: The images.
    """
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callback = PartsCallback(data.directory, data.images, module.with_probabilities)
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


class _Dataset(Dataset[tuple[Tensor, int, int]]):
    def __init__(self, images: AuditedImages, positions: np.ndarray, transform: Transform) -> None:
        self.images = images
        self.positions = positions
        self.transform = transform

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        position = int(self.positions[index])
        split, row = self.images.place(position)
        images = self.images.splits[split]
        try:
            pixels = self.transform(images.read(row))
        except OSError as error:
            raise ValueError(
                f"The image {images.ids[row].as_py()!r} can't be read any more ({error}). Put it back, or leave it out "
                "by `on_broken: skip`, and run the same again: what was looked at is kept."
            ) from error
        return pixels, int(images.noisy_labels[row]), position
