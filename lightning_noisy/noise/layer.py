"""The noise layer: clean logits in, log-probabilities of the noisy label out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from lightning_noisy.noise import functional
from lightning_noisy.noise.config import NoiseConfig, resolve_noise_config
from lightning_noisy.noise.counting import balancing_weights
from lightning_noisy.noise.initial import from_confusion, from_matrix
from lightning_noisy.noise.share import Share, in_words, next_share

SHARE, EPOCHS, WAITED, STEP_BACKS = range(4)
"""What the places of :attr:`NoiseLayer.progress` hold."""


class NoiseLayer(nn.Module):
    """A model of the label noise, put on top of a classifier for training and taken off afterwards.

    ``weight``, (K, K), is the paper's ``W`` for ``noise_type="softmax"`` and the logits of the rows of ``T`` for
    ``"stochastic"``. The transition matrix is always derived. The layer computes in float32 whatever the type of its
    input, and its state stays in float32 when the model around it is cast, since small steps would vanish in half
    precision.

    A training tells it after each epoch what was predicted and what the labels said (:meth:`update_from_counts`);
    Lightning's and transformers' Trainer do so by themselves. What the layer has taken from that is in its
    ``state_dict``, with which every checkpoint of every trainer holds it.

    Args:
        config: A :class:`NoiseConfig`, its dict, or just the number of classes.

    Attributes:
        label_weights: (K,) what an image with each label weighs in the loss.
        progress: (4,) the layer's share of the loss, the epochs that it was told of, those in which it waited before it
            first acted, and how often it has stepped back.

    Example:
        >>> layer = NoiseLayer(NoiseConfig(num_classes=3, dropout=0.0))
        >>> layer(torch.zeros(1, 3)).exp()
        tensor([[0.3333, 0.3333, 0.3333]], grad_fn=<ExpBackward0>)
    """

    weight: nn.Parameter
    label_weights: Tensor
    progress: Tensor

    def __init__(self, config: NoiseConfig | Mapping[str, Any] | int) -> None:
        super().__init__()
        self.config = resolve_noise_config(config)
        num_classes = self.num_classes
        self.weight = nn.Parameter(torch.empty(num_classes, num_classes), requires_grad=self.config.trainable)
        self.register_buffer("label_weights", torch.ones(num_classes))
        self.register_buffer("progress", self.start_progress())
        self._latest_share: Share | None = None
        self._knows_matrix: bool | None = None
        self.reset()

    @property
    def num_classes(self) -> int:
        """The number of classes ``K``."""
        assert self.config.num_classes is not None  # resolve_noise_config has seen to it
        return self.config.num_classes

    @property
    def share(self) -> float:
        """The layer's share of the loss, in [0, 1]; the rest is cross-entropy. On an accelerator this waits for it."""
        return float(self.progress[SHARE])

    @property
    def warmup_epochs(self) -> int:
        """Epochs of plain cross-entropy before the layer first acts: the config's, or how many there were so far."""
        known = self.config.warmup_epochs
        return int(self.progress[WAITED]) if known == "auto" else known

    @property
    def step_backs(self) -> int:
        """How often the layer had to step back because a class was being lost."""
        return int(self.progress[STEP_BACKS])

    def verdict(self, class_names: Sequence[str] | None = None) -> str | None:
        """One sentence at the end of a training in which the layer could not help; ``None`` where it acted throughout.

        Args:
            class_names: To name classes by; their numbers by default.
        """
        share, epochs, waited, step_backs = self.progress.tolist()
        because = ""
        if (latest := self._latest_share) is not None:
            because = f": {in_words(latest.reason, latest.classes, class_names)}"
        if waited >= epochs and self.config.warmup_epochs != 0:
            if epochs == 0:
                because = ": it needs the counts of a whole epoch, and the training ended within the first one"
            elif share > 0:
                because = ": the network knew enough only when the last epoch was over"
            return f"The noise layer never acted, all of the training was plain cross-entropy{because}."
        if step_backs:
            times = "once" if step_backs == 1 else f"{step_backs:g} times"
            return f"The noise layer had to step back {times} and ended with {share:.0%} of the loss{because}."
        if self.config.warmup_epochs == "auto" and share == 0:
            return f"The noise layer acted in the beginning and ended with none of the loss{because}."
        if self.config.warmup_epochs == "auto" and share < 1:
            return (
                f"The noise layer came late and ended with {share:.1%} of the loss: it begins with an eighth and "
                "doubles from epoch to epoch, unless a validation shows that labels are learned by heart."
            )
        return None

    @property
    def takes_posterior(self) -> bool:
        """Whether the layer trains the network by posterior targets, for which it must know a matrix."""
        config = self.config
        if config.objective != "posterior" or config.takes_gradients:
            return False
        if self._knows_matrix is None:  # asked for once: on an accelerator it is waited for
            self._knows_matrix = config.transition_matrix is not None or bool(self.progress[EPOCHS] > 0)
        return self._knows_matrix

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
    def update_from_counts(
        self,
        counts: Tensor,
        confidence: float | None = None,
        learned_by_heart: tuple[float, float] | None = None,
        gently: bool = True,
    ) -> None:
        """Takes what an epoch has shown, for the next one: the matrix, the labels' weights, the layer's share.

        The matrix is ``T̂[i, j] = counts[i, j] / Σ_j counts[i, j]`` with one image more in each row, spread evenly; the
        softmax layer becomes ``W = log T̂ᵀ``, whose :meth:`transition_matrix` is ``T̂``. Sources: Goldberger, Ben-Reuven,
        ICLR 2017, who start from the warm-up's confusion, once; the counting is near to that of confident learning
        (Northcutt et al. 2021, arXiv 1911.00068).

        Args:
            counts: (K, K) ``[predicted class, noisy label]`` over all images of the epoch, of all processes.
            confidence: The mean of the network's largest probability in it; by default what a network has that is as
                sure as it is right.
            learned_by_heart: By how much at least and at most its agreement with the labels is above that with noisy
                validation labels; ``None`` without a validation.
            gently: Whether a layer that begins to act takes an eighth of the loss at first where no validation has
                shown that labels are learned by heart.

        Raises:
            ValueError: If ``counts`` is not (K, K).
        """
        if counts.shape != (self.num_classes, self.num_classes):
            raise ValueError(
                f"Expected argument `counts` to have shape ({self.num_classes}, {self.num_classes}), but got "
                f"{tuple(counts.shape)}."
            )
        counts = counts.cpu()
        if float(counts.sum()) == 0:
            return  # nothing was shown
        if confidence is None:
            confidence = float(counts.trace() / counts.sum())
        self.label_weights.copy_(balancing_weights(counts, self.config.class_balance).float())
        self._update_share(counts, confidence, learned_by_heart, gently)
        if self.config.follows_counts:
            matrix = from_confusion(counts.float())  # K² doubles may be too many
            self._set_weight(functional.weight_from_transition_matrix(matrix, self.config.noise_type))
            self._knows_matrix = True

    def _update_share(
        self, counts: Tensor, confidence: float, learned_by_heart: tuple[float, float] | None, gently: bool
    ) -> None:
        share, epochs, waited, step_backs = self.progress.tolist()
        if self.config.warmup_epochs == "auto":
            new = next_share(share, int(step_backs), counts, confidence, learned_by_heart, gently)
        else:
            is_over = epochs + 1 >= self.config.warmup_epochs
            new = Share(float(is_over), 0, "" if is_over else "its `warmup_epochs` were not over")
        has_acted = waited < epochs or share > 0
        if new.reason:
            self._latest_share = new
        self.progress.copy_(torch.tensor([new.value, epochs + 1, waited if has_acted else epochs + 1, new.step_backs]))

    def start_progress(self) -> Tensor:
        """(4,), on the CPU: :attr:`progress` before a training."""
        return torch.tensor([float(self.config.warmup_epochs == 0), 0.0, 0.0, 0.0], device="cpu")

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

    def posterior_loss(self, clean_logits: Tensor, noisy_labels: Tensor) -> Tensor:
        """Mean cross-entropy of the clean logits towards the posterior of the true class, a float32 scalar.

        An image weighs what its given label does (:attr:`label_weights`); one without a label adds nothing.

        Args:
            clean_logits: (B, K).
            noisy_labels: Integer labels (B,), or soft labels (B, K).

        Raises:
            ValueError: If the shapes do not fit together.
        """
        self._check_shape(clean_logits)
        _labels_tensor_validation(clean_logits, noisy_labels)
        with torch.autocast(clean_logits.device.type, enabled=False):
            logits, weight, noise_type = clean_logits.float(), self.whole_weight().detach(), self.config.noise_type
            if noisy_labels.ndim == 1:
                labels = noisy_labels.clamp(min=0)
                log_likelihood = functional.label_log_likelihood(weight, noise_type, labels)
                targets = functional.posterior_targets(logits.detach(), labels, log_likelihood)
                weights = self.label_weights[noisy_labels] * (noisy_labels != functional.NO_LABEL)
            else:
                targets = functional.soft_posterior_targets(logits.detach(), noisy_labels, weight, noise_type)
                weights = (noisy_labels.float() * self.label_weights).sum(dim=1)
            return -(weights * (targets * logits.log_softmax(dim=1)).sum(dim=1)).mean()

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

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # A layer that was saved before it kept these has the ones that it starts with.
        state_dict.setdefault(f"{prefix}label_weights", torch.ones(self.num_classes))
        state_dict.setdefault(f"{prefix}progress", self.start_progress())
        self._knows_matrix = None
        super()._load_from_state_dict(state_dict, prefix, *args)

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
