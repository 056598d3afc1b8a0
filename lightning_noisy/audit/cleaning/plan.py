"""Which rows of an audit are left out, and why: by decisions of people first, then by the kinds of their issues."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from lightning_noisy.audit.cleaning.decisions import DECISIONS
from lightning_noisy.audit.schema import LABEL_KIND, SPLITS

DROPPED_KINDS = ("placeholder", "outlier", "low_information", "dark", "light", "blurry", "odd_aspect_ratio", "odd_size")
"""Kinds whose images are left out, where they are chosen."""
COPY_KIND = "near_duplicate"
"""Of the same picture one is kept."""
APPLIED_KINDS = (LABEL_KIND, COPY_KIND, *DROPPED_KINDS)
DEFAULT_KINDS = (LABEL_KIND, COPY_KIND, "placeholder", "outlier", "low_information")
REASONS = ("", "decision", *DROPPED_KINDS, "leak", COPY_KIND)
"""Why a row is left out: a person has said so, a kind, because its picture is in a later split too, because it is one
more copy."""
REASON_WORDS = {
    "decision": "decided by a person",
    "leak": "the picture is in a later split too",
    "near_duplicate": "one more copy of a picture",
    "label_issue": "the label is wrong",
    "outlier": "shows none of the classes",
    "low_information": "hardly anything in the picture",
}
UNDECIDED = -1
BATCH_ROWS = 65_536


@dataclass(frozen=True)
class Plan:
    """Of the ``N`` rows of an audit, in their order.

    Args:
        decision: (N,) int8, the place in :data:`~lightning_noisy.audit.cleaning.decisions.DECISIONS`; -1 of a row that
            nobody has decided about, or is unsure of.
        reason: (N,) int8, the place in :data:`REASONS`; 0 of a row that is not left out for any of them.
        times: (M,) how often each of the ids that were decided about is in the audit.
    """

    decision: np.ndarray
    reason: np.ndarray
    times: np.ndarray

    def count(self, reason: str) -> int:
        """How many rows are left out for a reason."""
        return int((self.reason == REASONS.index(reason)).sum())


def in_words(reason: str) -> str:
    """Of :data:`REASONS` or a kind, for people."""
    return REASON_WORDS.get(reason, reason.replace("_", " "))


def check_kinds(kinds: Sequence[str]) -> None:
    """Raises a :class:`ValueError` where one of the kinds is none that an audit can be cleaned of."""
    unknown = [kind for kind in kinds if kind not in APPLIED_KINDS]
    if unknown or isinstance(kinds, str):
        raise ValueError(
            f"Expected argument `kinds` to be a list of {', '.join(map(repr, APPLIED_KINDS))}, but got "
            f"{kinds if isinstance(kinds, str) else unknown[0]!r}."
        )


def make_plan(path: Path, ids: pa.StringArray, words: Sequence[str], kinds: Sequence[str]) -> Plan:
    """Goes through the table once; what is kept of it are some bytes a row.

    Args:
        path: ``audit.parquet``.
        ids: (M,) of the images that were decided about.
        words: (M,) the decisions.
        kinds: Of :data:`APPLIED_KINDS`, those whose images are left out.
    """
    codes = np.array([UNDECIDED if word == "unsure" else DECISIONS.index(word) for word in words], dtype=np.int8)
    decisions, reasons, members = [], [], []
    times, first = np.zeros(len(ids), dtype=np.int64), 0
    for batch in _read(path, kinds):
        decision = np.full(len(batch), UNDECIDED, dtype=np.int8)
        if len(ids):
            place = pc.index_in(batch["id"].combine_chunks(), value_set=ids)
            found = np.flatnonzero(pc.is_valid(place).to_numpy(zero_copy_only=False))
            place = place.drop_null().to_numpy()
            times += np.bincount(place, minlength=len(ids))
            decision[found] = codes[place]
        reason = np.where(decision == DECISIONS.index("drop"), REASONS.index("decision"), 0).astype(np.int8)
        for kind in DROPPED_KINDS:
            if kind in kinds:
                is_dropped = _flags(batch, f"is_{kind}") & (decision == UNDECIDED) & (reason == 0)
                reason[is_dropped] = REASONS.index(kind)
        if COPY_KIND in kinds and "near_duplicate_group" in batch.column_names:
            members.append(_members(batch, first))
        decisions.append(decision)
        reasons.append(reason)
        first += len(batch)
    plan = Plan(
        np.concatenate(decisions or [np.empty(0, np.int8)]), np.concatenate(reasons or [np.empty(0, np.int8)]), times
    )
    if members:
        _leave_out_copies(plan, np.concatenate(members))
    return plan


_MEMBER = np.dtype(
    [("row", np.int64), ("group", np.int64), ("split", np.int8), ("splits", np.int8), ("p_given", np.float32)]
)


def _members(batch: pa.Table, first: int) -> np.ndarray:
    """What is known of the rows whose picture is there several times."""
    rows = np.flatnonzero(pc.is_valid(batch["near_duplicate_group"]).to_numpy())
    batch = batch.take(pa.array(rows))
    members = np.empty(len(rows), dtype=_MEMBER)
    members["row"], members["p_given"] = first + rows, batch["p_given"].to_numpy()
    members["group"] = batch["near_duplicate_group"].to_numpy()
    members["split"] = pc.index_in(batch["split"].combine_chunks(), value_set=pa.array(SPLITS)).to_numpy()
    members["splits"] = sum(
        pc.match_substring(batch["near_duplicate_splits"], split).to_numpy().astype(np.int8) << number
        for number, split in enumerate(SPLITS)
    )
    return members


def _leave_out_copies(plan: Plan, members: np.ndarray) -> None:
    """Nothing of a picture that a later split has too is left; within a split one of it, or those that people keep."""
    _, group = np.unique(members["group"], return_inverse=True)
    count = int(group.max(initial=-1)) + 1
    later = np.zeros(len(members), dtype=bool)
    for number in range(1, len(SPLITS)):
        is_in_it = (members["splits"] >> number & 1).astype(bool)
        audited, left = np.zeros((2, count), dtype=bool)
        its_own = members["split"] == number
        audited[group[its_own]] = True
        left[group[its_own & (plan.reason[members["row"]] == 0)]] = True
        later |= (members["split"] < number) & is_in_it & (left | ~audited)[group]
    is_left = plan.reason[members["row"]] == 0
    plan.reason[members["row"][is_left & later]] = REASONS.index("leak")
    is_left &= ~later
    is_kept = plan.decision[members["row"]] != UNDECIDED
    has_kept = np.zeros(count, dtype=bool)
    has_kept[group[is_left & is_kept]] = True
    is_best = np.zeros(len(members), dtype=bool)
    open_ones = np.flatnonzero(is_left & ~has_kept[group])
    order = open_ones[np.lexsort((-members["row"][open_ones], members["p_given"][open_ones], group[open_ones]))]
    is_best[order[np.append(np.diff(group[order]) != 0, True)[: len(order)]]] = True
    is_copy = is_left & ~is_best & ~(is_kept & has_kept[group])
    plan.reason[members["row"][is_copy]] = REASONS.index(COPY_KIND)


def _read(path: Path, kinds: Sequence[str]) -> Iterator[pa.Table]:
    wanted = ["id", *(f"is_{kind}" for kind in DROPPED_KINDS if kind in kinds)]
    if COPY_KIND in kinds:
        wanted += ["split", "p_given", "near_duplicate_group", "near_duplicate_splits"]
    rows = pyarrow.dataset.dataset(path)
    columns = [name for name in wanted if name in rows.schema.names]
    for batch in rows.to_batches(columns=columns, batch_size=BATCH_ROWS, batch_readahead=1):
        yield pa.Table.from_batches([batch])


def _flags(batch: pa.Table, name: str) -> np.ndarray:
    """(B,) bool; nothing is flagged where the audit does not know."""
    if name not in batch.column_names:
        return np.zeros(len(batch), dtype=bool)
    return pc.fill_null(batch[name].cast(pa.bool_()), False).to_numpy()
