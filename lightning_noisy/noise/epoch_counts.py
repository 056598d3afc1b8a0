"""What an epoch of training has shown: the one object that every trainer feeds, asks and keeps in its checkpoints."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_noisy.noise.counting import add_label_counts, disagreement_rate, one_hot, sum_over_ranks
from lightning_noisy.noise.functional import NO_LABEL
from lightning_noisy.noise.layer import NoiseLayer
from lightning_noisy.noise.objective import clean_cross_entropy
from lightning_noisy.noise.share import TOLERANCE

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes, which must all call it."""


@dataclass(frozen=True)
class EpochSummary:
    """What an epoch has shown, of all processes.

    Args:
        label_counts: (K, K) ``[predicted class, given noisy label]``, float64 on the CPU.
        confidence: The mean of the network's largest probability.
        clean_loss: The mean cross-entropy of the clean logits against the labels that were trained on.
        images: How many images had a label.
        right: How many noisy labels of the last validation in this epoch the network has predicted.
        validated: How many labels that was looked for in; zero without a validation.
        soft_counts: (K, K) as ``label_counts``, of the soft labels that were trained on in place of the given ones.
    """

    label_counts: Tensor
    confidence: float
    clean_loss: float
    images: float
    right: float = 0.0
    validated: float = 0.0
    soft_counts: Tensor | None = None

    @property
    def trained_counts(self) -> Tensor:
        """(K, K) of the labels that were trained on, given or soft: those that the layer models."""
        return self.label_counts if self.soft_counts is None else self.soft_counts

    def learned_by_heart(self, before: "EpochSummary | None") -> tuple[float, float] | None:
        """By how much the agreement with the labels is above that with the noisy ones of the validation.

        From, to: two standard deviations around what was counted, by which chance moves the validation's. The network
        learns while the epoch's agreement is counted, so the validation's is the mean of those before and after it.
        ``None`` in the first epoch and without a validation, and where other labels were trained on, with which its
        labels can't be compared.

        Args:
            before: The epoch before.
        """
        if before is None or not self.validated or self.soft_counts is not None:
            return None
        after = self.right / self.validated
        held_out = (after + before.right / before.validated) / 2 if before.validated else after
        by_chance = TOLERANCE * math.sqrt(held_out * (1 - held_out) / self.validated)
        counted = 1 - self.disagreement - held_out
        return counted - by_chance, counted + by_chance

    @property
    def disagreement(self) -> float:
        """The share of the labels that were trained on with which the network disagrees."""
        return float(disagreement_rate(self.trained_counts))

    @property
    def estimated_rate(self) -> float:
        """The share of the given labels with which the network disagrees."""
        return float(disagreement_rate(self.label_counts))


class EpochCounts:
    """Counts what the network predicts and what the labels say while it trains, and tells the noise layer at the end.

    A trainer calls :meth:`start_epoch` when an epoch begins, :meth:`observe` at each step and, where it validates on
    noisy labels, :meth:`observe_validation`; of several validations in an epoch the last one counts. The sums over the
    processes are made only where somebody asks for them.

    Args:
        reduce: Sums over the processes; by default those of ``torch.distributed``, if there are any.

    Attributes:
        epoch: Which is counted; ``None`` before the first.
        last: What the last epoch that is over has shown; ``None`` before its end.
    """

    def __init__(self, reduce: Reduce = sum_over_ranks) -> None:
        self.reduce = reduce
        self.epoch: int | None = None
        self.last: EpochSummary | None = None
        self._label_counts: Tensor | None = None
        self._soft_counts: Tensor | None = None
        self._sums: Tensor | None = None
        self._validation: Tensor | None = None
        self._validation_under_way: Tensor | None = None
        self._summary: EpochSummary | None = None

    @torch.no_grad()
    def observe(self, clean_logits: Tensor, noisy_labels: Tensor, soft_labels: Tensor | None = None) -> None:
        """Counts one batch of a training; a label of -1 counts nothing.

        Args:
            clean_logits: (B, K).
            noisy_labels: (B,) or (B, K).
            soft_labels: (B, K), if they are trained on in place of ``noisy_labels``.
        """
        if self._validation_under_way is not None:
            self.end_validation()
        self._label_counts = add_label_counts(self._label_counts, clean_logits, noisy_labels)
        trained = noisy_labels
        if soft_labels is not None:
            self._soft_counts = add_label_counts(self._soft_counts, clean_logits, soft_labels)
            trained = soft_labels
        soft = trained if trained.ndim == 2 else one_hot(trained, clean_logits.shape[1])
        labelled = soft.float().sum(dim=1)
        confidence = clean_logits.float().softmax(dim=1).amax(dim=1)
        loss = clean_cross_entropy(clean_logits, trained) * len(clean_logits)
        self._sums = _added(self._sums, torch.stack([(confidence * labelled).sum(), loss, labelled.sum()]))
        self._summary = None

    @torch.no_grad()
    def observe_validation(self, clean_logits: Tensor, noisy_labels: Tensor) -> None:
        """Counts one batch of a validation on noisy labels, in evaluation mode: (B, K) logits and labels (B,)."""
        known = noisy_labels != NO_LABEL
        right = (clean_logits.argmax(dim=1) == noisy_labels) & known
        batch = torch.stack([right.sum().float(), known.sum().float()])
        self._validation_under_way = _added(self._validation_under_way, batch)
        self._summary = None

    def end_validation(self, counts: bool = True) -> None:
        """Says that a validation is over, as a step of training and the end of the epoch say too.

        Args:
            counts: Whether it takes the place of the epoch's earlier ones; else it is forgotten and they stay.
        """
        if counts:
            self._validation = self._validation_under_way
        self._validation_under_way = self._summary = None

    @property
    def is_empty(self) -> bool:
        """Whether this process has counted nothing in the epoch under way."""
        return self._label_counts is None

    def so_far(self) -> EpochSummary | None:
        """What the epoch under way has shown; ``None`` if that is nothing. Every process must call it."""
        if self._summary is None and self._label_counts is not None and self._sums is not None:
            latest = self._validation if self._validation_under_way is None else self._validation_under_way
            validation = torch.zeros_like(self._sums[:2]) if latest is None else latest.to(self._sums.device)
            confidence, loss, images, right, validated = self.reduce(torch.cat([self._sums, validation])).tolist()
            counted = max(images, 1e-9)
            counts = self.reduce(self._label_counts)
            soft_counts = None if self._soft_counts is None else self.reduce(self._soft_counts)
            self._summary = EpochSummary(
                counts, confidence / counted, loss / counted, images, right, validated, soft_counts
            )
        return self._summary

    @property
    def latest(self) -> EpochSummary | None:
        """What the epoch under way has shown so far, else the last one. Every process must ask for it."""
        return self.so_far() or self.last

    def start_epoch(self, epoch: int, noise_layer: NoiseLayer | None) -> None:
        """Begins to count an epoch; one under way is ended first. Told twice of the same epoch it does nothing."""
        if epoch != self.epoch:
            self.end_epoch(noise_layer)
            self.epoch = epoch

    def end_epoch(self, noise_layer: NoiseLayer | None) -> None:
        """Tells the layer what the epoch has shown, which is then :attr:`last`. Every process must call it."""
        summary = self.so_far()
        if summary is not None and summary.images > 0:
            if noise_layer is not None:
                gently = summary.soft_counts is None  # soft labels were judged before the training
                noise_layer.update_from_counts(
                    summary.trained_counts, summary.confidence, summary.learned_by_heart(self.last), gently
                )
            self.last = summary
        self._forget_epoch()

    def _forget_epoch(self) -> None:
        self._label_counts = self._soft_counts = self._sums = self._summary = None
        self._validation = self._validation_under_way = None

    def state_dict(self, of_this_process: bool = False) -> dict[str, Any]:
        """The epoch under way and the last one, as tensors for a checkpoint.

        Args:
            of_this_process: Whether one process alone calls it: where the others' counts were not asked for since the
                last step, only its own are kept. Otherwise every process must call it.
        """
        if of_this_process and self._summary is None:
            own = EpochCounts(lambda counts: counts.cpu().double())
            own._label_counts, own._soft_counts, own._sums = self._label_counts, self._soft_counts, self._sums
            own._validation, own._validation_under_way = self._validation, self._validation_under_way
            return {"epoch": self.epoch, "so_far": _pack(own.so_far()), "last": _pack(self.last)}
        return {"epoch": self.epoch, "so_far": _pack(self.so_far()), "last": _pack(self.last)}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device, rank: int = 0) -> None:
        """Resumes what :meth:`state_dict` has kept; of lists too, as a JSON file has them.

        Args:
            state: The sums of all processes: the first one resumes them, the others start with nothing.
            device: Where to count on.
            rank: Of this process.
        """
        self.epoch, self.last = state["epoch"], _unpack(state["last"])
        self._forget_epoch()
        so_far = _unpack(state["so_far"])
        if so_far is None:
            return
        sums = torch.tensor([so_far.confidence * so_far.images, so_far.clean_loss * so_far.images, so_far.images])
        mine = float(rank == 0)
        self._label_counts = (so_far.label_counts.float() * mine).to(device)
        if so_far.soft_counts is not None:
            self._soft_counts = (so_far.soft_counts.float() * mine).to(device)
        self._sums = (sums * mine).to(device)
        self._validation = (torch.tensor([so_far.right, so_far.validated]) * mine).to(device)


def _added(sums: Tensor | None, batch: Tensor) -> Tensor:
    return batch if sums is None else sums + batch


def _pack(summary: EpochSummary | None) -> dict[str, Any] | None:
    """Only the pairs that occur: small also where K is large."""
    if summary is None:
        return None
    numbers = [summary.confidence, summary.clean_loss, summary.images, summary.right, summary.validated]
    packed = {**_pack_counts(summary.label_counts), "sums": torch.tensor(numbers, dtype=torch.float64)}
    return packed if summary.soft_counts is None else {**packed, "soft": _pack_counts(summary.soft_counts)}


def _pack_counts(counts: Tensor) -> dict[str, Any]:
    pairs = torch.nonzero(counts)
    return {"num_classes": len(counts), "pairs": pairs, "values": counts[pairs[:, 0], pairs[:, 1]]}


def _unpack(packed: Mapping[str, Any] | None) -> EpochSummary | None:
    if packed is None:
        return None
    soft_counts = _unpack_counts(packed["soft"]) if "soft" in packed else None
    confidence, loss, images, *_, right, validated = torch.as_tensor(packed["sums"]).tolist()  # earlier ones had more
    return EpochSummary(_unpack_counts(packed), confidence, loss, images, right, validated, soft_counts)


def _unpack_counts(packed: Mapping[str, Any]) -> Tensor:
    num_classes = packed["num_classes"]
    counts = torch.zeros(num_classes, num_classes, dtype=torch.float64)
    pairs = torch.as_tensor(packed["pairs"], dtype=torch.long).reshape(-1, 2)
    counts[pairs[:, 0], pairs[:, 1]] = torch.as_tensor(packed["values"], dtype=torch.float64)
    return counts
