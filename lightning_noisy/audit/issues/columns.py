"""From what the pictures tell to the issue columns of an audit."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lightning_noisy.audit.issues.duplicates import Duplicates
from lightning_noisy.audit.issues.outliers import IS_OUTLIER_BELOW
from lightning_noisy.audit.issues.quality import quality_flags, quality_scores
from lightning_noisy.audit.schema import ISSUES_SCHEMA, SPLITS
from lightning_noisy.noise.functional import NO_LABEL

PLACEHOLDER_COPIES = 10
"""A picture that is there so often, and under so many labels, shows none of the classes."""


@dataclass(frozen=True)
class Pictures:
    """``N`` images of all splits.

    Args:
        facts: Columns of :data:`~lightning_noisy.inference.facts.FACTS_SCHEMA`, (N,) each.
        labels: (N,) given labels; -1 where there is none.
        splits: (N,) the place in :data:`~lightning_noisy.audit.schema.SPLITS` of the split of each.
    """

    facts: dict[str, np.ndarray]
    labels: np.ndarray
    splits: np.ndarray


def issue_columns(pictures: Pictures, duplicates: Duplicates, outlier_scores: np.ndarray | None = None) -> pa.Table:
    """N rows of :data:`~lightning_noisy.audit.schema.ISSUES_SCHEMA`.

    Args:
        pictures: The images.
        duplicates: Among them.
        outlier_scores: (N,), NaN of an image that was not judged; without features there are none.
    """
    unlike = np.full(len(pictures.labels), np.nan) if outlier_scores is None else outlier_scores
    group, is_grouped = duplicates.group, duplicates.group >= 0
    agreeing = label_shares(group, pictures.labels)
    is_conflicting = is_in_conflict(group, pictures.labels)
    scores = quality_scores(pictures.facts)
    flags = quality_flags(scores)
    copies = np.where(is_grouped, np.bincount(group[is_grouped], minlength=1)[group], 1)
    is_often = (copies >= PLACEHOLDER_COPIES) & (mixed_labels(group, pictures.labels) | flags["low_information"])
    columns = {
        **{f"is_{kind}": values for kind, values in flags.items()},
        **{f"{kind}_score": values for kind, values in scores.items()},
        "is_outlier": pa.array(unlike < IS_OUTLIER_BELOW, mask=np.isnan(unlike)),
        "outlier_score": pa.array(unlike, from_pandas=True),
        "is_placeholder": is_often,
        "placeholder_score": 1 / copies,
        "is_near_duplicate": is_grouped,
        "near_duplicate_score": duplicates.score,
        "is_exact_duplicate": duplicates.is_exact,
        "exact_duplicate_score": 1 - duplicates.is_exact,
        "is_conflicting_duplicate": is_conflicting,
        "conflicting_duplicate_score": agreeing,
        "near_duplicate_group": pa.array(group, mask=~is_grouped),
        "near_duplicate_splits": _splits_of_groups(group, pictures),
    }
    return pa.table(
        {
            name: _column(columns[name], field.type)
            for name, field in zip(ISSUES_SCHEMA.names, ISSUES_SCHEMA, strict=True)
        },
        schema=ISSUES_SCHEMA,
    )


def mixed_labels(group: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) bool, whether no label has more than half of the copies of the same picture."""
    is_grouped = group >= 0
    most = np.zeros(group.max(initial=-1) + 1, dtype=np.float32)
    np.maximum.at(most, group[is_grouped], label_shares(group, labels)[is_grouped])
    return is_grouped & (most <= 0.5)[group] if len(most) else is_grouped


def is_in_conflict(group: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) bool, whether the same picture has another label too: all of its labels but one are wrong for certain."""
    known = np.flatnonzero((group >= 0) & (labels != NO_LABEL))
    lowest = np.full(group.max(initial=-1) + 1, np.iinfo(np.int64).max)
    highest = np.full(len(lowest), -1)
    np.minimum.at(lowest, group[known], labels[known])
    np.maximum.at(highest, group[known], labels[known])
    return (group >= 0) & (lowest < highest)[group] if len(lowest) else np.zeros(len(group), dtype=bool)


def label_shares(group: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) float32, the share of the labels of the same picture that are that of the image; 1 of one that is alone."""
    shares = np.ones(len(group), dtype=np.float32)
    known = np.flatnonzero((group >= 0) & (labels != NO_LABEL))
    if len(known):
        _, pair, count = np.unique(
            np.stack([group[known], labels[known]]), axis=1, return_inverse=True, return_counts=True
        )
        shares[known] = count[pair.ravel()] / np.bincount(group[known])[group[known]]
    return shares


def _splits_of_groups(group: np.ndarray, pictures: Pictures) -> pa.Array:
    """Of each image the names of the splits that its picture is in, such as ``"train, test"``."""
    is_grouped = group >= 0
    masks = np.zeros(group.max(initial=-1) + 1, dtype=np.int64)
    np.bitwise_or.at(masks, group[is_grouped], 1 << pictures.splits[is_grouped])
    names = [
        ", ".join(name for number, name in enumerate(SPLITS) if mask >> number & 1) for mask in range(1 << len(SPLITS))
    ]
    found = pa.array(masks[group] if len(masks) else np.zeros(len(group), dtype=np.int64), mask=~is_grouped)
    return pa.array(names).take(found)


def _column(values: np.ndarray | pa.Array, kind: pa.DataType) -> pa.Array:
    return values.cast(kind) if isinstance(values, pa.Array) else pa.array(values).cast(kind)
