"""The transformers Trainer for models with a noise layer."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from lightning_noisy.hf.kept_layer import keep_layer_with_adapter
from lightning_noisy.hf.wrapping import noisy_model_inside
from lightning_noisy.run_record import CARD_TAG


class NoisyTrainer(Trainer):
    """A :class:`~transformers.Trainer` that gives the noise layer its own learning rate and no weight decay.

    ``label_smoothing_factor`` acts on the noisy labels. The plain Trainer works too and trains to the same weights; its
    label smoothing, which would bypass the noise layer, is refused.

    Args:
        model: A :class:`NoisyForImageClassification`, or a ``PeftModel`` around one.
        args: As of the Trainer.
        **kwargs: As of the Trainer; ``compute_loss_func`` is refused, since it would bypass the noise layer.

    Raises:
        ValueError: If the model has no place for a noise layer, or ``compute_loss_func`` is given.
    """

    def __init__(self, model: Any = None, args: TrainingArguments | None = None, **kwargs: Any) -> None:
        if kwargs.get("model_init") is None and noisy_model_inside(model) is None:
            raise ValueError(
                "Expected argument `model` of NoisyTrainer to be a NoisyForImageClassification, but got "
                f"{type(model).__name__}. Put a noise layer on it by "
                "`NoisyForImageClassification.from_backbone(model)`."
            )
        if kwargs.get("compute_loss_func") is not None:
            raise ValueError(
                "Expected argument `compute_loss_func` to be None: it would compute the loss from the clean logits, "
                "past the noise layer. Leave it out, or use the plain Trainer with a plain model."
            )
        super().__init__(model, args, **kwargs)
        self.label_smoother = None  # it would smooth the clean logits; compute_loss smooths the noisy labels

    def call_model_init(self, trial: Any = None) -> Any:
        """As the Trainer's, for each training and trial; a ``PeftModel`` keeps its noise layer."""
        model = super().call_model_init(trial)
        keep_layer_with_adapter(model)
        return model

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's own optimizer with one more group, ``"noise_layer"``."""
        if self.optimizer is not None:
            return self.optimizer
        whole: Any = self.model if model is None else model
        weights = [p for name, p in whole.named_parameters() if "noise_layer." in name and p.requires_grad]
        for weight in weights:
            weight.requires_grad_(False)
        try:
            optimizer = super().create_optimizer(model)
        finally:
            for weight in weights:
                weight.requires_grad_(True)
        if weights:
            noise_layer = self._noisy_model().noise_layer
            lr = self.args.learning_rate * noise_layer.config.lr_scale
            optimizer.add_param_group({"params": weights, "lr": lr, "weight_decay": 0.0})
        return optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """As the Trainer's, with the noisy labels smoothed in training."""
        labels, smoothing = inputs.get("labels"), self.args.label_smoothing_factor
        if smoothing and model.training and labels is not None and labels.ndim == 1:
            num_classes = self._noisy_model().num_labels
            soft = F.one_hot(labels, num_classes).float() * (1 - smoothing) + smoothing / num_classes
            inputs = {**inputs, "labels": soft}
            if inputs.get("soft_targets") is not None:
                given = inputs["soft_targets"]
                inputs["soft_targets"] = given * (1 - smoothing) + given.sum(1, keepdim=True) * smoothing / num_classes
            if num_items_in_batch is not None:
                num_items_in_batch = num_items_in_batch * num_classes  # soft labels count K times
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As the Trainer's; before it all processes sum what they have counted, which the first one then saves."""
        if self.is_in_train:
            self._noisy_model().epoch_counts.so_far()
        super().save_model(output_dir, _internal_call)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """As the Trainer's, which overwrites: a card that an export has written to the folder is kept."""
        path = Path(str(self.args.output_dir)) / "README.md"
        if not path.is_file() or CARD_TAG not in path.read_text(encoding="utf-8"):
            super().create_model_card(*args, **kwargs)

    def _noisy_model(self) -> Any:
        return noisy_model_inside(self.model)
