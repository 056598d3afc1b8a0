"""From issue columns to what was found, in few numbers."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from lightning_noisy.audit.issues.columns import Pictures, is_in_conflict
from lightning_noisy.audit.issues.duplicates import Duplicates
from lightning_noisy.audit.issues.findings import IssueFindings, Leak
from lightning_noisy.audit.schema import KINDS, LABEL_KIND, SPLITS
from lightning_noisy.noise.functional import NO_LABEL


def summarise_issues(
    table: pa.Table, pictures: Pictures, duplicates: Duplicates, audited: Sequence[int] | np.ndarray
) -> IssueFindings:
    """From the issue columns of ``N`` images.

    Args:
        table: Of :func:`~lightning_noisy.audit.issues.columns.issue_columns`.
        pictures: The images.
        duplicates: Among them.
        audited: (M,) the rows of the audited ones.
    """
    rows = table.take(pa.array(audited))
    counts = {kind: rows[f"is_{kind}"] for kind in KINDS if kind != LABEL_KIND}
    group, is_grouped = duplicates.group, duplicates.group >= 0
    known = np.flatnonzero(is_in_conflict(group, pictures.labels) & (pictures.labels != NO_LABEL))
    pair, size = np.unique(np.stack([group[known], pictures.labels[known]]), axis=1, return_counts=True)
    most = np.zeros(group.max(initial=-1) + 1, dtype=np.int64)
    np.maximum.at(most, pair[0], size)
    return IssueFindings(
        kinds={kind: int(np.count_nonzero(flags.to_numpy())) for kind, flags in counts.items() if not flags.null_count},
        pictures=len(most),
        conflicts=len(np.unique(group[known])),
        wrong_at_least=len(known) - int(most.sum()),
        most_copies=int(np.bincount(group[is_grouped], minlength=1).max()),
        leaks=_leaks(group, pictures.splits),
    )


def _leaks(group: np.ndarray, splits: np.ndarray) -> list[Leak]:
    """Of a group whose first split is earlier, all images of a later one."""
    is_grouped = group >= 0
    first = np.full(group.max(initial=-1) + 1, len(SPLITS))
    np.minimum.at(first, group[is_grouped], splits[is_grouped])
    leaked = is_grouped.copy()
    leaked[is_grouped] = first[group[is_grouped]] < splits[is_grouped]
    numbers = {number: int((leaked & (splits == number)).sum()) for number in range(1, len(SPLITS))}
    return [Leak(SPLITS[number], images, int((splits == number).sum())) for number, images in numbers.items() if images]
