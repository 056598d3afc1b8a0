"""What people open of an audit's table: its histogram, counted by hand, and the file for a spreadsheet."""

import csv

import pyarrow as pa
import pyarrow.parquet

from lightning_noisy.audit import files_for_people
from lightning_noisy.audit.files_for_people import write_issues
from lightning_noisy.audit.schema import AUDIT_FILE, ISSUES_FILE


def test_each_label_is_counted_once_where_its_posterior_is(tmp_path, monkeypatch):
    """The bins by hand; the table is read in several parts."""
    p_given = [0.0, 0.01, 0.5, 0.69, 0.71, 0.99, 1.0, 1.0]
    is_issue = [True, True, True, True, False, False, False, True]
    table = pa.table({"p_given": pa.array(p_given, pa.float32()), "is_issue": is_issue})
    pyarrow.parquet.write_table(table, tmp_path / "audit.parquet")
    drawn = []
    monkeypatch.setattr(files_for_people, "draw_posterior_histogram", lambda *arguments: drawn.append(arguments))
    monkeypatch.setattr(files_for_people, "READ_ROWS", 3)
    files_for_people.write_histogram(tmp_path)
    path, kept, flagged, title = drawn[0]
    assert {number: count for number, count in enumerate(kept.tolist()) if count} == {28: 1, 39: 2}
    assert {number: count for number, count in enumerate(flagged.tolist()) if count} == {0: 2, 20: 1, 27: 1, 39: 1}
    assert path.name == "posterior_histogram.png" and title == "8 given labels"


def test_a_spreadsheet_takes_no_name_for_a_formula(tmp_path):
    ids = ["=1+1", "+a", "-a", "@a", "\tb", "plain", "tu\u202egpj.exe", 'quo"te,\nline', "x" * 10_000]
    columns = {
        "id": ids,
        "path": [None] * len(ids),
        "given_class": ["=cmd|' /C calc'!A0"] * len(ids),
        "suggested_class": ["<script>"] * len(ids),
        "is_issue": [True] * (len(ids) - 1) + [False],
    }
    numbers = ("given_label", "suggested_label", "rank", "p_given", "p_suggested", "clean_probability")
    table = pa.table({**columns, "split": ["train"] * len(ids), **dict.fromkeys(numbers, [1] * len(ids))})
    pyarrow.parquet.write_table(table.cast(_schema(table)), tmp_path / AUDIT_FILE)
    write_issues(tmp_path)
    with open(tmp_path / ISSUES_FILE, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    seen = [row["id"] for row in rows]
    assert seen == ["'=1+1", "'+a", "'-a", "'@a", "'\ufffdb", "plain", "tu\ufffdgpj.exe", 'quo"te,\ufffdline']
    assert {row["given_class"] for row in rows} == {"'=cmd|' /C calc'!A0"}
    assert {row["suggested_class"] for row in rows} == {"<script>"}


def _schema(table):
    return pa.schema(
        [pa.field(field.name, pa.string() if field.name == "path" else field.type) for field in table.schema]
    )
