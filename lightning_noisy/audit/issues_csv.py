"""The flagged images as a CSV file that a spreadsheet opens without harm."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from lightning_noisy.audit.label_audit import AUDIT_FILE, ISSUES_FILE
from lightning_noisy.whole_files import put_in_place

COLUMNS = (
    "rank", "id", "path", "split", "given_label", "given_class", "suggested_label", "suggested_class", "p_given",
    "p_suggested", "clean_probability",
)  # fmt: skip
FORMULA = r"^[=+\-@\t\r\x{ff1d}\x{ff0b}\x{ff0d}\x{ff20}]"
"""A spreadsheet takes a cell that begins so for a formula, some in full width too."""
HIDDEN = r"[\x00-\x1f\x7f\x{061c}\x{200b}-\x{200f}\x{202a}-\x{202e}\x{2060}\x{2066}-\x{2069}\x{feff}]"
"""Control characters, and those that turn the direction of what follows."""


def write_issues(directory: Path) -> None:
    """Writes ``issues.csv``: the rows of ``audit.parquet`` that are flagged, the most suspicious first.

    A name that a spreadsheet would take for a formula gets an apostrophe before it; characters that are not seen but
    change what is seen become a question mark in a diamond. The names themselves are in ``audit.parquet``.
    """
    source = pyarrow.parquet.ParquetFile(directory / AUDIT_FILE)
    schema = pa.schema([source.schema_arrow.field(name) for name in COLUMNS])
    with put_in_place(directory / ISSUES_FILE) as temporary, pyarrow.csv.CSVWriter(temporary, schema) as writer:
        for batch in source.iter_batches(columns=[*COLUMNS, "is_issue"]):
            flagged = batch.filter(batch["is_issue"]).select(list(COLUMNS))
            writer.write_batch(pa.record_batch([_safe(column) for column in flagged.columns], schema=schema))


def _safe(column: pa.Array) -> pa.Array:
    if not pa.types.is_string(column.type):
        return column
    seen = pc.replace_substring_regex(column, pattern=HIDDEN, replacement="\ufffd")
    is_formula = pc.match_substring_regex(column, FORMULA)
    return pc.if_else(is_formula, pc.binary_join_element_wise("'", seen, ""), seen)
