"""A LightningDataModule for more images than the disk holds: shards that are read from front to back."""

import os
from collections.abc import Sized
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_noisy.data.arguments import check_at_least, check_clean_splits, check_on_broken
from lightning_noisy.data.broken_images import leave_out_broken, scan_images
from lightning_noisy.data.class_labels import (
    check_every_class_has_images,
    count_checked_labels,
    number_labels,
    transition_matrix_from,
    wrong_share,
)
from lightning_noisy.data.description import describe
from lightning_noisy.data.labelled_images import LabelledImages
from lightning_noisy.data.loader import ImageDataset, evaluation_loader, world
from lightning_noisy.data.readers.base import Columns
from lightning_noisy.data.readers.registry import read_other_source
from lightning_noisy.data.similar_classes import warn_of_similar_classes
from lightning_noisy.data.transforms import check_augmentation, data_config_for, make_transform
from lightning_noisy.streaming.counts import Shards, count_pairs, find_shard_classes, scan_shards
from lightning_noisy.streaming.dataset import StreamedImages, StreamLoader, plan_stream
from lightning_noisy.streaming.find import find_shards, names_shards


class StreamingImageDataModule(L.LightningDataModule):
    """Images and their given labels out of shards, Parquet files or a WebDataset, that need not lie on this disk.

    Each process and each of its workers has shards of its own, the same in every epoch; their order changes, and
    windows of ``buffer_size`` images are shuffled. Every image is read once in an epoch, all processes make the same
    number of steps, and what lacks for that is filled up by images without labels, which nothing counts. Memory grows
    neither with the number of the images nor, but for their names, with that of the shards: a worker holds
    ``buffer_size`` undecoded images, and one row group of a Parquet file.

    Args:
        source: Shards (.parquet or .tar) by a folder, a glob, a URL (``https://``, ``s3://`` and others that
            ``fsspec`` knows), in which ``{000..099}`` stands for these numbers, or ``"hub:NAME"``, whose other splits
            are validation and test. Remote .tar files need a ``sizes.json`` beside them, and ``class_names``.
        label_column: Of a table, or the member of a sample: ``cls``, or ``json.label`` for a key in its ``json``;
            guessed by the usual names.
        clean_label_column: That of checked labels, for evaluation only; may be empty for some images.
        id_column: That of stable ids; the shard and the sample's key or the row's number by default.
        image_column: That of the images, undecoded; guessed.
        class_names: All classes, in order; read from the shards by default.
        val_source: Images for validation: shards too, or a source of
            :class:`~lightning_noisy.NoisyImageDataModule` (a folder, a manifest, …).
        test_source: The same for testing.
        clean_splits: The splits (``"val"``, ``"test"``) whose given labels were checked by hand.
        image_size: Side of the images in pixels; the backbone's own by default.
        batch_size: Images in a step of one process.
        buffer_size: Images of a window that is shuffled; each worker holds as many.
        num_workers: Processes that read images for each training process; each needs a shard of its own. By default up
            to 4.
        augmentation: Changes to the backbone's training transform, by the names of ``timm.data.create_transform``.
        on_broken: ``"error"`` stops at an image that can't be decoded, ``"skip"`` leaves it out with a warning.
        seed: Seeds the order and the augmentation.

    Raises:
        ValueError: If an argument is wrong; wrong data are found at the first look at :attr:`splits`.
    """

    noise = None

    def __init__(
        self,
        source: str,
        label_column: str | None = None,
        clean_label_column: str | None = None,
        id_column: str | None = None,
        image_column: str | None = None,
        class_names: list[str] | None = None,
        val_source: str | None = None,
        test_source: str | None = None,
        clean_splits: list[Literal["val", "test"]] | None = None,
        image_size: int | None = None,
        batch_size: int = 64,
        buffer_size: int = 1000,
        num_workers: int | None = None,
        augmentation: dict[str, Any] | None = None,
        on_broken: Literal["error", "skip"] = "error",
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_on_broken(on_broken)
        check_clean_splits(clean_splits)
        check_augmentation(augmentation or {})
        check_at_least("batch_size", batch_size, 1)
        check_at_least("buffer_size", buffer_size, 2)
        check_at_least("num_workers", num_workers, 0)
        check_at_least("image_size", image_size, 1)
        self.source = str(source)
        self.columns = Columns(image_column, label_column, clean_label_column, id_column)
        self.given_class_names = class_names
        self.other_sources = {"val": val_source, "test": test_source}
        self.clean_splits = tuple(clean_splits or ())
        self.image_size = image_size
        self.batch_size = batch_size
        self.buffer_size = buffer_size
        self.num_workers = num_workers
        self.augmentation = dict(augmentation or {})
        self.on_broken = on_broken
        self.seed = seed
        self._readable: dict[str, Any] = {}
        self._train_loader: StreamLoader | None = None
        self._loader_state: dict[str, int] | None = None

    @cached_property
    def train_shards(self) -> Shards:
        """What is read in training."""
        found = self._found
        if "train" not in found:
            raise ValueError(f"Expected {self.source!r} to have a split named 'train', but got {sorted(found)}.")
        return scan_shards(found["train"], self.columns, self.source)

    @cached_property
    def class_names(self) -> list[str]:
        """The K names."""
        names = find_shard_classes(self.train_shards, self.given_class_names)
        pairs = count_pairs(self.train_shards, names)
        if pairs is not None:
            counts = np.bincount(pairs[0], weights=pairs[2], minlength=len(names))
            if self.given_class_names is None:
                counted = dict(zip(names, counts.astype(int).tolist(), strict=True))
                warn_of_similar_classes(counted, self.source, "write one name of each into the shards")
            check_every_class_has_images(counts, names, self.source)
        return names

    @property
    def num_classes(self) -> int:
        """Number of classes ``K``."""
        return len(self.class_names)

    @cached_property
    def splits(self) -> dict[str, Sized]:
        """``train`` and, where there are any images for it, ``val`` and ``test``; each has a length."""
        splits: dict[str, Sized] = {"train": self.train_shards}
        for split, source in self.other_sources.items():
            if source is None and split in self._found:
                splits[split] = scan_shards(self._found[split], self._other_columns, f"{self.source}, {split}")
            elif source is not None and names_shards(source):
                found = find_shards(source, f"{split}_source")
                splits[split] = scan_shards(_only(found, split, source), self._other_columns, source)
            elif source is not None:
                raw = read_other_source(split, source, self.columns, self.seed)
                splits[split] = number_labels(raw, self.class_names, split in self.clean_splits, split)
        for split, images in splits.items():
            if isinstance(images, Shards):
                count_pairs(images, self.class_names, split)
        return splits

    @property
    def class_counts(self) -> np.ndarray | None:
        """(K,) how many training images carry each label; ``None`` where only reading all of them would tell."""
        pairs = count_pairs(self.train_shards, self.class_names)
        if pairs is None:
            return None
        return np.bincount(pairs[0], weights=pairs[2], minlength=self.num_classes).astype(np.int64)

    @property
    def transition_matrix(self) -> Tensor | None:
        """(K, K) the true matrix, counted where every class has clean labels; else ``None``."""
        return transition_matrix_from(self._count_checked_labels())

    @property
    def label_noise_rate(self) -> float | None:
        """Share of the training labels that are wrong, among those whose clean label is known; ``None`` if none is."""
        return wrong_share(self._count_checked_labels())

    def describe(self) -> dict[str, Any]:
        """Name and numbers, for records and cards: see :func:`~lightning_noisy.data.description.describe`."""
        return describe(self)

    def prepare_data(self) -> None:
        """Counts what is in the shards and looks at every single image of other sources once (cached)."""
        for split, images in self.splits.items():
            if isinstance(images, LabelledImages):
                scan_images(images, split)

    def setup(self, stage: str) -> None:
        """Builds the transforms from the backbone's own data config and looks whether there are enough shards.

        Raises:
            ValueError: If there are too few, or an image of another source is broken and ``on_broken`` is ``"error"``.
        """
        if stage == "fit":
            self._train_workers()
        if not self._readable:
            config = data_config_for(self.trainer, self.image_size)
            self._train_transform = make_transform(config, self.augmentation)
            self._plain_transform = make_transform(config, None)
            single = {split: images for split, images in self.splits.items() if isinstance(images, LabelledImages)}
            looks = {split: scan_images(images, split) for split, images in single.items()}
            single = leave_out_broken(single, looks, self.source, self.on_broken, self.trainer)
            sharded = {split: images for split, images in self.splits.items() if isinstance(images, Shards)}
            self._readable = {**sharded, **single}

    def train_dataloader(self) -> StreamLoader:
        workers = self._train_workers()
        loader = self._stream(
            "train",
            workers,
            transform=self._train_transform,
            buffer_size=self.buffer_size,
            is_random=not self.augmentation.get("no_aug", False),
        )
        if self._loader_state is not None:
            loader.load_state_dict(self._loader_state)
            self._loader_state = None
        self._train_loader = loader
        return loader

    def val_dataloader(self) -> StreamLoader | DataLoader | list[DataLoader]:
        return self._eval_loader("val") if "val" in self._readable else []

    def test_dataloader(self) -> StreamLoader | DataLoader:
        """Raises a :class:`ValueError` where the data have no test images."""
        if "test" not in self._readable:
            raise ValueError(f"Expected test images, but {self.source!r} has no test split. Give `test_source`.")
        return self._eval_loader("test")

    def predict_dataloader(self) -> StreamLoader:
        """The training images, not augmented; in order, where a single process reads them."""
        return self._stream("train", min(self._train_workers(), 1), is_filled=False)

    def state_dict(self) -> dict[str, Any]:
        """How far the training loader has come, for the checkpoint."""
        return {} if self._train_loader is None else {"train_loader": self._train_loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where the checkpoint was written."""
        # Lightning restores a loader's own state too late where a scheduler has asked for the number of steps.
        state, loader = state_dict.get("train_loader"), self._train_loader
        if state and loader is getattr(self.trainer, "train_dataloader", None) and loader is not None:
            loader.load_state_dict(state)  # a sharding strategy restores when the loader is there
        else:
            self._loader_state = state

    @cached_property
    def _found(self) -> dict[str, list[str]]:
        return find_shards(self.source, "source")

    @property
    def _other_columns(self) -> Columns:
        return replace(self.columns, strict=False)

    def _count_checked_labels(self) -> np.ndarray | None:
        pairs = count_pairs(self.train_shards, self.class_names)
        if pairs is None:
            return None
        noisy_labels, clean_labels, times = pairs
        return count_checked_labels(clean_labels, noisy_labels, self.num_classes, times)

    def _train_workers(self) -> int:
        shards, (processes, _) = len(self.train_shards.urls), world()
        if shards < processes:
            raise ValueError(
                f"Expected at least as many shards as processes, {processes}, but {self.source!r} has {shards} (that "
                f"are not empty). Start at most {shards} (`trainer.devices`), or write the images into more shards."
            )
        most = shards // processes
        if self.num_workers is None:
            before = (self._loader_state or {}).get("num_workers")  # a position is one of so many workers
            return min(before or self._usual_workers(), most)
        if self.num_workers > most:
            raise ValueError(
                f"Expected argument `num_workers` to be at most {most}, since {self.source!r} has {shards} shards, "
                f"{most} for each process, and each worker needs one of its own, but got {self.num_workers}. Lower it, "
                "leave it out, or write the images into more shards."
            )
        return self.num_workers

    def _usual_workers(self) -> int:
        return min(4, os.cpu_count() or 1) if self.num_workers is None else self.num_workers

    def _eval_loader(self, split: str) -> StreamLoader | DataLoader:
        images = self._readable[split]
        workers = self._usual_workers()
        if isinstance(images, Shards):
            return self._stream(split, min(workers, max(len(images.urls) // world()[0], 1)))
        dataset = ImageDataset(images, self._plain_transform, self.seed)
        generator = torch.Generator().manual_seed(self.seed)
        return evaluation_loader(
            dataset,
            self.batch_size,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=generator,
        )

    def _stream(self, split: str, workers: int, is_filled: bool = True, **options: Any) -> StreamLoader:
        """Of a split, unless ``options`` say otherwise in order and not augmented."""
        shards, (processes, rank) = self._readable[split], world()
        plans = plan_stream(shards.rows, self.batch_size, processes, max(workers, 1), is_filled)
        dataset = StreamedImages(
            shards,
            self.class_names,
            plans[rank],
            batch_size=self.batch_size,
            rank=rank,
            seed=self.seed,
            is_filled=is_filled,
            is_clean=split in self.clean_splits,
            on_broken=self.on_broken,
            **{"transform": self._plain_transform, **options},
        )
        return StreamLoader(dataset, workers, processes, pin_memory=torch.cuda.is_available())


def _only(found: dict[str, list[str]], split: str, source: str) -> list[str]:
    if split not in found and len(found) > 1:
        raise ValueError(
            f"Expected argument `{split}_source` to name images for one split, but {source!r} has the splits "
            f"{sorted(found)} and no {split!r}."
        )
    return found.get(split) or next(iter(found.values()))
