"""An image classifier that trains through a noise layer and is used without it."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, cast

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_noisy import models
from lightning_noisy.image_batch import ImageBatch
from lightning_noisy.models.layer_groups import parameter_groups, set_trainable_blocks
from lightning_noisy.models.peft_models import merged
from lightning_noisy.noise import NoiseConfig
from lightning_noisy.noise.config import resolve_noise_config
from lightning_noisy.noise.functional import NO_LABEL
from lightning_noisy.noise.objective import count_labelled, is_check_due
from lightning_noisy.training import optimizers as optimisation
from lightning_noisy.training.batches import as_image_batch
from lightning_noisy.training.masked_mean import MaskedMean
from lightning_noisy.training.mixin import NoisyLabelMixin
from lightning_noisy.training.mixing import LabelMixing
from lightning_noisy.training.sharding import is_sharded, whole_copy

SMALLEST_SHARE = 1e-9
"""Of a batch that counts nothing, whose loss is zero."""


class NoisyImageClassifier(NoisyLabelMixin, L.LightningModule):
    """Fine-tunes an image classifier on partly wrong labels.

    Args:
        backbone: ``"timm:NAME"`` (also ``"timm:hf-hub:USER/REPO"`` and ``"timm:local-dir:DIR"``),
            ``"hf:REPO_OR_DIR"``, one's own :class:`~torch.nn.Module` that gives (B, K) logits, or a ``PeftModel``.
        num_classes: Number of classes ``K``; on the command line it comes from the data.
        class_names: Their names, ``K`` of them.
        noise: A :class:`NoiseConfig` or its dict; ``None`` is plain cross-entropy.
        pretrained: Whether the backbone starts from its pretrained weights.
        image_size: Side of the input images in pixels; the backbone's own by default.
        backbone_kwargs: Passed on to ``timm.create_model``, or set in the transformers config.
        adapter: Trains a PEFT adapter and the head alone: what its config takes, such as ``{"r": 8}``; LoRA on the
            linear layers of the blocks, unless ``peft_type`` and ``target_modules`` say otherwise.
        trainable_blocks: ``None`` trains everything, 0 only the head (linear probe), ``n`` also the last ``n`` blocks.
        layer_decay: Factor in ``(0, 1]`` by which the learning rate falls from each layer to the one below it.
        optimizer: A callable that takes parameter groups.
        lr_scheduler: ``"cosine"`` decays to zero over the training, step by step; a callable that takes the optimizer;
            ``None`` keeps the learning rate.
        lr_scheduler_interval: When a ``lr_scheduler`` of one's own steps: at each ``"step"`` or each ``"epoch"``.
        lr_warmup_steps: Optimizer steps of linearly rising learning rate before the cosine.
        mixup: ``α`` of mixup, 0 for none.
        cutmix: ``α`` of CutMix, 0 for none.
        label_smoothing: Share of each noisy label that is spread over all classes.
        compile: Whether a Trainer runs the backbone through ``torch.compile``; the first steps then take longer.
        channels_last: Whether the backbone gets its images in channels-last memory layout, in which convolutions stay.

    Raises:
        ValueError: If an argument is wrong; the message names it.
    """

    def __init__(
        self,
        backbone: str | dict[str, Any] | nn.Module,
        num_classes: int | None = None,
        class_names: list[str] | None = None,
        noise: NoiseConfig | dict[str, Any] | None = NoiseConfig(),  # noqa: B008, a frozen dataclass
        pretrained: bool = True,
        image_size: int | None = None,
        backbone_kwargs: dict[str, Any] | None = None,
        adapter: dict[str, Any] | None = None,
        trainable_blocks: int | None = None,
        layer_decay: float | None = None,
        optimizer: Callable[[Iterable], Optimizer] | dict[str, Any] = torch.optim.AdamW,
        lr_scheduler: Callable[[Optimizer], LRScheduler] | dict[str, Any] | Literal["cosine"] | None = "cosine",
        lr_scheduler_interval: Literal["step", "epoch"] = "epoch",
        lr_warmup_steps: int = 0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        label_smoothing: float = 0.0,
        compile: bool = False,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        num_classes = _num_classes(num_classes, class_names)
        _classifier_arg_validation(layer_decay, lr_scheduler, lr_scheduler_interval, lr_warmup_steps)
        _mixing_arg_validation(mixup, cutmix, label_smoothing)
        if backbone is None:
            raise ValueError(
                "Expected argument `backbone` to be given, but got None. A checkpoint of one's own module is loaded by "
                "`load_from_checkpoint(path, backbone=module)`."
            )
        noise = None if noise is None else resolve_noise_config(noise, num_classes)
        self.num_classes = num_classes
        self.class_names = list(class_names) if class_names else [str(label) for label in range(num_classes)]
        self.backbone = models.build_backbone(
            backbone,
            num_classes,
            class_names=self.class_names,
            pretrained=pretrained,
            image_size=image_size,
            backbone_kwargs=backbone_kwargs,
        )
        if adapter is not None and not (isinstance(backbone, dict) and backbone.get("adapter")):  # of a checkpoint
            self.backbone = models.add_adapter(self.backbone, adapter)
        if trainable_blocks is not None and models.adapter_config(self.backbone) is not None:
            raise ValueError(
                "Expected argument `trainable_blocks` to be None with an adapter, which freezes all but itself and the "
                f"head, but got {trainable_blocks}. Leave one of them out."
            )
        set_trainable_blocks(self.backbone, trainable_blocks)
        self.attach_noise_layer(noise)
        self.head_name: str | None = None
        self.layer_decay = layer_decay
        self.optimizer_factory = optimisation.resolve_callable("optimizer", optimizer, Optimizer)
        self.lr_scheduler_factory = (
            lr_scheduler
            if lr_scheduler is None or isinstance(lr_scheduler, str)
            else optimisation.resolve_callable("lr_scheduler", lr_scheduler, LRScheduler)
        )
        self.mix = LabelMixing(num_classes, mixup, cutmix, label_smoothing)
        self.accuracies = nn.ModuleDict(
            {f"{split}_{labels}": MaskedMean() for split in ("train", "val", "test") for labels in ("noisy", "clean")}
        )
        self.val_loss = MaskedMean()
        self._of_other_loaders: dict[str, MaskedMean] = {}
        self.save_hyperparameters(
            {
                "backbone": models.backbone_spec(self.backbone),
                "num_classes": num_classes,
                "class_names": self.class_names,
                "noise": None if self.noise_layer is None else self.noise_layer.config.to_dict(),
                "image_size": image_size,
                "adapter": adapter,
                "trainable_blocks": trainable_blocks,
                "layer_decay": layer_decay,
                "optimizer": optimisation.callable_to_primitives(optimizer) or {"class_path": "torch.optim.AdamW"},
                "lr_scheduler": optimisation.callable_to_primitives(lr_scheduler),
                "lr_scheduler_interval": lr_scheduler_interval,
                "lr_warmup_steps": lr_warmup_steps,
                "mixup": mixup,
                "cutmix": cutmix,
                "label_smoothing": label_smoothing,
                "compile": compile,
                "channels_last": channels_last,
            }
        )

    @property
    def data_config(self) -> dict[str, Any]:
        """How the backbone wants its images: what ``timm.data.create_transform`` takes."""
        return models.resolve_data_config(self.backbone)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) images -> (B, K) clean logits. The noise layer has no part in it.

        (B, D) are features of the frozen part, as :class:`~lightning_noisy.features.frozen_features.FrozenFeatures`
        gives them.
        """
        if images.ndim == 2 and self.head_name is not None:
            return self.backbone.get_submodule(self.head_name)(images)
        if self.hparams["channels_last"]:
            # The weights keep their layout, so that optimizer states, checkpoints and exports know but one.
            images = images.contiguous(memory_format=torch.channels_last)
        return models.clean_logits(self.backbone, images)

    def clean_model(self, merge: bool = True) -> nn.Module:
        """A copy of the backbone alone, in eval mode, the noise layer gone.

        Of a sharded model it is on the CPU, and every process must ask for it.

        Args:
            merge: Whether an adapter's change is added to the weights, which leaves a plain model; else its layers stay
                in the model.
        """
        copied = whole_copy(self.backbone) if is_sharded(self.backbone) else copy.deepcopy(self.backbone)
        return (merged(copied) if merge else copied).eval()

    def setup(self, stage: str) -> None:
        """Checks that the data have the classes of the model, and has the backbone compiled where that was asked for.

        Raises:
            ValueError: If their number differs.
        """
        datamodule = getattr(self.trainer, "datamodule", None)
        in_data = getattr(datamodule, "num_classes", self.num_classes)
        if in_data != self.num_classes:
            raise ValueError(
                f"Expected the data to have the {self.num_classes} classes of the model, but got {in_data}. Set the "
                f"model's `num_classes` to {in_data}, or give the data the same `class_names`."
            )
        image_size = getattr(datamodule, "image_size", None)
        if stage == "fit" and image_size is not None:
            self._take_image_size(image_size)
        if self.hparams["compile"] and self.backbone._compiled_call_impl is None:
            # In place, which leaves no trace in the names of the weights. Not dynamic: the smaller last batch of an
            # epoch would turn the whole network into one for any size, which is slower.
            self.backbone.compile(dynamic=False)

    def _take_image_size(self, image_size: int) -> None:
        """The data's own size is that of the training, and so of what is loaded and exported afterwards."""
        models.set_image_size(self.backbone, image_size)
        spec = self.hparams["backbone"]
        if spec is not None:
            config = {name: list(v) if isinstance(v, tuple) else v for name, v in self.data_config.items()}
            self.hparams["backbone"] = {**spec, "data_config": config}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        batch = as_image_batch(batch)
        images, noisy_labels = batch
        weights = batch.weights
        mixed_images, targets, soft_labels = self.mix(images, noisy_labels, weights, batch.soft_labels)
        clean_logits = self._checked_logits(mixed_images)
        given = () if soft_labels is None else (soft_labels,)  # a `noisy_loss` of one's own need not know them
        loss = self.noisy_loss(clean_logits, targets, *given)
        # Images that only fill the batch, or weigh little, must not make the loss look small.
        share = count_labelled(noisy_labels if weights is None else targets) / len(images)
        self.log("train/loss", loss / share.clamp_min(SMALLEST_SHARE), batch_size=len(images))
        if self.mix.mixer is None:
            self._log_accuracies("train", clean_logits, batch)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Shows the loss in the progress bar: by ``prog_bar=True`` an accelerator would be waited for at every step."""
        if is_check_due(batch_idx, self.device) and "train/loss" in (logged := self.trainer.callback_metrics):
            self.trainer.progress_bar_metrics["train/loss"] = logged["train/loss"].item()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        batch = as_image_batch(batch)
        images, noisy_labels = batch
        clean_logits = self._checked_logits(images)
        losses = F.cross_entropy(clean_logits.float(), noisy_labels, reduction="none", ignore_index=NO_LABEL)
        if dataloader_idx == 0:  # of several loaders the first is the validation, the others are looked at beside it
            self.validated(clean_logits, noisy_labels)
        self._log_mean("val/loss_noisy", self.val_loss, dataloader_idx, losses, noisy_labels)
        self._log_accuracies("val", clean_logits, batch, dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        batch = as_image_batch(batch)
        self._log_accuracies("test", self._checked_logits(batch.images), batch, dataloader_idx)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """A batch of images and labels -> its ``ids``, ``noisy_labels`` (B,) and ``clean_logits`` (B, K)."""
        batch = as_image_batch(batch, needs_labels=False)
        images, noisy_labels = batch
        clean_logits = self._checked_logits(images).float()
        return {"ids": list(batch.ids), "noisy_labels": noisy_labels, "clean_logits": clean_logits}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        # The groups hold factors until the optimizer tells its own learning rate and weight decay.
        groups = parameter_groups(self.backbone, lr=1.0, weight_decay=1.0, layer_decay=self.layer_decay)
        optimizer = self.optimizer_factory([*groups, *self.noise_parameter_groups(lr=1.0)])
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * optimizer.defaults["lr"]
            group["weight_decay"] = group["weight_decay"] * optimizer.defaults.get("weight_decay", 0.0)
        if self.lr_scheduler_factory is None:
            return optimizer
        if self.lr_scheduler_factory == "cosine":
            total_steps = optimisation.known_steps(self.trainer.estimated_stepping_batches)
            scheduler = optimisation.cosine_schedule(optimizer, total_steps, self.hparams["lr_warmup_steps"])
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
        learning_rates = [group["lr"] for group in optimizer.param_groups]
        scheduler = self.lr_scheduler_factory(optimizer)
        if optimisation.has_own_max_lr(scheduler):
            optimisation.keep_group_ratios(optimizer, learning_rates)
        interval = self.hparams["lr_scheduler_interval"]
        monitor = getattr(scheduler, "monitor", "val/loss_noisy")
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": interval, "monitor": monitor},
        }

    def _checked_logits(self, images: Tensor) -> Tensor:
        clean_logits = self(images)
        if clean_logits.ndim != 2 or clean_logits.shape[1] != self.num_classes:
            raise ValueError(
                f"Expected the backbone to give logits of shape (B, {self.num_classes}), one for each class, but got "
                f"{tuple(clean_logits.shape)}. Change its last layer or `num_classes`."
            )
        return clean_logits

    def _log_accuracies(self, split: str, clean_logits: Tensor, batch: ImageBatch, dataloader_idx: int = 0) -> None:
        labels = {"noisy": batch.noisy_labels, "clean": batch.clean_labels}
        if split == "test" and labels["clean"] is not None:
            del labels["noisy"]
        for kind, values in labels.items():
            if values is None:
                continue
            metric, is_right = (
                cast(MaskedMean, self.accuracies[f"{split}_{kind}"]),
                clean_logits.argmax(dim=1) == values,
            )
            self._log_mean(f"{split}/accuracy_{kind}", metric, dataloader_idx, is_right, values, split != "train")

    def _log_mean(
        self, name: str, metric: MaskedMean, dataloader_idx: int, values: Tensor, labels: Tensor, in_bar: bool = False
    ) -> None:
        """Logs a mean over an epoch; those of other loaders than the first have ``/loader_N`` behind their name."""
        if dataloader_idx == 0:
            metric.update(values, labels)
            self.log(
                name, metric, prog_bar=in_bar, on_step=False, on_epoch=True, add_dataloader_idx=False,
                batch_size=len(labels),
            )  # fmt: skip
            return
        others = self._of_other_loaders
        others.setdefault(f"{name}/loader_{dataloader_idx}", MaskedMean().to(values.device)).update(values, labels)

    def on_validation_epoch_end(self) -> None:
        self._log_other_loaders()

    def on_test_epoch_end(self) -> None:
        self._log_other_loaders()

    def _log_other_loaders(self) -> None:
        # In the same order in every process, which all must compute them.
        for name, metric in sorted(self._of_other_loaders.items()):
            self.log(name, metric.compute(), rank_zero_only=True)
        self._of_other_loaders.clear()


def _num_classes(num_classes: int | None, class_names: Sequence[str] | None) -> int:
    if num_classes is None and class_names:
        num_classes = len(class_names)
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 2:
        raise ValueError(f"Expected argument `num_classes` to be an integer of at least 2, but got {num_classes!r}.")
    if class_names and len(class_names) != num_classes:
        raise ValueError(
            f"Expected argument `class_names` to have {num_classes} names, one for a class, but got {len(class_names)}."
        )
    return num_classes


def _classifier_arg_validation(
    layer_decay: float | None,
    lr_scheduler: Callable[..., Any] | Mapping[str, Any] | str | None,
    lr_scheduler_interval: str,
    lr_warmup_steps: int,
) -> None:
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise ValueError(f"Expected argument `layer_decay` to be a float in the (0,1] range, but got {layer_decay}.")
    if isinstance(lr_scheduler, str) and lr_scheduler != "cosine":
        raise ValueError(
            f"Expected argument `lr_scheduler` to be 'cosine', a callable or None, but got {lr_scheduler!r}."
        )
    if lr_scheduler_interval not in ("step", "epoch"):
        raise ValueError(
            f"Expected argument `lr_scheduler_interval` to be 'step' or 'epoch', but got {lr_scheduler_interval!r}."
        )
    if lr_warmup_steps < 0:
        raise ValueError(
            f"Expected argument `lr_warmup_steps` to be an integer of at least 0, but got {lr_warmup_steps}."
        )


def _mixing_arg_validation(mixup: float, cutmix: float, label_smoothing: float) -> None:
    for name, value in {"mixup": mixup, "cutmix": cutmix}.items():
        if value < 0:
            raise ValueError(f"Expected argument `{name}` to be a float of at least 0, but got {value}.")
    if not 0 <= label_smoothing < 1:
        raise ValueError(
            f"Expected argument `label_smoothing` to be a float in the [0,1) range, but got {label_smoothing}."
        )
