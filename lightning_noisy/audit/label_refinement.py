"""Before a fit, what the pretrained features tell of each label; the training takes that in the labels' place."""

import hashlib
from pathlib import Path

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lightning_noisy.audit.judging.refinement import refine
from lightning_noisy.data import NoisyImageDataModule
from lightning_noisy.features import Features
from lightning_noisy.features.extract import FeatureModule, extract_within_fit
from lightning_noisy.inference import parts
from lightning_noisy.models.features import FeatureExtractor
from lightning_noisy.training.classifier import NoisyImageClassifier
from lightning_noisy.utils.atomic_files import atomic_path

REFINEMENT_FOLDER = "label_refinement"
FEATURES_FOLDER = "features"
SOFT_LABELS_FILE = "soft_labels.safetensors"
TENSOR = "soft_labels"
KEY, ERRORS, CAUTION = "key", "errors", "caution"
"""What the file says beside its tensor."""


class LabelRefinement(L.Callback):
    """Trains on what a linear probe of the pretrained features says of each label, not on the given labels.

    Before a fit the backbone, as it is at the start, looks at all training images once. A linear probe out of fold and
    the nearest images, with the noise layer fitted to both, give the probabilities of the true class of each image
    (:func:`~lightning_noisy.audit.judging.refinement.refine`). The network is trained on these, drawn to those with
    which it agrees (the loss can be below zero), and the noise layer models what noise is left in them; what is counted
    of the noise is that of the given labels. They are kept for a fit that resumes from a checkpoint. Where the features
    hardly tell the classes apart, the training is what it is without this callback.

    Args:
        directory: Where to keep features and probabilities; by default ``label_refinement`` in the Trainer's
            ``default_root_dir``.
    """

    def __init__(self, directory: str | None = None) -> None:
        self.directory = directory

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """The data module has been set up before.

        Raises:
            ValueError: If model or data are not of this package, or a class has too few images.
        """
        if stage != "fit":
            return
        datamodule = getattr(trainer, "datamodule", None)
        if not isinstance(pl_module, NoisyImageClassifier) or not isinstance(datamodule, NoisyImageDataModule):
            raise ValueError(
                "Expected LabelRefinement with NoisyImageClassifier and NoisyImageDataModule, but got "
                f"{type(pl_module).__name__} and {type(datamodule).__name__}. Leave the callback out, or correct the "
                "labels before the training by `lightning-noisy audit --backbone ...` and `lightning-noisy apply`."
            )
        folder = Path(self.directory or Path(trainer.default_root_dir) / REFINEMENT_FOLDER).expanduser()
        features = _look_once(trainer, pl_module, datamodule, folder / FEATURES_FOLDER)
        rows = features.rows_of(datamodule.splits["train"].ids)
        train = datamodule.readable("train")
        labels = torch.from_numpy(datamodule.splits["train"].noisy_labels[train])
        key = _key(features, labels, datamodule)
        if trainer.is_global_zero and _read(folder, key) is None:
            values = features.values[torch.from_numpy(rows[train])]
            _write(folder, key, values, labels, datamodule, trainer.strategy.root_device)
        parts.wait_for_first_process(lambda: _read(folder, key) is not None, folder)
        trainer.strategy.barrier()
        found = _read(folder, key)
        assert found is not None
        soft_labels, said = found
        if said[CAUTION]:
            rank_zero_warn(f"The given labels are trained on as they are: {said[CAUTION]}.")
            return
        rank_zero_info(
            f"Judging by the pretrained features, about {float(said[ERRORS]):.0%} of the {len(labels):,} training "
            "labels are wrong. The network is trained on what the features say of each label."
        )
        datamodule.give_soft_labels(soft_labels.numpy())


def _look_once(
    trainer: L.Trainer, pl_module: NoisyImageClassifier, datamodule: NoisyImageDataModule, folder: Path
) -> Features:
    where, training = pl_module.device, pl_module.backbone.training
    module = FeatureModule(FeatureExtractor(pl_module.backbone)).to(trainer.strategy.root_device)  # in eval mode
    try:
        return extract_within_fit(
            module, datamodule.with_splits({"train": datamodule.splits["train"]}), folder, trainer
        )
    finally:
        pl_module.backbone.to(where).train(training)


def _write(
    folder: Path, key: str, features: Tensor, labels: Tensor, datamodule: NoisyImageDataModule, device: torch.device
) -> None:
    """The first process judges, and writes what it finds."""
    rank_zero_info(f"Judging {len(labels):,} labels by a linear probe")
    refined = refine(features, labels, datamodule.class_names, datamodule.seed, device)
    soft_labels = torch.zeros(0, datamodule.num_classes) if refined.soft_labels is None else refined.soft_labels
    metadata = {KEY: key, ERRORS: str(refined.error_rate), CAUTION: refined.caution}
    with atomic_path(folder / SOFT_LABELS_FILE) as temporary:
        save_file({TENSOR: soft_labels.half().contiguous()}, temporary, metadata)


def _read(folder: Path, key: str) -> tuple[Tensor, dict[str, str]] | None:
    """The probabilities, mapped from their file, and what it says of them; ``None`` where it is not of this key."""
    path = folder / SOFT_LABELS_FILE
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as file:
        said: dict[str, str] = file.metadata() or {}
        return (file.get_tensor(TENSOR), said) if said.get(KEY) == key else None


def _key(features: Features, labels: Tensor, datamodule: NoisyImageDataModule) -> str:
    digest = hashlib.sha256(f"{features.info['key']} {datamodule.seed} {datamodule.class_names}".encode())
    digest.update(np.ascontiguousarray(labels.numpy()).tobytes())
    return digest.hexdigest()[:32]
