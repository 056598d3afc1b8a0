"""The histogram of an audit, counted by hand."""

import pyarrow as pa
import pyarrow.parquet

from lightning_noisy.audit import histogram


def test_each_label_is_counted_once_where_its_posterior_is(tmp_path, monkeypatch):
    """The bins by hand; the table is read in several parts."""
    p_given = [0.0, 0.01, 0.5, 0.69, 0.71, 0.99, 1.0, 1.0]
    is_issue = [True, True, True, True, False, False, False, True]
    table = pa.table({"p_given": pa.array(p_given, pa.float32()), "is_issue": is_issue})
    pyarrow.parquet.write_table(table, tmp_path / "audit.parquet")
    drawn = []
    monkeypatch.setattr(histogram, "draw_posterior_histogram", lambda *arguments: drawn.append(arguments))
    monkeypatch.setattr(histogram, "READ_ROWS", 3)
    histogram.write_histogram(tmp_path)
    path, kept, flagged, title = drawn[0]
    assert {number: count for number, count in enumerate(kept.tolist()) if count} == {28: 1, 39: 2}
    assert {number: count for number, count in enumerate(flagged.tolist()) if count} == {0: 2, 20: 1, 27: 1, 39: 1}
    assert path.name == "posterior_histogram.png" and title == "8 given labels"
