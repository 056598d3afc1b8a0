"""A stream of images out of shards: each once in an epoch, in an order that a resumed run finds again."""

import heapq
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice, repeat
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lightning_noisy.data.image_stores import decode_value
from lightning_noisy.data.loader import Sample, Transform, collate, draws_seeded_by
from lightning_noisy.image_batch import ImageBatch
from lightning_noisy.noise.functional import NO_LABEL
from lightning_noisy.streaming.counts import SIZES_FILE, LabelNumbers, Shards, plain_label
from lightning_noisy.streaming.find import close_connections, read_rows, shard_name
from lightning_noisy.streaming.layout import KEY
from lightning_noisy.utils.text import first_line

WARNINGS = 5
"""So many broken images each worker tells of in an epoch."""


class StreamError(ValueError):
    """A mistake in the data that is met while they are read, in one sentence."""


@dataclass(frozen=True)
class Plan:
    """What one process reads in an epoch.

    Args:
        shards: For each of its W workers, the numbers of the shards, the same in every epoch.
        batches: (W,) how many batches each of them makes.
    """

    shards: list[list[int]]
    batches: list[int]

    @property
    def steps(self) -> int:
        """Batches of the process in an epoch; as many in every process."""
        return sum(self.batches)

    def given_after(self, steps: int) -> tuple[list[int], int]:
        """How many batches each worker has given after so many steps, and whose turn it is: they take turns."""
        turns = (worker for turn in range(max(self.batches)) for worker, own in enumerate(self.batches) if turn < own)
        given = Counter(islice(turns, steps))
        return [given[worker] for worker in range(len(self.batches))], next(turns, 0)


def plan_stream(rows: np.ndarray, batch_size: int, processes: int, workers: int, is_filled: bool = True) -> list[Plan]:
    """Shares out shards so that all processes have about as many images, and each makes the same number of steps.

    No step of the first process is one of fillers alone.

    Args:
        rows: (S,) images in each shard.
        batch_size: Images of a batch in one process.
        processes: Number of processes.
        workers: Of each process.
        is_filled: Whether the steps of all are made equal.
    """
    shares = [_share_out(own, rows, workers) for own in _share_out(list(range(len(rows))), rows, processes)]
    plans = [Plan(share, [-(-int(rows[own].sum()) // batch_size) for own in share]) for share in shares]
    plans.sort(key=lambda plan: -plan.steps)
    for plan in plans if is_filled else ():
        plan.batches[int(np.argmax(plan.batches))] += plans[0].steps - plan.steps
    return plans


def _share_out(shards: list[int], rows: np.ndarray, parts: int) -> list[list[int]]:
    """The largest shard first, each to the part that has least so far."""
    shares: list[list[int]] = [[] for _ in range(parts)]
    loads = [(0, part) for part in range(parts)]
    for shard in sorted(shards, key=lambda shard: (-int(rows[shard]), shard)):
        load, part = heapq.heappop(loads)
        shares[part].append(shard)
        heapq.heappush(loads, (load + int(rows[shard]), part))
    return [sorted(share) for share in shares]


class StreamedImages(IterableDataset[Sample | StreamError]):
    """The images of one process, read, shuffled and transformed by its workers.

    The shards of a worker are read one after the other in an order that each epoch has for itself. Windows of
    ``buffer_size`` images that follow each other are shuffled within themselves, so that a position in the epoch tells
    all of the state. While one window is handed out the next one is read, image for image.

    Where a worker's own images end within its last batch, or before the other processes' do, images of its last window
    fill up what lacks, without labels (-1).

    Args:
        shards: All of the split.
        class_names: The K names.
        plan: What this process reads.
        transform: From a PIL image to a (3, H, W) tensor.
        batch_size: Images of a batch.
        buffer_size: Images of a window; 1 reads in order.
        rank: Of this process.
        seed: Seeds the order and the transform.
        is_random: Whether the transform draws random numbers.
        is_filled: Whether batches are filled up; otherwise the last ones are short.
        is_clean: Whether the given labels are known to be right.
        on_broken: ``"error"``, or ``"skip"``, which takes the label from an image that can't be decoded.
    """

    def __init__(
        self,
        shards: Shards,
        class_names: list[str],
        plan: Plan,
        transform: Transform,
        batch_size: int,
        buffer_size: int = 1,
        rank: int = 0,
        seed: int = 0,
        is_random: bool = False,
        is_filled: bool = True,
        is_clean: bool = False,
        on_broken: str = "error",
    ) -> None:
        self.shards = shards
        self.number = LabelNumbers(class_names, shards.layout)
        self.plan = plan
        self.transform = transform
        self.batch_size = batch_size
        self.buffer_size = buffer_size
        self.rank = rank
        self.seed = seed
        self.is_random = is_random
        self.is_filled = is_filled
        self.is_clean = is_clean
        self.on_broken = on_broken
        self.first_rows = np.cumsum(shards.rows) - shards.rows
        self.epoch = 0
        self.steps_done = 0
        self._broken_images = 0

    @property
    def has_clean_labels(self) -> bool:
        """Whether clean labels come with the images."""
        return self.is_clean or self.shards.layout.clean_label is not None

    def set_epoch(self, epoch: int) -> None:
        """Goes to an epoch; how far it had come in another one is forgotten."""
        if epoch != self.epoch:
            self.steps_done = 0
        self.epoch = epoch

    def __iter__(self) -> Iterator[Sample | StreamError]:
        """Starts behind ``steps_done`` batches of the process."""
        info = get_worker_info()
        given, turn = self.plan.given_after(self.steps_done)
        worker = (turn + (0 if info is None else info.id)) % len(given)
        return self._samples(worker, self.epoch, given[worker] * self.batch_size)

    def collate(self, samples: list[Sample | StreamError]) -> ImageBatch | StreamError:
        """Samples -> one batch, or what was wrong."""
        whole = [sample for sample in samples if not isinstance(sample, StreamError)]
        if len(whole) < len(samples):
            return next(sample for sample in samples if isinstance(sample, StreamError))
        return collate(whole, self.has_clean_labels)

    def _samples(self, worker: int, epoch: int, start: int) -> Iterator[Sample | StreamError]:
        own = int(self.shards.rows[self.plan.shards[worker]].sum())
        end = self.plan.batches[worker] * self.batch_size if self.is_filled else own
        if own == 0:
            yield from repeat(self._blank("", epoch), end - start)
            return
        try:
            for position, row in enumerate(islice(self._shuffled_rows(worker, epoch, start), end - start), start):
                sample = self._sample(row, epoch)
                is_filler = position >= own
                yield sample._replace(noisy_label=NO_LABEL, clean_label=NO_LABEL) if is_filler else sample
        except StreamError as error:
            yield error  # raised in a worker, it would come with the worker's traceback for a message

    def _shuffled_rows(self, worker: int, epoch: int, start: int) -> Iterator["_Row"]:
        """The worker's rows from a position in the epoch on; then those of its last window again, without end."""
        size, own = self.buffer_size, int(self.shards.rows[self.plan.shards[worker]].sum())
        first = min(start, own - 1) // size
        skip = start - first * size
        rows = self._rows(worker, epoch, first * size)
        following: list[_Row | None] = list(islice(rows, size))
        window: list[Any] = []
        for number in count(first):
            if not following:
                break
            window, following = following, []
            order = np.random.default_rng([self.seed, epoch, self.rank, worker, number]).permutation(len(window))
            for place in order[skip:].tolist():
                row = window[place]
                following.extend(islice(rows, 1))
                if following:  # the last window is kept
                    window[place] = None
                yield row
            following.extend(islice(rows, size - len(following)))
            skip = max(skip - len(window), 0)
        for turn in count(skip):
            yield window[turn % len(window)]

    def _rows(self, worker: int, epoch: int, skip: int) -> Iterator["_Row"]:
        """The worker's rows, shard after shard."""
        own = np.asarray(self.plan.shards[worker], dtype=np.int64)
        if self.buffer_size > 1:
            own = np.random.default_rng([self.seed, epoch, self.rank, worker]).permutation(own)
        for shard in own.tolist():
            rows = int(self.shards.rows[shard])
            if skip < rows:
                yield from self._rows_of_shard(shard, rows, skip)
            skip = max(skip - rows, 0)

    def _rows_of_shard(self, shard: int, rows: int, skip: int) -> Iterator["_Row"]:
        url, read = self.shards.urls[shard], skip
        where = f"The shard {shard_name(url)!r} of {self.shards.where!r}"
        try:
            for content in read_rows(url, self.shards.layout, skip):
                if read == rows:
                    read += 1
                    break
                yield _Row(shard, read, content)
                read += 1
        except Exception as error:  # file systems, the network and decoders raise many kinds
            raise StreamError(f"{where} can't be read after image {read}: {first_line(error)}") from error
        if read != rows:
            raise StreamError(
                f"{where} does not hold the {rows} images that were counted before. Correct {SIZES_FILE!r} where there "
                "is one, and leave shards alone while they are read."
            )

    def _sample(self, row: "_Row", epoch: int) -> Sample:
        layout, place = self.shards.layout, row.place(self.shards)
        try:
            noisy_label = self.number(plain_label(layout.label.of(row.content)), place)
            clean_label = None if layout.clean_label is None else plain_label(layout.clean_label.of(row.content))
            clean = NO_LABEL if clean_label is None else self.number(clean_label, place)
        except ValueError as error:
            raise StreamError(str(error)) from error
        try:
            image = decode_value(row.content[layout.image])
        except Exception as error:  # decoders raise many kinds, and each of them means a broken image
            return self._broken(place, epoch, error)
        pixels = self._transformed(image, epoch, int(self.first_rows[row.shard]) + row.number)
        name = None if layout.id is None else layout.id.of(row.content)
        clean = noisy_label if self.is_clean else clean
        return Sample(pixels, noisy_label, clean, place if name is None else str(name))

    def _transformed(self, image: Image.Image, epoch: int, index: int) -> Tensor:
        if not self.is_random:
            return self.transform(image)
        with draws_seeded_by(self.seed, epoch, index):
            return self.transform(image)

    def _blank(self, name: str, epoch: int) -> Sample:
        return Sample(self._transformed(Image.new("RGB", (64, 64)), epoch, 0), NO_LABEL, NO_LABEL, name)

    def _broken(self, place: str, epoch: int, error: Exception) -> Sample:
        why = str(error).partition(" <_io")[0].rstrip(".")  # Pillow names the bytes by where they lie in memory
        message = f"The image {place!r} of {self.shards.where!r} can't be decoded: {why}."
        if self.on_broken == "error":
            raise StreamError(
                f"{message} Repair it, or leave such images out by `on_broken: skip` (`--data.on_broken skip`)."
            ) from error
        self._broken_images += 1
        if self._broken_images <= WARNINGS:
            more = " Further ones are left out silently." if self._broken_images == WARNINGS else ""
            warnings.warn(f"{message} It is left out.{more}", stacklevel=2)
        return self._blank(place, epoch)


class _Row(NamedTuple):
    """A row as a shard has it, and where."""

    shard: int
    number: int
    content: dict[str, Any]

    def place(self, shards: Shards) -> str:
        name, key = shard_name(shards.urls[self.shard]), self.content.get(KEY)
        return f"{name}#{self.number}" if key is None else f"{name}/{key}"


class StreamLoader:
    """Batches of a stream; it knows its length, and resumes in the middle of an epoch.

    A position is the number of steps alone, which is the same in all processes: the checkpoint that the first one
    writes serves all of them.

    Args:
        images: What to read.
        num_workers: Processes that read; their number is that of the plan, or 0.
        processes: Number of processes that train together.
        **options: Of :class:`~torch.utils.data.DataLoader`.
    """

    def __init__(self, images: StreamedImages, num_workers: int, processes: int = 1, **options: Any) -> None:
        self.images = images  # a `dataset` that can be iterated over would make Lightning doubt the length
        self.sampler = images  # Lightning tells a sampler the epoch
        self.batch_sampler = None  # and looks at this one too
        self.num_workers = num_workers
        self.processes = processes
        self.options = options
        self._steps_done = 0

    def __len__(self) -> int:
        return self.images.plan.steps

    def __iter__(self) -> Iterator[ImageBatch]:
        # A generator: workers start when the first batch is asked for, after Lightning has set the epoch.
        images = self.images
        self._steps_done = images.steps_done
        if self._steps_done >= len(self):
            images.steps_done = 0
            return
        close_connections(images.shards.urls)
        batches = iter(
            DataLoader(
                images,
                batch_size=images.batch_size,
                num_workers=self.num_workers,
                collate_fn=images.collate,
                # Of its own, so that making an iterator does not draw from the global one.
                generator=torch.Generator().manual_seed(images.seed),
                **self.options,
            )
        )
        images.steps_done = 0
        for batch in batches:
            if isinstance(batch, StreamError):
                # A new one: `batch` would hold the error, which holds this frame, and so the workers would stay.
                raise StreamError(str(batch))
            self._steps_done += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch, the steps of it that were made, and what must be the same when they resume."""
        return {
            "epoch": self.images.epoch,
            "steps_done": self._steps_done,
            "steps": len(self),
            "processes": self.processes,
            "num_workers": len(self.images.plan.shards),
            "batch_size": self.images.batch_size,
            "buffer_size": self.images.buffer_size,
            "images": len(self.images.shards),
            "shards": len(self.images.shards.urls),
        }

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """The next iteration resumes after the steps that were made.

        Raises:
            ValueError: If that is in the middle of an epoch and something is not as it was.
        """
        is_over = state_dict["steps_done"] >= state_dict["steps"]
        now = self.state_dict()
        for name in ("processes", "num_workers", "batch_size", "buffer_size", "shards", "images"):
            if not is_over and now[name] != state_dict[name]:
                raise ValueError(
                    f"Expected a training that resumes in the middle of an epoch to have the same `{name}` as before, "
                    f"{state_dict[name]}, but got {now[name]}. Set it back, or resume from a checkpoint that was "
                    "written at the end of an epoch."
                )
        self.images.set_epoch(state_dict["epoch"])
        self.images.steps_done = self._steps_done = len(self) if is_over else state_dict["steps_done"]
