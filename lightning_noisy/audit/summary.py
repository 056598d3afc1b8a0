"""What an audit has found, in few numbers: the head of its report, and ``summary.json`` in its folder."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lightning_noisy.audit.issues.findings import IssueFindings
from lightning_noisy.audit.schema import SUMMARY_FILE
from lightning_noisy.utils.atomic_files import write_text

FORMAT_VERSION = 1
Z_95 = 1.959964
"""Standard deviations on either side of a 95% interval."""


@dataclass(frozen=True)
class Share:
    """An estimated share of wrong labels, in [0, 1], and between which it lies.

    The estimate is the mean of ``1 - p_given``. ``low`` is the lower end of its 95% interval, for the drawing of the
    images; ``high`` the upper end of that of ``1 - clean_probability``, which takes no label's word for anything. A
    network that has learned wrong labels by heart sees too few all the same.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassErrors:
    """The images that carry one label.

    Args:
        name: The class.
        images: How many carry its label.
        issues: How many of them are flagged.
        errors: The estimated share of them that is wrong.
    """

    name: str
    images: int
    issues: int
    errors: Share


CLEARLY_ABOVE_CHANCE = 0.1
"""Of the way from the most frequent label's share to one: how far the agreement of a network that can judge is."""


@dataclass(frozen=True)
class Agreement:
    """How often the judge of an audit says what the given label says.

    Args:
        share: Of the images, in [0, 1].
        chance: The share of the most frequent label: what a judge that has seen no image could reach.
        images: How many were asked for.
        is_held_out: Whether the judge has not learned from them.
    """

    share: float
    chance: float
    images: int
    is_held_out: bool

    @property
    def is_hardly_above_chance(self) -> bool:
        """Whether the lower end of the share's 95% interval is not clearly above chance."""
        low = wilson(self.share, self.images)[0] if self.images else 0.0
        return low < self.chance + CLEARLY_ABOVE_CHANCE * (1 - self.chance)


@dataclass(frozen=True)
class LabelSums:
    """Sums over all images of an audit.

    Args:
        flagged: (K, K) integers ``[suggested label, given label]`` of the flagged images.
        likeliest: (K, K) integers ``[most probable label, given label]`` of all images.
        doubts: (K,) sum of ``1 - p_given`` by given label.
        network_doubts: (K,) sum of ``1 - clean_probability`` by given label.
    """

    flagged: np.ndarray
    likeliest: np.ndarray
    doubts: np.ndarray
    network_doubts: np.ndarray


@dataclass(frozen=True)
class SuspectPair:
    """Flagged images with one given label and one suggested label, by class number."""

    given: int
    suggested: int
    count: int


@dataclass(frozen=True)
class AuditSummary:
    """The numbers of an audit.

    Args:
        audit_id: Tells this audit from every other: model, images and labels are in it.
        class_names: The K names.
        images: How many images were looked at.
        issues: How many are flagged.
        errors: The estimated share of wrong labels.
        classes: One for each class, in the order of ``class_names``.
        transition_matrix: (K, K) estimated ``T``, rows the true class; from the most probable and the given labels.
        pairs: All pairs that are flagged, the most frequent first.
        folds: How many models gave out-of-sample probabilities; 0 is one model on its own training images.
        has_probabilities: Whether the posterior of all classes was kept.
        left_out: What the data hold beside the audited images and labels, in words.
        source: Where the images come from, to read them again: arguments of the data module.
        judge: What has judged the labels, in words.
        agreement: How often it says what the labels say; ``None`` in an audit of an earlier version.
        found: What was found beside wrong labels; ``None`` in an audit of an earlier version.
    """

    audit_id: str
    class_names: list[str]
    images: int
    issues: int
    errors: Share
    classes: list[ClassErrors]
    transition_matrix: list[list[float]]
    pairs: list[SuspectPair]
    folds: int = 0
    has_probabilities: bool = False
    left_out: list[str] = field(default_factory=list)
    source: dict[str, Any] = field(default_factory=dict)
    judge: str = "the trained model"
    agreement: Agreement | None = None
    found: IssueFindings | None = None

    @property
    def findings(self) -> list[str]:
        """What was found beside wrong labels, in sentences."""
        share = self.agreement.share if self.agreement is not None and self.agreement.is_held_out else None
        return [] if self.found is None else self.found.sentences(self.class_names, share)

    @property
    def caution(self) -> str:
        """Why this audit is not to be believed, in a sentence; empty where nothing speaks against it."""
        if self.agreement is None or not self.agreement.is_hardly_above_chance:
            return ""
        seen = "labels of images that it has not learned from" if self.agreement.is_held_out else "training labels"
        return (
            f"This audit can't be relied on: {self.judge} agrees with {self.agreement.share:.0%} of the {seen}, hardly "
            f"more than the most frequent class alone would ({self.agreement.chance:.0%}). Either nearly all labels "
            "are wrong, or the network can't tell these classes apart: train it longer, or take another backbone."
        )

    def write(self, directory: Path) -> None:
        """Writes ``summary.json``."""
        values = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self), "findings": self.findings}
        write_text(directory / SUMMARY_FILE, json.dumps(values, indent=1, allow_nan=False))

    @classmethod
    def read(cls, directory: Path) -> "AuditSummary":
        """Reads what :meth:`write` wrote.

        Raises:
            ValueError: If there is no finished audit.
        """
        path = directory / SUMMARY_FILE
        if not path.is_file():
            raise ValueError(
                f"Expected {str(directory)!r} to hold a finished audit, but it has no {SUMMARY_FILE}. Run "
                f"`lightning-noisy audit --output {directory}` to its end."
            )
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.pop("format_version") != FORMAT_VERSION:
                raise ValueError("it is of another version")
            values.pop("findings", None)  # for those who read the file
            return cls._from_dict(values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"Expected {str(path)!r} to be the summary of an audit, but it can't be read as one ({error}). Remove "
                "it and run the audit again."
            ) from error

    @classmethod
    def _from_dict(cls, values: Mapping[str, Any]) -> "AuditSummary":
        return cls(
            **{
                **values,
                "errors": Share(**values["errors"]),
                "classes": [ClassErrors(**{**each, "errors": Share(**each["errors"])}) for each in values["classes"]],
                "pairs": [SuspectPair(**each) for each in values["pairs"]],
                "agreement": Agreement(**values["agreement"]) if values.get("agreement") else None,
                "found": IssueFindings.from_dict(values["found"]) if values.get("found") else None,
            }
        )


def summarise(
    sums: LabelSums, class_names: Sequence[str], audit_id: str, errors: Share | None = None, **facts: Any
) -> AuditSummary:
    """From sums over all images.

    Args:
        sums: Over all images.
        class_names: The K names.
        audit_id: As of :class:`AuditSummary`.
        errors: The share of wrong labels, where it is known better than by these sums; those of the classes are
            scaled, so that their mean is the same.
        **facts: Other fields of :class:`AuditSummary`.
    """
    images, issues = sums.likeliest.sum(axis=0), sums.flagged.sum(axis=0)
    predicted = sums.likeliest.sum(axis=1, keepdims=True)
    matrix = np.where(predicted > 0, sums.likeliest / np.maximum(predicted, 1), np.eye(len(predicted)))
    pairs = [
        SuspectPair(int(given), int(suggested), int(sums.flagged[suggested, given]))
        for suggested, given in np.argwhere(sums.flagged)
    ]
    overall = _errors(sums.doubts.sum(), sums.network_doubts.sum(), images.sum())
    scale = 1.0 if errors is None or overall.value == 0 else errors.value / overall.value
    return AuditSummary(
        audit_id=audit_id,
        class_names=list(class_names),
        images=int(images.sum()),
        issues=int(issues.sum()),
        errors=errors or overall,
        classes=[
            ClassErrors(name, int(total), int(wrong), _scaled(_errors(doubts, network_doubts, total), scale))
            for name, total, wrong, doubts, network_doubts in zip(
                class_names, images, issues, sums.doubts, sums.network_doubts, strict=True
            )
        ],
        transition_matrix=matrix.tolist(),
        pairs=sorted(pairs, key=lambda pair: (-pair.count, pair.given, pair.suggested)),
        **facts,
    )


def _errors(doubts: float, network_doubts: float, images: int) -> Share:
    if images == 0:
        return Share(0.0, 0.0, 1.0)
    value = float(doubts / images)
    high = wilson(float(network_doubts / images), int(images))[1]
    return Share(value, wilson(value, int(images))[0], max(high, value))


def _scaled(share: Share, scale: float) -> Share:
    value = min(share.value * scale, 1.0)
    return Share(value, min(share.low, value), max(share.high, value))


def wilson(share: float, total: int) -> tuple[float, float]:
    """Both ends of the 95% interval of a share of ``total`` images. Source: Wilson 1927, J. Am. Stat. Assoc. 22."""
    square = Z_95**2 / total
    centre = (share + square / 2) / (1 + square)
    half = Z_95 / (1 + square) * math.sqrt(share * (1 - share) / total + square / (4 * total))
    return max(centre - half, 0.0), min(centre + half, 1.0)
