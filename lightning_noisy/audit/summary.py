"""What an audit has found, in few numbers: the head of its report, and ``summary.json`` in its folder."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

SUMMARY_FILE = "summary.json"
FORMAT_VERSION = 1
Z_95 = 1.959964
"""Standard deviations on either side of a 95% interval."""


@dataclass(frozen=True)
class Share:
    """A share in [0, 1] and its 95% interval, which covers the drawing of the images alone."""

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
        errors: The share that is flagged.
    """

    name: str
    images: int
    issues: int
    errors: Share


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
        transition_matrix: (K, K) estimated ``T``, rows the true class; from the suggested and the given labels.
        pairs: All pairs that are flagged, the most frequent first.
        folds: How many models gave out-of-sample probabilities; 0 is one model on its own training images.
        source: Where the images come from, to read them again: arguments of the data module.
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
    source: dict[str, Any] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Writes ``summary.json``."""
        values = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        (directory / SUMMARY_FILE).write_text(json.dumps(values, indent=1), encoding="utf-8")

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
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("format_version", None) != FORMAT_VERSION:
            raise ValueError(f"Expected {str(path)!r} to be of format {FORMAT_VERSION}. Run the audit again.")
        return cls._from_dict(values)

    @classmethod
    def _from_dict(cls, values: Mapping[str, Any]) -> "AuditSummary":
        return cls(
            **{
                **values,
                "errors": Share(**values["errors"]),
                "classes": [ClassErrors(**{**each, "errors": Share(**each["errors"])}) for each in values["classes"]],
                "pairs": [SuspectPair(**each) for each in values["pairs"]],
            }
        )


def summarise(
    counts: np.ndarray, flagged: np.ndarray, class_names: Sequence[str], audit_id: str, **facts: Any
) -> AuditSummary:
    """From counts over all images.

    Args:
        counts: (K, K) integers ``[suggested label, given label]``.
        flagged: (K, K) the same of the flagged images alone.
        class_names: The K names.
        audit_id: As of :class:`AuditSummary`.
        **facts: ``folds`` and ``source`` of :class:`AuditSummary`.
    """
    labelled, issues = counts.sum(axis=0), flagged.sum(axis=0)
    sums = counts.sum(axis=1, keepdims=True)
    matrix = np.where(sums > 0, counts / np.maximum(sums, 1), np.eye(len(counts)))
    found = [SuspectPair(int(given), int(suggested), int(flagged[suggested, given]))
             for suggested, given in np.argwhere(flagged)]  # fmt: skip
    return AuditSummary(
        audit_id=audit_id,
        class_names=list(class_names),
        images=int(counts.sum()),
        issues=int(issues.sum()),
        errors=wilson(int(issues.sum()), int(counts.sum())),
        classes=[
            ClassErrors(name, int(total), int(wrong), wilson(int(wrong), int(total)))
            for name, total, wrong in zip(class_names, labelled, issues, strict=True)
        ],
        transition_matrix=matrix.tolist(),
        pairs=sorted(found, key=lambda pair: (-pair.count, pair.given, pair.suggested)),
        **facts,
    )


def wilson(successes: int, total: int) -> Share:
    """A share and Wilson's 95% interval. Source: Wilson 1927, J. Am. Stat. Assoc. 22, 209-212."""
    if total == 0:
        return Share(0.0, 0.0, 1.0)
    value, square = successes / total, Z_95**2 / total
    centre = (value + square / 2) / (1 + square)
    half = Z_95 / (1 + square) * math.sqrt(value * (1 - value) / total + square / (4 * total))
    return Share(value, max(centre - half, 0.0), min(centre + half, 1.0))
