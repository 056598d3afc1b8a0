"""The noise layer for one's own LightningModule."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import lightning.pytorch as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from lightning_noisy.noise import NoiseConfig, NoiseLayer
from lightning_noisy.noise.config import resolve_noise_config
from lightning_noisy.noise.epoch_counts import EpochCounts
from lightning_noisy.noise.objective import as_labels, check_values, is_check_due, noisy_objective
from lightning_noisy.run_record import RunRecord
from lightning_noisy.training.callbacks.guards import (
    ClassCollapseGuard,
    NoiseLayerNotice,
    ReproducibleSteps,
    TrainMode,
)
from lightning_noisy.training.callbacks.noise_layer_updater import NoiseLayerUpdater
from lightning_noisy.training.callbacks.noise_log import NoiseLog
from lightning_noisy.training.callbacks.run_recorder import RUN_RECORD_KEY, RunRecorder, describe_run
from lightning_noisy.training.callbacks.run_summary import RunSummary
from lightning_noisy.training.checkpoint_io import AtomicCheckpoints
from lightning_noisy.training.loggers.wandb_logger import hold_wandb_runs

CALLBACKS: tuple[type[L.Callback], ...] = (
    TrainMode,
    ReproducibleSteps,
    NoiseLayerUpdater,
    NoiseLayerNotice,
    ClassCollapseGuard,
    AtomicCheckpoints,
    NoiseLog,
    RunRecorder,  # behind all that log at the end of an epoch
    RunSummary,
)
"""What every training on noisy labels needs."""

if TYPE_CHECKING:
    _Base = L.LightningModule
else:
    _Base = object


class NoisyLabelMixin(_Base):
    """Gives a LightningModule a noise layer: put it before ``L.LightningModule`` among the base classes.

    The module calls :meth:`attach_noise_layer` in ``__init__`` and :meth:`noisy_loss` in ``training_step``; validation
    and prediction use the network alone. A ``validation_step`` on noisy labels that calls :meth:`validated` helps the
    layer to tell when it is needed. The noise layer is in the ``state_dict``, in checkpoints and in a resume.

    Example:
        >>> class Module(NoisyLabelMixin, L.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.model = nn.Linear(4, 3)
        ...         self.attach_noise_layer(3)
        ...
        ...     def training_step(self, batch, batch_idx):
        ...         inputs, noisy_labels = batch
        ...         return self.noisy_loss(self.model(inputs), noisy_labels)
        >>> Module().noise_layer.num_classes
        3
    """

    noise_layer: NoiseLayer | None
    epoch_counts: EpochCounts
    """What the epoch under way, and the last one, have shown."""
    loaded_record: RunRecord | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "configure_callbacks" in cls.__dict__:  # one's own may forget `super()`, which would turn the layer off
            setattr(cls, "configure_callbacks", _with_ours(cls.__dict__["configure_callbacks"]))  # noqa: B010

    def attach_noise_layer(self, noise: NoiseConfig | Mapping[str, Any] | int | None) -> None:
        """Sets :attr:`noise_layer`.

        Args:
            noise: A :class:`NoiseConfig`, its dict, or just the number of classes. ``None`` is plain cross-entropy.

        Raises:
            ValueError: If the description is wrong or lacks the number of classes.
        """
        self.noise_layer = None if noise is None else NoiseLayer(resolve_noise_config(noise))
        if self.noise_layer is not None:
            self.noise_layer.requires_grad_(self.noise_layer.config.takes_gradients)
        self.epoch_counts = EpochCounts()
        self._losses_computed = 0

    @property
    def in_warmup(self) -> bool:
        """Whether the layer has no share in the loss of this epoch: it is plain cross-entropy."""
        return self.noise_layer is not None and self.noise_layer.share == 0

    def noisy_loss(self, clean_logits: Tensor, noisy_labels: Tensor, soft_labels: Tensor | None = None) -> Tensor:
        """The loss to train on: cross-entropy, and the noise layer's by the share that it has earned.

        Args:
            clean_logits: (B, K) the network's own logits.
            noisy_labels: Integer labels (B,), or soft labels (B, K) on the noisy side (mixup, label smoothing). An
                image whose label is -1 (or zero everywhere) only fills the batch: it adds nothing to the sum, the
                divisor stays ``B``, and nothing counts it.
            soft_labels: (B, K), what to train on in place of the noisy labels, such as what a
                :class:`~lightning_noisy.audit.label_refinement.LabelRefinement` says of them. The layer then models
                the noise that is left in these; what is counted of the noise for people is that of the given labels.

        Returns:
            A scalar, float32.

        Raises:
            RuntimeError: If :meth:`attach_noise_layer` was not called, or a Trainer fits a module around this one.
            ValueError: If shapes do not fit, a label is outside the classes, or a logit is NaN or infinite. On an
                accelerator values are looked at once in 50 steps.
        """
        self._expect_noise_layer()
        if self._losses_computed == 0:
            self._expect_to_be_fitted()
        noisy_labels = as_labels(clean_logits, noisy_labels)
        if is_check_due(self._losses_computed, clean_logits.device):
            check_values(clean_logits, noisy_labels, self.global_step, may_lack_labels=True)
        self._losses_computed += 1
        if self.training:
            self.epoch_counts.observe(clean_logits, noisy_labels, soft_labels)
        else:  # a validation may ask for this loss too
            self.validated(clean_logits, noisy_labels)
        return noisy_objective(self.noise_layer, clean_logits, noisy_labels, soft_labels=soft_labels)

    def validated(self, clean_logits: Tensor, noisy_labels: Tensor) -> None:
        """Tells the layer what the network makes of a batch of held-out noisy labels; for a ``validation_step``.

        Args:
            clean_logits: (B, K) in evaluation mode.
            noisy_labels: Integer labels (B,); -1 counts nothing. Soft ones are passed over.
        """
        if noisy_labels.ndim == 1:
            self.epoch_counts.observe_validation(clean_logits, as_labels(clean_logits, noisy_labels))

    def parameter_groups(self, lr: float, weight_decay: float = 0.01) -> list[dict[str, Any]]:
        """Optimizer groups: the network, and the noise layer with its own learning rate and no weight decay."""
        noise_parameters = set(self._noise_parameters())
        network = [p for p in self.parameters() if p.requires_grad and p not in noise_parameters]
        return [
            {"params": network, "lr": lr, "weight_decay": weight_decay, "name": "network"},
            *self.noise_parameter_groups(lr),
        ]

    def noise_parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """The noise layer's group, to add to groups of one's own; empty if nothing in it is trained.

        Args:
            lr: The network's learning rate, which ``NoiseConfig.lr_scale`` multiplies.
        """
        parameters = [p for p in self._noise_parameters() if p.requires_grad]
        if self.noise_layer is None or not parameters:
            return []
        lr = lr * self.noise_layer.config.lr_scale
        return [{"params": parameters, "lr": lr, "weight_decay": 0.0, "name": "noise_layer"}]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The base class's own, or AdamW at 1e-3 over :meth:`parameter_groups` where it has none."""
        inherited = super().configure_optimizers
        if getattr(inherited, "__func__", None) is not L.LightningModule.configure_optimizers:
            return inherited()
        return torch.optim.AdamW(self.parameter_groups(lr=1e-3))

    def configure_callbacks(self) -> list[L.Callback]:
        """What training on noisy labels needs; one that the Trainer was given itself is left as it is."""
        return self._add_callbacks(super().configure_callbacks())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Puts the record of the run into the checkpoint, into one of weights alone too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[RUN_RECORD_KEY] = describe_run(self.trainer, self).to_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the record of the training that the checkpoint is of."""
        super().on_load_checkpoint(checkpoint)
        self.loaded_record = RunRecord.from_dict(checkpoint.get(RUN_RECORD_KEY) or {})

    def _add_callbacks(self, own: L.Callback | Sequence[L.Callback]) -> list[L.Callback]:
        self._expect_noise_layer()
        callbacks = [*own] if isinstance(own, Iterable) else [own]
        given = [*callbacks, *getattr(self.trainer, "callbacks", [])]
        if self.trainer.state.fn == TrainerFn.FITTING:
            hold_wandb_runs(self.trainer.loggers)  # until NoiseLog releases them
        missing = [ours for ours in CALLBACKS if not any(isinstance(callback, ours) for callback in given)]
        return [*callbacks, *(ours() for ours in missing)]

    def _expect_noise_layer(self) -> None:
        if "_losses_computed" not in self.__dict__:
            raise RuntimeError(
                f"Expected {type(self).__name__} to call `self.attach_noise_layer(num_classes)` in its `__init__`, but "
                "it did not. Call it after `super().__init__()`; `attach_noise_layer(None)` is plain cross-entropy."
            )

    def _expect_to_be_fitted(self) -> None:
        trainer: Any = self._trainer
        if self.noise_layer is None or trainer is None or trainer.state.fn != TrainerFn.FITTING:
            return
        if trainer.lightning_module is not self:
            raise RuntimeError(
                f"Expected the Trainer to fit {type(self).__name__}, which has the noise layer, but it fits "
                f"{type(trainer.lightning_module).__name__} around it, and nothing would tell the layer the epoch. "
                "Make the outer one a NoisyLabelMixin with the noise layer, or fit the inner one."
            )

    def _noise_parameters(self) -> list[nn.Parameter]:
        layer = getattr(self, "noise_layer", None)
        return [] if layer is None else list(layer.parameters())


def _with_ours(configure_callbacks: Callable[[Any], Any]) -> Callable[[Any], list[L.Callback]]:
    """One's own ``configure_callbacks`` and what training on noisy labels needs, with ``super()`` or without."""

    @functools.wraps(configure_callbacks)
    def configure(self: NoisyLabelMixin) -> list[L.Callback]:
        return self._add_callbacks(configure_callbacks(self))

    return configure
