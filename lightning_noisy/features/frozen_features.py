"""A frozen backbone looks at each image once, and the head trains on what it saw."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pyarrow as pa
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_noisy import models
from lightning_noisy.data import NoisyImageDataModule
from lightning_noisy.features import Features
from lightning_noisy.features.extract import FeatureModule, extract_within_fit, input_size
from lightning_noisy.inference.images import unique_over_splits
from lightning_noisy.models.features import FeatureExtractor
from lightning_noisy.training.classifier import NoisyImageClassifier

DEFAULT_FOLDER = "features"
TOLERANCE = 1e-3
"""By how much logits from features may differ from those of images, relative to the largest."""


class FrozenFeatures(L.Callback):
    """Makes a linear probe some twenty times as fast where images are the same in every epoch.

    Before a fit the frozen backbone looks at all images once; what it saw is kept in half precision, and the training
    and the validation of the fit see that. The weights, the checkpoints and everything after the fit are those of the
    whole model. A fit that resumes from a checkpoint finds the features where they were; those of other images or of
    another backbone are made anew. Where the backbone is not frozen, or images change from epoch to epoch, it says so
    and does nothing.

    Args:
        directory: Where to keep them; by default ``features`` in the Trainer's ``default_root_dir``.
    """

    def __init__(self, directory: str | None = None) -> None:
        self.directory = directory

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """The data module has been set up before."""
        if stage != "fit":
            return
        datamodule = getattr(trainer, "datamodule", None)
        reason = _why_not(trainer, pl_module, datamodule)
        if reason:
            rank_zero_info(f"The backbone looks at the images in every epoch: {reason}.")
            return
        assert isinstance(pl_module, NoisyImageClassifier) and isinstance(datamodule, NoisyImageDataModule)
        where = pl_module.device
        training = pl_module.backbone.training
        extractor = FeatureExtractor(pl_module.backbone)
        module = FeatureModule(extractor).to(trainer.strategy.root_device)  # in eval mode
        folder = Path(self.directory or Path(trainer.default_root_dir) / DEFAULT_FOLDER).expanduser()
        try:
            size = input_size(module, datamodule)
            if not _head_gives_the_logits(extractor, size):
                rank_zero_info("The backbone looks at the images in every epoch: its last layer alone gives no logits.")
                return
            features = extract_within_fit(module, datamodule, folder, trainer)
        finally:
            pl_module.backbone.to(where).train(training)
        datamodule.give_features(features.values, _rows_of_splits(features, datamodule))
        pl_module.head_name = extractor.head_name


def _why_not(trainer: L.Trainer, pl_module: L.LightningModule, datamodule: Any) -> str:
    if not isinstance(pl_module, NoisyImageClassifier) or not isinstance(datamodule, NoisyImageDataModule):
        return "features are kept for NoisyImageClassifier with NoisyImageDataModule alone"
    if trainer.overfit_batches:  # type: ignore[attr-defined]
        return "`overfit_batches` is set"
    if datamodule.is_augmented:
        return "the training images are augmented (`data.augmentation` is not `{no_aug: true}`)"
    if pl_module.mix.mixer is not None:
        return "images are mixed (`mixup`, `cutmix`)"
    try:
        head = FeatureExtractor(pl_module.backbone).head_name
    except ValueError:
        return "the backbone ends in no linear layer"
    trained = [name for name, parameter in pl_module.backbone.named_parameters() if parameter.requires_grad]
    if any(not name.startswith(f"{head}.") for name in trained):
        return "more than the last layer of the backbone is trained (`trainable_blocks` is not 0)"
    return ""


def _rows_of_splits(features: Features, datamodule: NoisyImageDataModule) -> dict[str, np.ndarray]:
    """Where the features of each split's images are. Two splits may have images of the same id, which the table does
    not: there they are told apart as in the audit."""
    rows = {}
    for split, images in unique_over_splits(datamodule.splits).items():
        readable = pa.array(datamodule.readable(split))
        rows[split] = features.rows_of(images.ids.take(readable))
    return rows


@torch.no_grad()
def _head_gives_the_logits(extractor: FeatureExtractor, size: tuple[int, ...]) -> bool:
    """Whether nothing comes after the last layer, tried with two images of noise."""
    parameter = next(extractor.parameters())
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, *size, generator=generator).to(parameter.device, parameter.dtype)
    expected: Tensor = models.clean_logits(extractor.model, images)
    found = extractor.model.get_submodule(extractor.head_name)(extractor(images))
    close = TOLERANCE * float(expected.abs().max().clamp_min(1e-6))
    return found.shape == expected.shape and float((found - expected).abs().max()) <= close
