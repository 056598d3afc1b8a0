"""Batches whose content depends on (seed, epoch, position) alone, so that a resumed run sees what a whole one sees."""

import random
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, get_worker_info

from lightning_noisy.data.labelled_images import LabelledImages
from lightning_noisy.image_batch import ImageBatch
from lightning_noisy.noise.functional import NO_LABEL

Transform = Callable[[Image.Image], Tensor]


class Sample(NamedTuple):
    """One image of a batch: (C, H, W), its labels, its id, and what :class:`ImageBatch` says of the others."""

    pixels: Tensor
    noisy_label: int
    clean_label: int
    id: str
    weight: float | None = None
    soft_label: Tensor | None = None


class Filler(NamedTuple):
    """An image that another rank has, read again so that every rank has as many batches; no metric counts it."""

    row: int


class ImageDataset(Dataset[Sample]):
    """Reads and transforms the images of one split.

    An item is asked for by its index, or by ``(epoch, index)`` where the transform is random: then the draws depend on
    the seed, the epoch and the index alone, whatever worker or rank makes them. The labels of a :class:`Filler` are -1.

    Args:
        images: The split.
        transform: From a PIL image to a (3, H, W) tensor.
        seed: Seeds the draws.
    """

    def __init__(self, images: LabelledImages, transform: Transform, seed: int) -> None:
        self.images = images
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: int | tuple[int, int] | Filler) -> Sample:
        if isinstance(key, Filler):
            return self[key.row]._replace(noisy_label=NO_LABEL, clean_label=NO_LABEL)
        if isinstance(key, tuple):
            epoch, index = key
            with draws_seeded_by(self.seed, epoch, index):
                pixels = self._read(index)
        else:
            index = key
            pixels = self._read(index)
        images = self.images
        return Sample(
            pixels,
            int(images.noisy_labels[index]),
            int(images.clean_labels[index]),
            images.ids[index].as_py(),
            None if images.weights is None else float(images.weights[index]),
            None if images.soft_labels is None else torch.from_numpy(images.soft_labels[index].astype(np.float32)),
        )

    def _read(self, index: int) -> Tensor:
        return self.transform(self.images.read(index))

    def __getitems__(self, keys: list[Any]) -> list[Sample]:
        """The samples of a batch, as :class:`~torch.utils.data.DataLoader` asks for them."""
        with _random_state_kept():  # once for all of them: it takes a tenth of the time to read a small image
            return [self[key] for key in keys]

    def collate(self, samples: Sequence[Sample]) -> ImageBatch:
        """Samples -> one batch."""
        return collate(samples, self.images.has_clean_labels)


class FeatureDataset(ImageDataset):
    """Gives what a frozen backbone saw in place of the images.

    Args:
        images: The split.
        features: The table of all features, (N, D).
        rows: (M,) the row of each image of the split.
        seed: As of :class:`ImageDataset`.
    """

    def __init__(self, images: LabelledImages, features: Tensor, rows: np.ndarray, seed: int) -> None:
        super().__init__(images, _no_transform, seed)
        self.features = features
        self.rows = rows

    def _read(self, index: int) -> Tensor:
        return self.features[int(self.rows[index])].float()


def _no_transform(image: Image.Image) -> Tensor:
    raise AssertionError("the images of features are not read")


def collate(samples: Sequence[Sample], has_clean_labels: bool) -> ImageBatch:
    """Samples -> one batch, without clean labels where none of the split is known."""
    pixels, noisy_labels, clean_labels, ids, weights, soft_labels = zip(*samples, strict=True)
    return ImageBatch(
        images=torch.stack(pixels),
        noisy_labels=torch.tensor(noisy_labels),
        clean_labels=torch.tensor(clean_labels) if has_clean_labels else None,
        ids=list(ids),
        weights=None if weights[0] is None else torch.tensor(weights),
        soft_labels=None if soft_labels[0] is None else torch.stack(soft_labels),
    )


class EpochSampler(DistributedSampler):
    """Shuffles by seed and epoch, gives each rank its share, and can start in the middle of an epoch.

    It yields ``(epoch, index)`` for random transforms, plain indices otherwise.

    Args:
        dataset: Its length counts.
        num_replicas: Number of processes.
        rank: This process.
        seed: Seeds the order.
        with_epoch: Whether to yield ``(epoch, index)``.
    """

    def __init__(self, dataset: Dataset, num_replicas: int, rank: int, seed: int, with_epoch: bool) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=True, seed=seed)
        self.with_epoch = with_epoch
        self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Goes to an epoch; what was to be skipped of another one is forgotten."""
        if epoch != self.epoch:
            self.skip = 0
        super().set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        indices = list(super().__iter__())[self.skip :]
        self.skip = 0
        return iter([(self.epoch, index) for index in indices] if self.with_epoch else indices)


class EvaluationSampler(DistributedSampler):
    """In order, an equal share for each rank; what lacks for that is filled by :class:`Filler`.

    DDP waits until all ranks have made the same number of steps, and metrics must count every image once.

    Args:
        dataset: Its length counts.
        num_replicas: Number of processes.
        rank: This process.
    """

    def __init__(self, dataset: Dataset, num_replicas: int, rank: int) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False)

    def __iter__(self) -> Iterator[Any]:
        for turn, index in enumerate(super().__iter__()):
            is_first_time = turn * self.num_replicas + self.rank < len(cast(Sized, self.dataset))
            yield index if is_first_time else Filler(index)


class ResumableLoader(DataLoader):
    """A training loader that remembers how far it has come.

    Args:
        dataset: The training split.
        sampler: Gives the order.
        batch_size: Images of this process in a step.
        **kwargs: Of :class:`~torch.utils.data.DataLoader`.
    """

    sampler: EpochSampler

    def __init__(self, dataset: ImageDataset, sampler: EpochSampler, batch_size: int, **kwargs: Any) -> None:
        super().__init__(dataset, sampler=sampler, batch_size=batch_size, collate_fn=dataset.collate, **kwargs)
        self._batches_done = 0
        self._batches_to_skip = 0

    def __iter__(self) -> Iterator[ImageBatch]:  # type: ignore[override]
        # A generator: workers start when the first batch is asked for, after Lightning has set the epoch.
        self._batches_done = self._batches_to_skip if self.sampler.skip else 0
        self._batches_to_skip = 0
        for batch in super().__iter__():
            self._batches_done += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch and the batches of it that were handed out."""
        return {"epoch": self.sampler.epoch, "batches_done": self._batches_done}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """The next iteration resumes after the batches that were handed out, without reading them again."""
        self.sampler.set_epoch(state_dict["epoch"])
        self._batches_to_skip = self._batches_done = state_dict["batches_done"]
        assert self.batch_size is not None
        self.sampler.skip = self._batches_to_skip * self.batch_size


def evaluation_loader(dataset: ImageDataset, batch_size: int, **options: Any) -> DataLoader:
    """Every image once over all processes, in order.

    Args:
        dataset: The split.
        batch_size: Images of a batch in one process.
        **options: Of :class:`~torch.utils.data.DataLoader`.
    """
    sampler = EvaluationSampler(dataset, *world())
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, collate_fn=dataset.collate, **options)


def world() -> tuple[int, int]:
    """The number of processes that train together, and which of them this is."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size(), torch.distributed.get_rank()
    return 1, 0


@contextmanager
def draws_seeded_by(*numbers: int) -> Iterator[None]:
    """Random numbers that depend on ``numbers`` alone; outside of a worker the global state is put back afterwards."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    with _random_state_kept():
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        yield


_is_state_kept = False


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Puts the global random state back afterwards; a worker's own is of no use to anyone."""
    global _is_state_kept
    if _is_state_kept or get_worker_info() is not None:
        yield
        return
    states = (random.getstate(), np.random.get_state(), torch.get_rng_state())
    _is_state_kept = True
    try:
        yield
    finally:
        _is_state_kept = False
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
