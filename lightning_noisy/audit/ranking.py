"""From the parts of an audit to its table, the most suspicious image first, in bounded memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset

from lightning_noisy.audit.schema import AUDIT_FILE, AUDIT_SCHEMA, ISSUES_SCHEMA, LABEL_KIND, PROBABILITIES_FILE
from lightning_noisy.audit.summary import Agreement, LabelSums
from lightning_noisy.inference.parts import PARTS_FOLDER, part_files
from lightning_noisy.utils.atomic_files import atomic_path

MEMORY_LIMIT = "1GB"
"""What a sort may take; the rest of it goes to files beside the parts."""


def write_ranking(
    directory: Path,
    class_names: Sequence[str],
    total: int,
    with_probabilities: bool,
    issues: pa.Table | None = None,
) -> None:
    """Writes ``audit.parquet``, and ``probabilities.parquet`` where that was asked for.

    The image whose given label is least likely comes first; ties keep the order of the data.

    Args:
        directory: The audit's folder, with all parts.
        class_names: The K names.
        total: How many images there must be.
        with_probabilities: Whether the parts hold the posterior of all classes.
        issues: By ``position`` what is known of each image beside its label; without it these columns are null.

    Raises:
        ValueError: If rows are missing or there twice, or there is no room to sort.
    """
    with _connection(directory) as connection:
        _check_rows(connection, directory, total)
        no_issues = pa.schema([pa.field("position", pa.int64()), *ISSUES_SCHEMA]).empty_table()
        connection.register("issues", no_issues if issues is None else issues)
        names = {"label": pa.array(range(len(class_names)), pa.int32()), "name": list(class_names)}
        connection.register("classes", pa.table(names))
        connection.execute("SET VARIABLE names = (SELECT list(name ORDER BY label) FROM classes)")
        computed = {
            "given_class": "getvariable('names')[given_label + 1]",
            "suggested_class": "getvariable('names')[suggested_label + 1]",
            "rank": "row_number() OVER ()",
            f"is_{LABEL_KIND}": "is_issue",
            f"{LABEL_KIND}_score": "p_given",
        }
        columns = [f"{computed[name]} AS {name}" if name in computed else name for name in AUDIT_SCHEMA.names]
        rows = "SELECT * FROM parts LEFT JOIN issues USING (position) ORDER BY p_given, position"
        select = f"SELECT {', '.join(columns)} FROM ({rows})"
        _copy(connection, select, directory / AUDIT_FILE)
        if with_probabilities:
            _copy(connection, "SELECT id, probabilities FROM parts ORDER BY position", directory / PROBABILITIES_FILE)


def label_sums(directory: Path, num_classes: int) -> LabelSums:
    """What :func:`~lightning_noisy.audit.summary.summarise` needs of all images of the parts."""
    query = """
        SELECT suggested_label, given_label, count(*) AS images, count(*) FILTER (is_issue) AS issues,
               count(*) FILTER (p_suggested > p_given) AS better, sum(1 - p_given::DOUBLE) AS doubts,
               sum(1 - clean_probability::DOUBLE) AS network_doubts
        FROM parts GROUP BY ALL
    """
    with _connection(directory) as connection:
        found = connection.execute(query).fetchnumpy()
    flagged, likeliest = np.zeros((2, num_classes, num_classes), dtype=np.int64)
    suggested, given = found["suggested_label"], found["given_label"]
    flagged[suggested, given] = found["issues"]
    likeliest[suggested, given] = found["better"]
    np.add.at(likeliest, (given, given), found["images"] - found["better"])
    doubts, network_doubts = (np.bincount(given, found[name], num_classes) for name in ("doubts", "network_doubts"))
    return LabelSums(flagged, likeliest, doubts, network_doubts)


def agreement(directory: Path, num_classes: int, is_out_of_sample: bool) -> Agreement:
    """How often the judge says what the labels say, on images that it has not learned from where there are any.

    Args:
        directory: The audit's folder, with all parts.
        num_classes: Number of classes ``K``.
        is_out_of_sample: Whether it has learned from no image that it judges; else those held out for validation count,
            and where there are none, all.
    """
    query = """
        SELECT split, given_label, count(*) AS images, count(*) FILTER (predicted_label = given_label) AS agreeing
        FROM parts GROUP BY ALL
    """
    with _connection(directory) as connection:
        found = connection.execute(query).fetchnumpy()
    held_out = found["split"] == "val"
    chosen = held_out if held_out.any() and not is_out_of_sample else np.ones(len(held_out), dtype=bool)
    of_label = np.bincount(found["given_label"][chosen], found["images"][chosen], num_classes)
    images = int(of_label.sum())
    agreeing = float(found["agreeing"][chosen].sum())
    is_held_out = is_out_of_sample or bool(held_out.any())
    return Agreement(agreeing / max(images, 1), float(of_label.max()) / max(images, 1), images, is_held_out)


@contextmanager
def _connection(directory: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    spill = directory / PARTS_FOLDER / "sorting"
    with duckdb.connect(config={"memory_limit": MEMORY_LIMIT, "temp_directory": str(spill)}) as connection:
        # Not by DuckDB's own reader: to it `[`, `*` and `name=value` in a path mean something.
        connection.register("parts", pyarrow.dataset.dataset([str(path) for path in part_files(directory)]))
        try:
            yield connection
        except duckdb.Error as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"The audit in {str(directory)!r} could not be sorted ({reason}). What was looked at is kept: make "
                "room, and run the same again."
            ) from error


def _check_rows(connection: duckdb.DuckDBPyConnection, directory: Path, total: int) -> None:
    rows, images = connection.execute("SELECT count(*), count(DISTINCT position) FROM parts").fetchall()[0]
    if (rows, images) != (total, total):
        raise ValueError(
            f"Expected the parts in {str(directory / PARTS_FOLDER)!r} to hold each of {total} images once, but they "
            f"hold {rows} rows of {images} images. Remove that folder, and run the same again."
        )


def _copy(connection: duckdb.DuckDBPyConnection, select: str, path: Path) -> None:
    with atomic_path(path) as temporary:
        text = str(temporary).replace("'", "''")
        connection.execute(f"COPY ({select}) TO '{text}' (FORMAT parquet)")
