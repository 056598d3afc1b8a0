"""What people open of an audit's table: the flagged images for a spreadsheet, and how sure it is as a picture."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet

from lightning_noisy.audit.folder import READ_ROWS
from lightning_noisy.audit.schema import AUDIT_FILE, HISTOGRAM_FILE, ISSUES_FILE, KINDS, LABEL_KIND
from lightning_noisy.pictures import draw_posterior_histogram
from lightning_noisy.utils.atomic_files import atomic_path
from lightning_noisy.utils.text import FORMULA_STARTS, HIDDEN

CSV_COLUMNS = (
    "rank", "id", "path", "split", "given_label", "given_class", "suggested_label", "suggested_class", "p_given",
    "p_suggested", "clean_probability",
)  # fmt: skip
GROUP = "near_duplicate_group"
BINS = 40


def write_issues(directory: Path) -> None:
    """Writes ``issues.csv``: the rows of ``audit.parquet`` that are of any kind, the most suspicious label first.

    ``kinds`` names the kinds of each, such as ``"label_issue near_duplicate"``, and ``near_duplicate_group`` is the
    same number for the same picture, for the filters of a spreadsheet.

    A name that a spreadsheet would take for a formula gets an apostrophe before it; characters that are not seen but
    change what is seen become a question mark in a diamond. The names themselves are in ``audit.parquet``.
    """
    source = pyarrow.parquet.ParquetFile(directory / AUDIT_FILE)
    names = source.schema_arrow.names
    shown = [*CSV_COLUMNS, *({GROUP} & set(names))]
    schema = pa.schema([*(source.schema_arrow.field(name) for name in shown), pa.field("kinds", pa.string())])
    flags = {kind: f"is_{kind}" for kind in KINDS if f"is_{kind}" in names} | {LABEL_KIND: "is_issue"}
    with atomic_path(directory / ISSUES_FILE) as temporary, pyarrow.csv.CSVWriter(temporary, schema) as writer:
        for batch in source.iter_batches(columns=[*shown, *flags.values()]):
            kinds = _kinds({kind: batch[name] for kind, name in flags.items()})
            is_issue = pc.not_equal(kinds, "")
            columns = [*(batch[name] for name in shown), kinds]
            flagged = [_safe(column.filter(is_issue)) for column in columns]
            writer.write_batch(pa.record_batch(flagged, schema=schema))


def write_histogram(directory: Path) -> None:
    """Draws how probable the given labels of ``audit.parquet`` are into ``posterior_histogram.png``, in bounded memory.

    Args:
        directory: The audit's folder.
    """
    counts = np.zeros((2, BINS), dtype=np.int64)
    table = pyarrow.dataset.dataset(directory / AUDIT_FILE)
    for batch in table.to_batches(columns=["p_given", "is_issue"], batch_size=READ_ROWS):
        is_issue = batch["is_issue"].to_numpy(zero_copy_only=False)
        for flag in (0, 1):
            counts[flag] += np.histogram(batch["p_given"].to_numpy()[is_issue == flag], BINS, (0, 1))[0]
    kept, flagged = counts
    draw_posterior_histogram(directory / HISTOGRAM_FILE, kept, flagged, f"{counts.sum():,} given labels")


def _kinds(flags: dict[str, pa.Array]) -> pa.Array:
    """The names of the kinds of each row, with spaces between them."""
    named = [
        pc.if_else(pc.fill_null(flags[kind].cast(pa.bool_()), False), f" {kind}", "") for kind in KINDS if kind in flags
    ]
    return pc.utf8_ltrim_whitespace(pc.binary_join_element_wise(*named, ""))


def _safe(column: pa.Array) -> pa.Array:
    if not pa.types.is_string(column.type):
        return column
    seen = pc.replace_substring_regex(column, pattern=f"[{HIDDEN}]", replacement="\ufffd")
    is_formula = pc.match_substring_regex(column, f"^[{re.escape(FORMULA_STARTS)}]")
    return pc.if_else(is_formula, pc.binary_join_element_wise("'", seen, ""), seen)
