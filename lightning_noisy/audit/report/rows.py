"""Which images of an audit are in its page: wrong labels, groups of copies, strangers, poor pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from lightning_noisy.audit.schema import KINDS, LABEL_KIND

PAGE_COLUMNS = ["id", "path", "split", "row", "given_label", "suggested_label"]
PAGE_COLUMNS += ["p_given", "p_suggested", "clean_probability", "is_issue", "rank"]
GROUP, SPLITS = "near_duplicate_group", "near_duplicate_splits"
QUALITY_KINDS = ("placeholder", "low_information", "dark", "light", "blurry", "odd_aspect_ratio", "odd_size")
READ_ROWS = 16_384
"""Rows of the table in memory at a time while the first ones are looked for."""
SHARE_OF_A_KIND = 5
"""Copies, strangers and poor pictures get at most this part of the page each: one in five."""
MOST_COPIES = 12
"""Of one picture in the page."""


def page_rows(path: Path, most: int, ids: Sequence[str] = ()) -> pa.Table:
    """At most ``most`` rows: flagged labels by rank, then the others by rank; copies, strangers and poor pictures too.

    Args:
        path: ``audit.parquet``.
        most: Rows.
        ids: Of images that are wanted as examples; of these too there are a fifth of the page at most.

    Beside the columns of the audit that the page shows there are ``kinds``, a list of the kinds of each image beside a
    wrong label, ``near_duplicate_group`` and ``near_duplicate_splits``.
    """
    rows = pyarrow.dataset.dataset(path)
    budget = most // SHARE_OF_A_KIND
    chosen = np.unique(
        np.concatenate(
            [
                _ranks_of_copies(rows, budget),
                _ranks_of(rows, ("outlier",), budget),
                _ranks_of(rows, QUALITY_KINDS, budget),
                _ranks_of_ids(rows, ids[:budget]),
            ]
        )
    )
    is_chosen = pc.field("rank").isin(pa.array(chosen, pa.int64()))
    columns = _columns(rows)
    others = rows.to_table(columns=columns, filter=is_chosen) if len(chosen) else None
    first = _first_rows(rows, columns, most - len(chosen), ~is_chosen if len(chosen) else None)
    table = first if others is None else pa.concat_tables([first, others])
    order = np.lexsort((table["rank"].to_numpy(), ~table["is_issue"].to_numpy()))
    return _with_kinds(table.take(pa.array(order)))


def _first_rows(rows: pyarrow.dataset.Dataset, columns: list[str], most: int, also: pc.Expression | None) -> pa.Table:
    """The flagged rows by rank, then the others by rank; the file is sorted, so its head will do."""
    frugal = {"columns": columns, "batch_size": READ_ROWS, "batch_readahead": 4}

    def head(count: int, condition: pc.Expression) -> pa.Table:
        return rows.head(count, filter=condition if also is None else condition & also, **frugal)

    flagged = head(most, pc.field("is_issue"))
    return (
        flagged
        if len(flagged) == most
        else pa.concat_tables([flagged, head(most - len(flagged), ~pc.field("is_issue"))])
    )


def _ranks_of_copies(rows: pyarrow.dataset.Dataset, budget: int) -> np.ndarray:
    """Whole groups, or the first copies of large ones: those in several splits or under several labels come first."""
    if GROUP not in rows.schema.names:
        return np.empty(0, np.int64)
    columns = ["rank", GROUP, SPLITS, "is_conflicting_duplicate"]
    table = rows.to_table(columns=columns, filter=pc.field(GROUP).is_valid())
    if not len(table):
        return np.empty(0, np.int64)
    group = table[GROUP].to_numpy()
    matters = pc.match_substring(table[SPLITS], ",").to_numpy() | table["is_conflicting_duplicate"].to_numpy()
    order = np.lexsort((table["rank"].to_numpy(), group, ~matters))
    starts = np.flatnonzero(np.append(True, np.diff(group[order]) != 0))
    place = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    return table["rank"].to_numpy()[order[place < MOST_COPIES][:budget]]


def _ranks_of(rows: pyarrow.dataset.Dataset, kinds: tuple[str, ...], budget: int) -> np.ndarray:
    """Those with the lowest scores."""
    kinds = tuple(kind for kind in kinds if f"is_{kind}" in rows.schema.names)
    if not kinds:
        return np.empty(0, np.int64)
    condition = pc.field(f"is_{kinds[0]}")
    for kind in kinds[1:]:
        condition = condition | pc.field(f"is_{kind}")
    table = rows.to_table(columns=["rank", *(f"{kind}_score" for kind in kinds)], filter=condition)
    scores = np.column_stack([table[f"{kind}_score"].to_numpy() for kind in kinds]).min(axis=1)
    return table["rank"].to_numpy()[np.argsort(scores, kind="stable")[:budget]]


def _ranks_of_ids(rows: pyarrow.dataset.Dataset, ids: Sequence[str]) -> np.ndarray:
    if not ids:
        return np.empty(0, np.int64)
    found = rows.to_table(columns=["rank"], filter=pc.field("id").isin(pa.array(ids, pa.string())))
    return found["rank"].to_numpy()


def _columns(rows: pyarrow.dataset.Dataset) -> list[str]:
    wanted = [*PAGE_COLUMNS, *(f"is_{kind}" for kind in KINDS if kind != LABEL_KIND), GROUP, SPLITS]
    return [name for name in wanted if name in rows.schema.names]


def _with_kinds(table: pa.Table) -> pa.Table:
    known = [kind for kind in KINDS if f"is_{kind}" in table.column_names]
    flags = {kind: pc.fill_null(table[f"is_{kind}"].cast(pa.bool_()), False).to_pylist() for kind in known}
    kinds: list[Any] = [[kind for kind in known if flags[kind][row]] for row in range(len(table))]
    for name in (GROUP, SPLITS):
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table)))
    return table.select([*PAGE_COLUMNS, GROUP, SPLITS]).append_column("kinds", pa.array(kinds, pa.list_(pa.string())))
