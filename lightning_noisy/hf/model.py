"""A transformers image classifier that trains through a noise layer and is used without it."""

import copy
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageClassification, PreTrainedModel, initialization
from transformers.utils import ModelOutput, logging

from lightning_noisy import models
from lightning_noisy.hf.config import NoisyImageClassificationConfig
from lightning_noisy.hf.from_backbone import load_backbone, resolve_noise
from lightning_noisy.models import adapter_files
from lightning_noisy.models.layer_groups import block_classes, frozen_modules
from lightning_noisy.models.peft_models import adapter_spec, build_adapter, merged
from lightning_noisy.models.processor import save_processor
from lightning_noisy.models.transformers_models import HUB_OPTIONS, find_file, read_processor
from lightning_noisy.noise import NoiseConfig, NoiseLayer
from lightning_noisy.noise.epoch_counts import EpochCounts
from lightning_noisy.noise.objective import as_labels, check_values, clean_cross_entropy, is_check_due, noisy_objective
from lightning_noisy.run_record import RECORD_FILE, RunRecord, read_record, write_record

logger = logging.get_logger(__name__)

_NO_IMAGES = (
    "Expected `pixel_values`, but the batch has no images under that name{beside}. What a Dataset or a collator gives "
    "must be {{'pixel_values': ..., 'labels': ...}}; all else is dropped unless `remove_unused_columns` is False."
)
_NO_LABELS = (
    "Expected `labels` at each training step, but got None{beside}: `label_smoothing_factor` and `compute_loss_func` "
    "of the plain Trainer take the labels away and compute their loss past the noise layer. Use NoisyTrainer, which "
    "smooths the noisy labels, or give soft labels (B, K) as `labels`. Without these two, the data have no column "
    "'labels' or 'label': rename theirs."
)


@dataclasses.dataclass
class NoisyImageClassifierOutput(ModelOutput):
    """What :class:`NoisyForImageClassification` returns.

    Args:
        loss: In train mode through the noise layer, in eval mode the cross-entropy of the clean logits; a scalar.
        logits: (B, K) clean logits.
        noisy_log_probs: (B, K) log-probabilities of the noisy label, float32; ``None`` without labels.
        hidden_states: The backbone's own, where asked for.
        attentions: The backbone's own, where asked for.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    noisy_log_probs: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


BEFORE_THE_FIRST: list[Callable[[], None]] = []
"""Called once, before the first model of a program is made: importing this package changes nobody's Trainer."""


def _prepare_for_the_first() -> None:
    while BEFORE_THE_FIRST:
        BEFORE_THE_FIRST.pop()()


class NoisyForImageClassification(PreTrainedModel):
    """Any transformers image classifier (wrapped timm models too) with a noise layer on top.

    Made by :meth:`from_backbone`, saved and loaded like every model, and taken off by :meth:`strip`. In train mode the
    loss goes through the noise layer; in eval mode loss and logits are clean. The transformers ``Trainer`` tells the
    model the epoch, so that the noise layer waits until the network knows enough; a training loop of one's own calls
    :meth:`set_epoch`.

    Args:
        config: A :class:`NoisyImageClassificationConfig`.
        backbone: The native model, if it is there already; built from the config with random weights by default.
    """

    config_class = NoisyImageClassificationConfig
    config: NoisyImageClassificationConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    accepts_loss_kwargs = True  # forward honours num_items_in_batch
    _keep_in_fp32_modules_strict = ["noise_layer"]  # noqa: RUF012, transformers' own way
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: NoisyImageClassificationConfig, backbone: PreTrainedModel | None = None) -> None:
        _prepare_for_the_first()
        super().__init__(config)
        self.num_labels = config.num_labels
        if backbone is None:
            backbone = AutoModelForImageClassification.from_config(config.backbone_config)
            if config.adapter is not None:
                backbone = build_adapter(backbone, config.adapter)
        self.backbone: Any = backbone
        self._trained = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
        noise = config.noise_config
        self.noise_layer = None if noise is None else NoiseLayer(noise)
        if self.noise_layer is not None:
            self.noise_layer.requires_grad_(self.noise_layer.config.takes_gradients)
        self.run_record = RunRecord()
        self.epoch_counts = EpochCounts()
        self._epoch: int | None = None
        self._losses_computed = 0
        self._frozen: list[torch.nn.Module] | None = None
        self.loss_is_used = False
        self.supports_gradient_checkpointing = self.backbone.supports_gradient_checkpointing
        self.post_init()
        if (timm_model := models.timm_model_inside(self.backbone)) is not None:
            self._no_split_modules = block_classes(timm_model)  # the wrapper names a class that is not there

    def __setstate__(self, state: Any) -> None:
        _prepare_for_the_first()  # a process may get its model pickled
        super().__setstate__(state)

    @classmethod
    def from_backbone(
        cls,
        backbone: str | Path | PreTrainedModel,
        noise: NoiseConfig | Mapping[str, Any] | str | None = NoiseConfig(),  # noqa: B008, a frozen dataclass
        id2label: Mapping[int, str] | None = None,
        label2id: Mapping[str, int] | None = None,
        **options: Any,
    ) -> "NoisyForImageClassification":
        """Puts a noise layer on a plain image classifier.

        Args:
            backbone: A repository on the Hub (``"google/vit-base-patch16-224-in21k"``, ``"timm/resnet50.a1_in1k"``), a
                folder that transformers or timm has saved, an image classifier of transformers, or a ``PeftModel``
                around one.
            noise: A :class:`~lightning_noisy.NoiseConfig` or its dict; ``None`` is plain cross-entropy; ``"export"``
                continues with the noise layer that lies beside an exported model.
            id2label: The class names by number, or in order; the backbone's own classes by default.
            label2id: The numbers by class name.
            **options: Of ``from_pretrained``: ``dtype``, ``revision``, ``token``, ``device_map``, ...

        Raises:
            ValueError: If the backbone is no image classifier or can't be loaded, or the labels don't fit together.
        """
        native = load_backbone(backbone, id2label, label2id, options)
        noise_config, exported = resolve_noise(noise, backbone, native.config.num_labels, options)
        config = NoisyImageClassificationConfig(
            backbone_config=native.config,
            noise=None if noise_config is None else noise_config.to_dict(),
            adapter=adapter_spec(native),
            id2label=dict(native.config.id2label),
            label2id={name: label for label, name in native.config.id2label.items()},  # timm's config may lack it
            dtype=native.dtype,
        )
        model = cls(config, native)
        model.run_record.base_model = models.base_model_of(native)
        # PEFT notes it as the model under an adapter, whose checkpoint may be read from elsewhere.
        folder = Path(native.name_or_path or "nowhere")
        model.name_or_path = str(folder.resolve()) if folder.is_dir() else native.name_or_path
        if exported is not None:
            assert model.noise_layer is not None
            model.noise_layer.load_state_dict(exported.state_dict())
        if model.noise_layer is not None:
            model.noise_layer.to(next(native.parameters()).device)
        return model

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As every model's, and with it the image processor and the record of the training.

        Raises:
            ValueError: If what is there is a PEFT adapter around such a model, without the weights under it.
        """
        options = {key: kwargs[key] for key in HUB_OPTIONS if key in kwargs}
        if find_file(str(pretrained_model_name_or_path), adapter_files.ADAPTER_CONFIG_FILE, options) is not None:
            raise ValueError(
                f"Expected {str(pretrained_model_name_or_path)!r} to be a whole model, but it is a PEFT adapter. Go on "
                "from it by `trainer.train(resume_from_checkpoint=...)`, or export it by `lightning-noisy export`."
            )
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if model.config.adapter is not None:  # transformers has made new parameters, none of which is frozen
            for name, parameter in model.backbone.named_parameters():
                parameter.requires_grad_(name in model._trained)
        if model.noise_layer is not None:  # its parameter is new too
            model.noise_layer.requires_grad_(model.noise_layer.config.takes_gradients)
        model.load_companions(pretrained_model_name_or_path, options)
        return loaded

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As every model's, and beside it the image processor and the record of the training."""
        is_main_process = args[0] if args else kwargs.get("is_main_process", True)
        if is_main_process:
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            self.save_companions(Path(save_directory))
        # By default some backbones are saved under their old parameter names, which the Trainer's resume does not find.
        kwargs.setdefault("save_original_format", False)
        super().save_pretrained(save_directory, *args, **kwargs)

    def save_companions(self, directory: Path) -> None:
        """Writes what lies beside config and weights: the image processor and the record of the training."""
        save_processor(self.backbone, directory)
        write_record(self.run_record, directory / RECORD_FILE)

    def load_companions(self, source: str | Path, options: Mapping[str, Any] | None = None) -> None:
        """Reads what lies beside config and weights, in a folder or on the Hub.

        Args:
            source: As of :meth:`from_pretrained`.
            options: ``revision``, ``token``, ... for the Hub.
        """
        options = dict(options or {})
        setattr(self.backbone, models.PROCESSOR, read_processor(str(source), options))
        path = find_file(str(source), RECORD_FILE, options)
        if path is not None:
            self.run_record = read_record(Path(path))

    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        soft_targets: Tensor | None = None,
        **kwargs: Any,
    ) -> NoisyImageClassifierOutput | tuple[Tensor, ...]:
        """(B, C, H, W) images -> clean logits, and with labels the loss.

        Args:
            pixel_values: The images.
            labels: The given, noisy labels: integers (B,), or soft labels (B, K) from mixup or label smoothing.
            num_items_in_batch: What the Trainer counts over an accumulated batch: the loss is then the sum divided by
                it, so that accumulation gives the loss of one large batch. Soft labels count K times.
            return_dict: ``False`` returns a tuple.
            soft_targets: (B, K), what to train on in the place of the labels, such as what
                :func:`~lightning_noisy.refine_labels` says of them; the labels are counted. Not looked at in eval mode.
                (The Trainer takes every argument with "label" in its name for one that evaluations need.)
            **kwargs: Passed on to the backbone, but for columns of the data that it does not know.

        Raises:
            ValueError: If labels and logits do not fit together, a logit is NaN, or a Trainer gives no images or no
                labels.
        """
        if pixel_values is None:
            raise ValueError(_NO_IMAGES.format(beside=_beside(kwargs)))
        options = {**models.forward_options(self.backbone, pixel_values), **self._known_options(kwargs)}
        output = self.backbone(pixel_values, **options)
        logits = output.logits
        loss = noisy_log_probs = None
        if labels is not None:
            noisy_log_probs = None if self.noise_layer is None else self.noise_layer(logits)
            loss = self._loss(logits, labels, noisy_log_probs, num_items_in_batch, soft_targets)
        elif self.training and self._epoch is not None:
            raise ValueError(_NO_LABELS.format(beside=_beside(kwargs)))
        result = NoisyImageClassifierOutput(
            loss=loss,
            logits=logits,
            noisy_log_probs=noisy_log_probs,
            hidden_states=getattr(output, "hidden_states", None),
            attentions=getattr(output, "attentions", None),
        )
        return result.to_tuple() if return_dict is False else result

    def _known_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Without columns such as a second label, kept for metrics by ``label_names``, that timm would not take."""
        if not any(isinstance(value, Tensor) for value in options.values()):
            return dict(options)
        known = inspect.signature(self.backbone.forward).parameters
        return {name: value for name, value in options.items() if name in known or not isinstance(value, Tensor)}

    def strip(self, merge: bool = True) -> Any:
        """The native model alone, a copy in eval mode: the noise layer is gone, nothing of this package is in it.

        Args:
            merge: Of a backbone with a PEFT adapter: whether its change is added to the weights, which leaves nothing
                of PEFT; else the adapter's layers stay in the model.
        """
        clean = copy.deepcopy(getattr(self.backbone, "_orig_mod", self.backbone))  # of torch.compile
        if getattr(clean, "hf_device_map", None) or getattr(self, "hf_device_map", None):
            from accelerate.hooks import remove_hook_from_submodules

            remove_hook_from_submodules(clean)
        if clean.supports_gradient_checkpointing:
            clean._set_gradient_checkpointing(enable=False)
        return (merged(clean) if merge else clean).eval()

    def train(self, mode: bool = True) -> "NoisyForImageClassification":
        """As every module's; what lies frozen under an adapter, batch norms for one, stays in eval mode."""
        super().train(mode)
        if mode:
            for module in self._frozen_under_adapter():
                module.eval()
        return self

    def _frozen_under_adapter(self) -> list[torch.nn.Module]:
        if self._frozen is None:  # looked for once in an epoch: the Trainer calls train() at each step
            has_adapter = (models.adapter_config(self) or models.adapter_config(self.backbone)) is not None
            self._frozen = frozen_modules(self.backbone) if has_adapter else []
        return self._frozen

    def transition_matrix(self) -> Tensor:
        """(K, K), ``T[i, j] = P(noisy=j | clean=i)`` that the noise layer has learned.

        Raises:
            ValueError: If the model has no noise layer.
        """
        if self.noise_layer is None:
            raise ValueError("Expected a model with a noise layer, but `noise` is None in its config.")
        return self.noise_layer.transition_matrix()

    def set_epoch(self, epoch: int | None) -> None:
        """Tells the model the epoch, from 0 on; ``None`` is outside of a training: no warm-up.

        In a new epoch the noise layer takes what the last one has shown (:meth:`NoiseLayer.update_from_counts
        <lightning_noisy.NoiseLayer.update_from_counts>`). Every process must call it.
        """
        if epoch is not None:
            self.epoch_counts.start_epoch(epoch, self.noise_layer)
        self._epoch, self._frozen = epoch, None

    @property
    def label_counts(self) -> Tensor | None:
        """(K, K) ``[predicted class, noisy label]`` of the epoch so far or the last one; all processes must ask."""
        shown = self.epoch_counts.latest
        return None if shown is None else shown.label_counts

    @property
    def in_warmup(self) -> bool:
        """Whether the noise layer has no share in the loss of this epoch: it is plain cross-entropy."""
        return self.noise_layer is not None and self._epoch is not None and self.noise_layer.share == 0

    @property
    def counts_evaluations(self) -> bool:
        """Whether an epoch of a training is under way, for which an evaluation counts."""
        return self._epoch is not None

    def parameter_groups(self, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Optimizer groups for a training loop of one's own; the noise layer has no decay and its own learning rate."""
        network = [parameter for parameter in self.backbone.parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = [{"params": network, "lr": lr, "weight_decay": weight_decay}]
        layer = self.noise_layer
        if layer is not None and layer.weight.requires_grad:
            lr = lr * layer.config.lr_scale
            groups.append({"params": [layer.weight], "lr": lr, "weight_decay": 0.0, "name": "noise_layer"})
        return groups

    # What it counts would be compiled anew at each step.
    @torch.compiler.disable
    def _loss(
        self, logits: Tensor, labels: Tensor, noisy_log_probs: Tensor | None, num_items: Tensor | int | None,
        soft_targets: Tensor | None,
    ) -> Tensor:  # fmt: skip
        labels = as_labels(logits, labels)
        if is_check_due(self._losses_computed, logits.device):
            check_values(logits, labels)
        self._losses_computed += 1
        if not self.training:
            if self.counts_evaluations and labels.ndim == 1:
                self.epoch_counts.observe_validation(logits, labels)
            loss = clean_cross_entropy(logits, labels)
        elif self._epoch is not None or self.noise_layer is None:
            if soft_targets is not None and soft_targets.shape != logits.shape:
                raise ValueError(
                    f"Expected `soft_targets` of shape {tuple(logits.shape)}, got {[*soft_targets.shape]}."
                )
            self.epoch_counts.observe(logits, labels, soft_targets)
            loss = noisy_objective(self.noise_layer, logits, labels, noisy_log_probs, soft_targets)
        else:
            if self.noise_layer.config.warmup_epochs != 0:
                logger.warning_once(
                    "The noise layer acts from the first step and as published: nobody has told the model the epoch. "
                    "The transformers Trainer does it; in a training loop of your own call `model.set_epoch(epoch)`."
                )
            loss = self.noise_layer.loss(logits, labels, noisy_log_probs)
        if num_items is not None:
            loss = loss * (labels.numel() / num_items)
        if loss.requires_grad:
            loss.register_hook(self._note_use)
        return loss

    def _note_use(self, gradient: Tensor) -> None:
        self.loss_is_used = True

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Called for what a checkpoint lacks; the backbone's own modules are the backbone's to initialise."""
        if isinstance(module, NoiseLayer):
            device = module.weight.device
            initialization.copy_(module.weight, module.start_weight().to(device))
            initialization.ones_(module.label_weights)
            initialization.copy_(module.progress, module.start_progress().to(device))

    def _set_gradient_checkpointing(self, *args: Any, **kwargs: Any) -> None:
        self.backbone._set_gradient_checkpointing(*args, **kwargs)


def _beside(options: Mapping[str, Any]) -> str:
    columns = [name for name, value in options.items() if isinstance(value, Tensor)]
    return f" beside {', '.join(map(repr, columns))}" if columns else ""
