"""The flagged images as a CSV file that a spreadsheet opens without harm."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from lightning_noisy.audit.label_audit import AUDIT_FILE, ISSUES_FILE

COLUMNS = (
    "rank", "id", "path", "split", "given_label", "given_class", "suggested_label", "suggested_class", "p_given",
    "p_suggested", "clean_probability",
)  # fmt: skip
FORMULA = r"^[=+\-@\t\r]"
"""A spreadsheet takes a cell that begins so for a formula."""
HIDDEN = r"[\x00-\x1f\x7f\x{200e}\x{200f}\x{202a}-\x{202e}\x{2066}-\x{2069}]"
"""Control characters, and those that turn the direction of what follows."""


def write_issues(directory: Path) -> None:
    """Writes ``issues.csv``: the rows of ``audit.parquet`` that are flagged, the most suspicious first.

    A name that a spreadsheet would take for a formula gets an apostrophe before it; characters that are not seen but
    change what is seen become a question mark in a diamond. The names themselves are in ``audit.parquet``.
    """
    path = directory / ISSUES_FILE
    part = path.with_name(f".{path.name}.part")
    source = pyarrow.parquet.ParquetFile(directory / AUDIT_FILE)
    schema = pa.schema([source.schema_arrow.field(name) for name in COLUMNS])
    with pyarrow.csv.CSVWriter(part, schema) as writer:
        for batch in source.iter_batches(columns=[*COLUMNS, "is_issue"]):
            flagged = batch.filter(batch["is_issue"]).select(list(COLUMNS))
            writer.write_batch(pa.record_batch([_safe(column) for column in flagged.columns], schema=schema))
    os.replace(part, path)


def _safe(column: pa.Array) -> pa.Array:
    if not pa.types.is_string(column.type):
        return column
    seen = pc.replace_substring_regex(column, pattern=HIDDEN, replacement="\ufffd")
    is_formula = pc.match_substring_regex(column, FORMULA)
    return pc.if_else(is_formula, pc.binary_join_element_wise("'", seen, ""), seen)
