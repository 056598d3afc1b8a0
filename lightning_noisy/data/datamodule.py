"""A LightningDataModule for images with partly wrong labels."""

import copy
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as L
import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_noisy.data.arguments import check_clean_splits, check_datamodule_arguments, check_on_empty_class
from lightning_noisy.data.broken_images import ImageScan, leave_out_broken, scan_images
from lightning_noisy.data.class_labels import (
    check_every_class_has_images,
    count_checked_labels,
    find_class_names,
    leave_out_empty_classes,
    number_labels,
    training_weights,
    transition_matrix_from,
    wrong_share,
)
from lightning_noisy.data.description import arguments_of, describe
from lightning_noisy.data.findings import FINDINGS_FILE, collect_findings, show_findings, write_findings
from lightning_noisy.data.labelled_images import LabelledImages
from lightning_noisy.data.loader import (
    EpochSampler,
    FeatureDataset,
    ImageDataset,
    ResumableLoader,
    evaluation_loader,
    world,
)
from lightning_noisy.data.readers.base import Columns, RawSplit
from lightning_noisy.data.readers.registry import read_other_source, read_source
from lightning_noisy.data.similar_classes import merge_similar_classes, warn_of_similar_classes
from lightning_noisy.data.transforms import check_augmentation, data_config_for, make_transform
from lightning_noisy.noise.synthetic import corrupt_labels, transition_matrix_from_spec

PLAIN_SOURCES = ("digits", "idx:")
"""Sources whose images are numbers in grey: they are not flipped, cropped or recoloured unless asked for."""


class NoisyImageDataModule(L.LightningDataModule):
    """Images and their given labels, from wherever they lie.

    Args:
        source: ``"digits"``; a folder with a folder for each class (or ``train/``, ``val/``, ``test/`` with such
            folders inside, or a ``metadata`` file of the imagefolder form of ``datasets``); a manifest file (.csv,
            .tsv, .jsonl, .parquet; with a ``split`` column or without); ``"hub:NAME"`` of a ``datasets`` data set, or
            ``"hub:DIR"``; ``"idx:DIR"`` with MNIST-style files; a data set as its publishers lay it out:
            ``"clothing1m:DIR"``, ``"food101n:DIR"`` (its test images are ``test_source="food101:DIR"``),
            ``"webvision:DIR"`` or its first 50 classes from Google ``"mini-webvision:DIR"``, ``"animal10n:DIR"``.
        label_column: Of a table; guessed by the usual names.
        clean_label_column: Column of checked labels, for evaluation only; may be empty in some rows.
        id_column: Column of stable ids; the path or the row number by default.
        image_column: Column of paths or images; guessed by the usual names.
        split_column: Column that says train, val or test; ``split`` where there is one.
        weight_column: Column of what each image weighs in the training loss; ``label_weight`` where there is one.
        class_names: All classes, in order; read from the data by default. Labels that are numbers are positions in it,
            unless a class is called by a number.
        merge_similar_classes: Makes one class of those whose names differ by case, spaces or Unicode form alone; by
            default a warning names them.
        val_source: Another source for validation.
        test_source: Another source for testing.
        val_fraction: Share of the training images held out for validation where there is no other source, class by
            class.
        clean_splits: The splits (``"val"``, ``"test"``) whose given labels were checked by hand.
        noise: Corrupts the labels of training and validation: ``"uniform:0.4"`` (the paper's sense),
            ``"nonuniform:0.4"``, ``"pair:0.2"`` or ``"matrix:PATH"``; the given labels are kept as clean ones.
        image_size: Side of the images in pixels; the backbone's own by default.
        batch_size: Images in a step of one process.
        num_workers: Processes that read images; by default up to 4, and none for images that are in memory.
        augmentation: Changes to the backbone's training transform, by the names of ``timm.data.create_transform``:
            ``{"no_aug": true}``, ``{"hflip": 0.0, "scale": [0.5, 1.0]}``, ``{"auto_augment": "rand-m9-mstd0.5"}``.
        on_broken: ``"error"`` stops at the start when an image can't be decoded, ``"skip"`` leaves it out and lists it.
        on_empty_class: ``"error"`` stops where a class has no training image, ``"skip"`` leaves it out with a warning.
        max_train_images: Trains on so many images, drawn class by class.
        seed: Seeds the hold-out, the noise, the order and the augmentation.

    Raises:
        ValueError: If an argument is wrong; wrong data are found at the first look at :attr:`splits`.
    """

    def __init__(
        self,
        source: str,
        label_column: str | None = None,
        clean_label_column: str | None = None,
        id_column: str | None = None,
        image_column: str | None = None,
        split_column: str | None = None,
        weight_column: str | None = None,
        class_names: list[str] | None = None,
        val_source: str | None = None,
        test_source: str | None = None,
        val_fraction: float = 0.1,
        clean_splits: list[Literal["val", "test"]] | None = None,
        noise: str | None = None,
        image_size: int | None = None,
        batch_size: int = 64,
        num_workers: int | None = None,
        augmentation: dict[str, Any] | None = None,
        on_broken: Literal["error", "skip"] = "error",
        max_train_images: int | None = None,
        seed: int = 0,
        merge_similar_classes: bool = False,
        on_empty_class: Literal["error", "skip"] = "error",
    ) -> None:
        super().__init__()
        check_datamodule_arguments(val_fraction, batch_size, num_workers, on_broken, max_train_images, image_size)
        check_clean_splits(clean_splits)
        check_on_empty_class(on_empty_class)
        check_augmentation(augmentation or {})
        self.source = str(source)
        self.columns = Columns(
            image_column, label_column, clean_label_column, id_column, split_column, weight=weight_column
        )
        self.given_class_names = class_names
        self.other_sources = {"val": val_source, "test": test_source}
        self.val_fraction = val_fraction
        self.clean_splits = tuple(clean_splits or ())
        self.noise = noise
        self.image_size = image_size
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.augmentation = dict(augmentation or {})
        self.on_broken = on_broken
        self.max_train_images = max_train_images
        self.seed = seed
        self.merge_similar_classes = merge_similar_classes
        self.on_empty_class = on_empty_class
        self._is_told = False
        self._not_read: dict[str, dict[str, tuple[int, str]]] = {}
        self._datasets: dict[str, ImageDataset] = {}
        self._train_loader: ResumableLoader | None = None
        self._loader_state: dict[str, int] | None = None

    @cached_property
    def splits(self) -> dict[str, LabelledImages]:
        """``train`` and, where there are any images for it, ``val`` and ``test``."""
        raw = read_source(self.source, self.columns, self.seed, on_empty_class=self.on_empty_class)
        for split, source in self.other_sources.items():
            if source is not None:
                raw[split] = read_other_source(split, source, self.columns, self.seed, self.on_empty_class)
        self._not_read = {split: part.not_read for split, part in raw.items()}
        if self.merge_similar_classes:
            raw = merge_similar_classes(raw, self.given_class_names)
        splits = self._numbered(raw)
        if self.noise is not None:
            matrix = transition_matrix_from_spec(self.noise, len(splits["train"].class_names), self.seed)
            for offset, split in enumerate(("train", "val")):
                if split in splits:
                    images = splits[split]
                    images.noisy_labels[:] = corrupt_labels(images.clean_labels, matrix, self.seed + offset)
        if "val" not in splits and self.val_fraction > 0:
            held_out = _draw_by_class(splits["train"].noisy_labels, self.val_fraction, self.seed)
            splits["val"] = splits["train"].select(np.flatnonzero(held_out))
            splits["train"] = splits["train"].select(np.flatnonzero(~held_out))
        if self.max_train_images is not None and self.max_train_images < len(splits["train"]):
            share = self.max_train_images / len(splits["train"])
            drawn = _draw_by_class(splits["train"].noisy_labels, share, self.seed)
            splits["train"] = splits["train"].select(np.flatnonzero(drawn))
        return {split: images for split, images in splits.items() if len(images)}

    def _numbered(self, raw: dict[str, RawSplit]) -> dict[str, LabelledImages]:
        names = find_class_names(raw["train"], self.given_class_names)
        splits = {
            split: number_labels(part, names, split in self.clean_splits or self.noise is not None, split)
            for split, part in raw.items()
        }
        splits["train"] = replace(splits["train"], weights=training_weights(raw["train"]))
        counts = _label_counts(splits["train"])
        if self.given_class_names is None:
            warn_of_similar_classes(dict(zip(names, counts.tolist(), strict=True)), raw["train"].where)
        if self.on_empty_class == "skip":
            return leave_out_empty_classes(splits, raw["train"].where)
        skip = "`on_empty_class: skip` (`--data.on_empty_class skip`)"
        remedy = f"Add some, leave it out of `class_names`, or set {skip}."
        check_every_class_has_images(counts, names, raw["train"].where, remedy)
        return splits

    @property
    def class_names(self) -> list[str]:
        """The K names."""
        return self.splits["train"].class_names

    @property
    def num_classes(self) -> int:
        """Number of classes ``K``."""
        return len(self.class_names)

    @property
    def class_counts(self) -> np.ndarray:
        """(K,) how many training images carry each label."""
        return _label_counts(self.splits["train"])

    @property
    def transition_matrix(self) -> Tensor | None:
        """(K, K) the true matrix: of the synthetic noise, or counted where every class has clean labels; else None.

        Clean labels that do nothing but confirm some of the given ones tell nothing of the others and are not counted.
        """
        if self.noise is not None:
            return transition_matrix_from_spec(self.noise, self.num_classes, self.seed)
        return transition_matrix_from(self._count_checked_labels())

    @property
    def label_noise_rate(self) -> float | None:
        """Share of the training labels that are wrong, among those whose clean label is known; ``None`` if none is.

        ``None`` also where clean labels do nothing but confirm some of the given ones.
        """
        return wrong_share(self._count_checked_labels())

    def describe(self) -> dict[str, Any]:
        """Name and numbers, for records and cards: see :func:`~lightning_noisy.data.description.describe`."""
        return describe(self)

    def arguments(self) -> dict[str, Any]:
        """What gives the same images again: see :func:`~lightning_noisy.data.description.arguments_of`."""
        return arguments_of(self)

    def prepare_data(self) -> None:
        """Looks at every image once (cached), so that ``setup`` knows the broken ones."""
        for split, images in self.splits.items():
            scan_images(images, split)

    def setup(self, stage: str) -> None:
        """Leaves out or refuses broken images and builds the transforms from the backbone's own data config.

        Before a fit it tells once what the look at all images has found: a table, where the progress bar is on, and
        ``data_scan.json`` beside the logs.

        Raises:
            ValueError: If an image is broken and ``on_broken`` is ``"error"``.
        """
        if not self._datasets:
            scans = {split: scan_images(images, split) for split, images in self.splits.items()}
            splits = leave_out_broken(self.splits, scans, self.source, self.on_broken, self.trainer)
            if stage == "fit" and not self._is_told:
                self._tell_findings(scans)
            config = data_config_for(self.trainer, self.image_size)
            for split, images in splits.items():
                augmentation = self._augmentation if split == "train" else None
                self._datasets[split] = ImageDataset(images, make_transform(config, augmentation), self.seed)
            self.evaluation_transform = make_transform(config, None)

    def _tell_findings(self, scans: dict[str, ImageScan]) -> None:
        self._is_told = True
        trainer: Any = self.trainer
        log_dir = trainer.log_dir if trainer is not None and trainer.loggers else None  # asks all processes
        if trainer is not None and (not trainer.is_global_zero or trainer.fast_dev_run):
            return
        findings = collect_findings(self.splits, scans, self.source, self._not_read)
        file = None if log_dir is None else Path(log_dir) / FINDINGS_FILE
        if file is not None:
            write_findings(findings, file)
        if trainer is None or trainer.progress_bar_callback is not None:
            show_findings(findings, Console(), file)

    def train_dataloader(self) -> DataLoader:
        dataset = self._datasets["train"]
        if self._overfits:  # the same few images in each epoch
            return self._eval_loader(dataset)
        replicas, rank = world()
        sampler = EpochSampler(dataset, replicas, rank, self.seed, with_epoch=self.is_augmented)
        left_over = len(sampler) % self.batch_size
        # Batch norm can't train on a single image.
        drop_last = left_over == 1 and len(sampler) > self.batch_size
        loader = ResumableLoader(dataset, sampler, self.batch_size, drop_last=drop_last, **self.loader_options())
        if self._loader_state is not None:
            loader.load_state_dict(self._loader_state)
            self._loader_state = None
        self._train_loader = loader
        return loader

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        return self._eval_loader(self._datasets["val"]) if "val" in self._datasets else []

    def test_dataloader(self) -> DataLoader:
        """Raises a :class:`ValueError` where the data have no test images."""
        if "test" not in self._datasets:
            raise ValueError(
                f"Expected test images, but {self.source!r} has no test split. Give `test_source`, a `test/` folder or "
                "a split column that says test."
            )
        return self._eval_loader(self._datasets["test"])

    def predict_dataloader(self) -> DataLoader:
        """The training images in order, not augmented."""
        dataset = ImageDataset(self._datasets["train"].images, self.evaluation_transform, self.seed)
        # Lightning shares these out among the ranks itself, without repeating one.
        return DataLoader(dataset, batch_size=self.batch_size, collate_fn=dataset.collate, **self.loader_options())

    @property
    def is_augmented(self) -> bool:
        """Whether the training images change from epoch to epoch."""
        return not self._augmentation.get("no_aug", False)

    def give_features(self, features: Tensor, rows: Mapping[str, np.ndarray]) -> None:
        """From now on a fit gets what a frozen backbone saw in place of the images; :meth:`setup` has been there.

        Args:
            features: (N, D), mapped from a file if need be.
            rows: By split, the (M,) rows of its images; of those that :meth:`readable` gives, in their order.
        """
        for split in ("train", "val"):
            if split in self._datasets:
                images = self._datasets[split].images
                self._datasets[split] = FeatureDataset(images, features, rows[split], self.seed)

    def give_soft_labels(self, soft_labels: np.ndarray) -> None:
        """From now on the training images carry these labels beside the given ones; :meth:`setup` has been there.

        Args:
            soft_labels: (M, K), of the images that :meth:`readable` gives, in their order; rows sum to one.
        """
        dataset = self._datasets["train"]
        dataset.images = replace(dataset.images, soft_labels=soft_labels)

    def readable(self, split: str) -> np.ndarray:
        """(M,) which images of a split :meth:`setup` has not left out."""
        kept = self._datasets[split].images.rows if split in self._datasets else np.zeros(0, dtype=np.int64)
        return np.flatnonzero(np.isin(self.splits[split].rows, kept))

    def with_splits(self, splits: dict[str, LabelledImages]) -> "NoisyImageDataModule":
        """The same data module with other images in its splits."""
        other = copy.copy(self)
        other.__dict__["splits"] = splits
        other._is_told = True
        other._datasets, other._train_loader, other._loader_state, other.trainer = {}, None, None, None
        return other

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

    def _count_checked_labels(self) -> np.ndarray | None:
        train = self.splits["train"]
        return count_checked_labels(train.clean_labels, train.noisy_labels, self.num_classes)

    @property
    def _augmentation(self) -> dict[str, Any]:
        return {"no_aug": self.source.startswith(PLAIN_SOURCES) and not self.augmentation, **self.augmentation}

    @property
    def _overfits(self) -> bool:
        return bool(getattr(self.trainer, "overfit_batches", 0))

    def _eval_loader(self, dataset: ImageDataset) -> DataLoader:
        if self._overfits:  # Lightning knows but torch's own order as one, and shares it out among the ranks itself
            return DataLoader(dataset, self.batch_size, collate_fn=dataset.collate, **self.loader_options())
        return evaluation_loader(dataset, self.batch_size, **self.loader_options())

    def loader_options(self) -> dict[str, Any]:
        """Of each :class:`~torch.utils.data.DataLoader`: workers, pinned memory."""
        workers = self.num_workers
        if workers is None:
            workers = min(4, os.cpu_count() or 1) if self.splits["train"].store.needs_scan else 0
        return {
            "num_workers": workers,
            "pin_memory": torch.cuda.is_available(),
            "persistent_workers": workers > 0,
            # Of its own, so that making an iterator does not draw from the global one.
            "generator": torch.Generator().manual_seed(self.seed),
        }


def _label_counts(images: LabelledImages) -> np.ndarray:
    return np.bincount(images.noisy_labels, minlength=len(images.class_names))


def _draw_by_class(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """(N,) bool: a share of each class, drawn at random; always leaves at least one image on the other side."""
    generator = np.random.default_rng(seed)
    drawn = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        drawn[rows[: min(round(share * len(rows)), len(rows) - 1)]] = True
    return drawn
