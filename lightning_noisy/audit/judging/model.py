"""What an audit needs of a trained model, from wherever it comes."""

import hashlib
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor

from lightning_noisy import models
from lightning_noisy.audit.judging.scores import label_evidence, score_labels
from lightning_noisy.audit.schema import LOG_PROBS
from lightning_noisy.export.checkpoints import load_checkpoint
from lightning_noisy.export.trained_model import TrainedModel, record_of, resolve_model
from lightning_noisy.models.fingerprint import add_weights
from lightning_noisy.noise.counting import triples_to_counts
from lightning_noisy.noise.functional import MIN_PROBABILITY, label_posterior
from lightning_noisy.training import NoisyImageClassifier
from lightning_noisy.training.sharding import is_sharded


def trained_model(model: Any) -> TrainedModel:
    """From a checkpoint's path, a LightningModule, a model of transformers or of timm.

    Raises:
        ValueError: If there is nothing there that can be loaded.
    """
    if isinstance(model, str | Path):
        return load_checkpoint(model)
    if isinstance(model, NoisyImageClassifier) and not is_sharded(model):  # its backbone may be any module
        return TrainedModel(model.clean_model(), model.class_names, model.noise_layer, record_of(model))
    return model if isinstance(model, TrainedModel) else resolve_model(model)


def check_classes(trained: TrainedModel, class_names: list[str]) -> None:
    """Raises a :class:`ValueError` where the data have other classes than the model, whose numbers fit any names."""
    own = trained.class_names
    if len(own) != len(class_names):
        raise ValueError(
            f"Expected the data to have the {len(own)} classes of the model, but got {len(class_names)}. Audit the "
            "data that it was trained on, or give `data.class_names`."
        )
    if own == [str(label) for label in range(len(own))]:
        return
    for label, (name, other) in enumerate(zip(own, class_names, strict=True)):
        if name != other:
            raise ValueError(
                f"Expected the data to have the classes of the model, but class {label} is {name!r} in the model and "
                f"{other!r} in the data. Audit the data that it was trained on, or give `data.class_names` in the "
                "order of the training."
            )


def evidence(trained: TrainedModel) -> Tensor:
    """(K, K) float32, what a given label says of the true one, as :func:`score_labels` takes it.

    From the counts of the training's last epoch, else what the noise layer has learned, which is flatter than the noise
    by its nature; nothing where there is neither.
    """
    num_classes = len(trained.class_names)
    if trained.record.label_counts:
        return label_evidence(triples_to_counts(trained.record.label_counts, num_classes))
    if trained.noise_layer is not None:
        return trained.noise_layer.transition_matrix().cpu().clamp_min(MIN_PROBABILITY).log()
    return torch.zeros(num_classes, num_classes)


def fingerprint(trained: TrainedModel) -> str:
    """A text that changes with the weights and with what is known of the noise."""
    digest = hashlib.sha256()
    add_weights(digest, trained.clean_model.state_dict())
    digest.update(evidence(trained).numpy().tobytes())
    return digest.hexdigest()


class AuditModule(L.LightningModule):
    """Looks at the given labels of a batch of images.

    Args:
        trained: The model and its noise.
        with_probabilities: Whether to give the posterior of all classes too.
    """

    log_evidence: Tensor

    def __init__(self, trained: TrainedModel, with_probabilities: bool = False) -> None:
        super().__init__()
        self.network = trained.clean_model
        self.with_probabilities = with_probabilities
        self.register_buffer("log_evidence", evidence(trained), persistent=False)

    @property
    def data_config(self) -> dict[str, Any]:
        """How the network wants its images."""
        return models.resolve_data_config(self.network)

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Images, given labels (B,), positions (B,) and facts -> columns of the audit, on the CPU."""
        images, noisy_labels, positions, facts = batch
        logits = models.clean_logits(self.network, images).float()
        scored = score_labels(logits, noisy_labels, self.log_evidence)
        columns = {"position": positions, "given_label": noisy_labels, **scored._asdict(), **facts}
        columns[LOG_PROBS] = logits.log_softmax(dim=1)
        if self.with_probabilities:
            columns["probabilities"] = label_posterior(logits, noisy_labels, self.log_evidence)
        found = {name: values.cpu().numpy() for name, values in columns.items()}
        if np.isnan(found["p_given"]).any():
            raise ValueError(
                "Expected the network to give finite logits, but got NaN or infinity. Look at its weights, or take "
                "`trainer.precision` 32-true."
            )
        return found


class LookAtPictures(L.LightningModule):
    """Gives the facts of images alone, whose labels are not in doubt.

    Args:
        data_config: How the network of the audit wants its images, so that they are read as the others are.
    """

    def __init__(self, data_config: dict[str, Any]) -> None:
        super().__init__()
        self.data_config = data_config

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Images, labels, positions (B,) and facts -> positions and facts, on the CPU."""
        _, _, positions, facts = batch
        return {name: values.cpu().numpy() for name, values in {"position": positions, **facts}.items()}
