"""The noise layer: clean logits in, log-probabilities of the noisy label out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from lightning_noisy.noise import functional
from lightning_noisy.noise.config import NoiseConfig, resolve_noise_config
from lightning_noisy.noise.counting import balancing_weights, lost_classes
from lightning_noisy.noise.initial import from_confusion, from_matrix
from lightning_noisy.noise.warmup import Warmup

UNKNOWN_WARMUP = 5
"""Epochs of warm-up in a loop of one's own, whose length nobody knows."""


class NoiseLayer(nn.Module):
    """A model of the label noise, put on top of a classifier for training and taken off afterwards.

    Its only state is ``weight``, (K, K): the paper's ``W`` for ``noise_type="softmax"``, the logits of the rows of
    ``T`` for ``"stochastic"``. The transition matrix is always derived. The layer computes in float32 whatever the
    type of its input, and its weight stays in float32 when the model around it is cast, since its small steps would
    vanish in half precision.

    A training tells it after each epoch what was predicted and what the labels said (:meth:`follow`); Lightning's and
    transformers' Trainer do so by themselves.

    Args:
        config: A :class:`NoiseConfig`, its dict, or just the number of classes.

    Attributes:
        warmup: The warm-up. Of ``"auto"`` it is 5 epochs until a Trainer has worked it out.
        label_weights: (K,) what an image with each label weighs in the loss; ``None`` is one.
        rescued: (K,) 1 for a class whose images get cross-entropy beside the layer's loss, else 0; ``None`` if there
            is none.

    Example:
        >>> layer = NoiseLayer(NoiseConfig(num_classes=3, dropout=0.0))
        >>> layer(torch.zeros(1, 3)).exp()
        tensor([[0.3333, 0.3333, 0.3333]], grad_fn=<ExpBackward0>)
    """

    weight: nn.Parameter

    def __init__(self, config: NoiseConfig | Mapping[str, Any] | int) -> None:
        super().__init__()
        self.config = resolve_noise_config(config)
        num_classes = self.num_classes
        self.weight = nn.Parameter(torch.empty(num_classes, num_classes), requires_grad=self.config.trainable)
        known = self.config.warmup_epochs
        epochs = UNKNOWN_WARMUP if known == "auto" else known
        self.warmup = Warmup(epochs, planned=epochs)
        self.label_weights: Tensor | None = None
        self.rescued: Tensor | None = None
        self.reset()

    @property
    def num_classes(self) -> int:
        """The number of classes ``K``."""
        assert self.config.num_classes is not None  # resolve_noise_config has seen to it
        return self.config.num_classes

    @property
    def warmup_epochs(self) -> int:
        """The length of the warm-up so far."""
        return self.warmup.epochs

    @torch.no_grad()
    def reset(self, transition_matrix: Tensor | Sequence[Sequence[float]] | None = None) -> None:
        """Goes back to the start that the config describes, or to a given ``T``.

        Args:
            transition_matrix: (K, K), rows sum to one. ``None`` is the config's own, or the scaled identity.

        Raises:
            ValueError: If ``transition_matrix`` is no (K, K) transition matrix.
        """
        self.weight.copy_(self.start_weight(transition_matrix))

    @torch.no_grad()
    def follow(self, counts: Tensor, acts: bool = True) -> None:
        """Takes what an epoch has shown, for the next one: the layer, the labels' weights, the classes to rescue.

        The matrix is ``T̂[i, j] = counts[i, j] / Σ_j counts[i, j]`` with one image more in each row, spread evenly. The
        softmax layer becomes ``W = s · T̂ᵀ / mean(diagonal of T̂)``, ``s`` the config's ``init_scale``; ``"auto"`` is 1
        at every ``K``, and more after a warm-up that grew (:attr:`~lightning_noisy.noise.warmup.Warmup.push`). The
        stochastic one becomes ``T̂`` itself. Sources: Goldberger, Ben-Reuven, ICLR 2017, who start from the warm-up's
        confusion, once; the counting is near to that of confident learning (Northcutt et al. 2021, arXiv 1911.00068).

        Args:
            counts: (K, K) ``[predicted class, noisy label]`` over all images of the epoch, of all processes.
            acts: Whether the layer acts in the next epoch; in the warm-up it stays at its start.

        Raises:
            ValueError: If ``counts`` is not (K, K).
        """
        if counts.shape != (self.num_classes, self.num_classes):
            raise ValueError(
                f"Expected argument `counts` to have shape ({self.num_classes}, {self.num_classes}), but got "
                f"{tuple(counts.shape)}."
            )
        config = self.config
        if config.class_balance:
            self.label_weights = balancing_weights(counts, config.class_balance).float()
        lost = lost_classes(counts, config.rescue_below)
        self.rescued = torch.zeros(self.num_classes).index_fill_(0, torch.tensor(lost), 1.0) if lost else None
        if acts and config.follows_counts:
            matrix = from_confusion(counts.cpu().float())  # K² doubles may be too many
            if config.noise_type == "softmax":
                scale = self.warmup.push if config.init_scale == "auto" else float(config.init_scale)
                self._set_weight(scale / matrix.diagonal().mean() * matrix.T)
            else:
                self._set_weight(functional.weight_from_transition_matrix(matrix, "stochastic"))

    def start_weight(self, transition_matrix: Tensor | Sequence[Sequence[float]] | None = None) -> Tensor:
        """(K, K), on the CPU: what :meth:`reset` puts into ``weight``."""
        given = self.config.transition_matrix if transition_matrix is None else transition_matrix
        if given is None:
            return torch.eye(self.num_classes, device="cpu") * self.config.start_scale()
        matrix = from_matrix(given, self.num_classes)
        return functional.weight_from_transition_matrix(matrix, self.config.noise_type).float()

    def forward(self, clean_logits: Tensor) -> Tensor:
        """(B, K) clean logits -> (B, K) log-probabilities of the noisy label, float32."""
        self._check_shape(clean_logits)
        with torch.autocast(clean_logits.device.type, enabled=False):
            logits = clean_logits.float()
            if self.config.noise_type == "stochastic":
                return functional.stochastic_noisy_log_probs(logits, self._log_transition())
            return functional.softmax_noisy_log_probs(
                logits, self.weight, self.config.dropout, self.config.dropout_on, self.training
            )

    def loss(self, clean_logits: Tensor, noisy_labels: Tensor, noisy_log_probs: Tensor | None = None) -> Tensor:
        """Mean negative log-likelihood of the noisy labels, weighted by :attr:`label_weights`.

        Args:
            clean_logits: (B, K).
            noisy_labels: Integer labels (B,), or soft labels (B, K) on the noisy side (mixup, label smoothing).
            noisy_log_probs: (B, K), what the layer has just given for these logits, if it has.

        Raises:
            ValueError: If the shapes do not fit together.
        """
        _labels_tensor_validation(clean_logits, noisy_labels)
        log_probs = self(clean_logits) if noisy_log_probs is None else noisy_log_probs
        return functional.noisy_nll(log_probs, noisy_labels, self.label_weights)

    @torch.no_grad()
    def transition_matrix(self) -> Tensor:
        """(K, K), ``T[i, j] = P(noisy=j | clean=i)``, rows sum to one, detached, dropout off."""
        return self._log_transition().double().softmax(dim=1).float()

    @torch.no_grad()
    def label_posterior(self, clean_logits: Tensor, noisy_labels: Tensor) -> Tensor:
        """(B, K) clean logits and (B,) integer labels -> (B, K) ``P(clean | x, noisy label)``, float32.

        Raises:
            ValueError: If the labels are not integers (B,).
        """
        self._check_shape(clean_logits)
        _labels_tensor_validation(clean_logits, noisy_labels)
        if noisy_labels.ndim != 1:
            raise ValueError(
                f"Expected `noisy_labels` to be integers of shape (B,), but got {_describe(noisy_labels)}."
            )
        with torch.autocast(clean_logits.device.type, enabled=False):
            return functional.label_posterior(clean_logits.float(), noisy_labels, self._log_transition())

    def extra_repr(self) -> str:
        config = self.config
        place = f", dropout={config.dropout} on {config.dropout_on}" if config.noise_type == "softmax" else ""
        return f"num_classes={self.num_classes}, noise_type={config.noise_type!r}{place}, trainable={config.trainable}"

    def whole_weight(self) -> Tensor:
        """(K, K): all of ``weight``, with its gradient, also where FSDP holds a share of it in each process.

        There every process must call it.
        """
        return self.weight.full_tensor() if hasattr(self.weight, "full_tensor") else self.weight

    def _set_weight(self, weight: Tensor) -> None:
        if isinstance(self.weight, DTensor):  # shared out by FSDP: each process has the whole and keeps its part
            sharded = distribute_tensor(weight.to(self.weight.device), self.weight.device_mesh, self.weight.placements)
            self.weight.copy_(sharded)
        else:
            self.weight.copy_(weight)

    def _log_transition(self) -> Tensor:
        return functional.log_transition_matrix(self.whole_weight(), self.config.noise_type)

    def _check_shape(self, clean_logits: Tensor) -> None:
        if clean_logits.ndim != 2 or clean_logits.shape[1] != self.num_classes:
            raise ValueError(
                f"Expected `clean_logits` to have shape (B, {self.num_classes}), a column for each class of the noise "
                f"layer, but got {tuple(clean_logits.shape)}."
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "NoiseLayer":
        # .half(), .bfloat16() and precision="bf16-true" end here: follow to the device, keep float32.
        def keep_dtype(tensor: Tensor) -> Tensor:
            applied = fn(tensor)
            return applied if applied.dtype == tensor.dtype else tensor.to(applied.device)

        return super()._apply(keep_dtype, recurse)


def _labels_tensor_validation(clean_logits: Tensor, noisy_labels: Tensor) -> None:
    is_hard = noisy_labels.ndim == 1 and len(noisy_labels) == len(clean_logits) and not noisy_labels.is_floating_point()
    is_soft = noisy_labels.shape == clean_logits.shape and noisy_labels.is_floating_point()
    if not (is_hard or is_soft):
        raise ValueError(
            f"Expected `noisy_labels` to be integers of shape ({len(clean_logits)},) or soft labels of shape "
            f"{tuple(clean_logits.shape)}, but got {_describe(noisy_labels)}."
        )


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
