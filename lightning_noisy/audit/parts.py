"""The Parquet files that an audit leaves while it runs: whole or not there, and enough to go on from."""

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
from lightning.pytorch.utilities import rank_zero_info

FOLDER = "parts"
STATE_FILE = "state.json"
PATTERN = "rows-*.parquet"
ROWS_IN_PART = 200_000
SECONDS_IN_PART = 60.0
SCHEMA = pa.schema(
    {
        "position": pa.int64(),
        "id": pa.string(),
        "path": pa.string(),
        "split": pa.string(),
        "row": pa.int64(),
        "given_label": pa.int32(),
        "suggested_label": pa.int32(),
        "p_given": pa.float32(),
        "p_suggested": pa.float32(),
        "clean_probability": pa.float32(),
        "is_issue": pa.bool_(),
    }
)
"""``position`` numbers the images of all splits from 0 on."""
PROBABILITIES = pa.field("probabilities", pa.list_(pa.float32()))
"""The posterior of all classes, where it is asked for."""


def begin_parts(directory: Path, audit_id: str) -> None:
    """Makes the folder of parts, or keeps it where it belongs to the same audit; the first process calls it."""
    folder = directory / FOLDER
    state = folder / STATE_FILE
    if state.is_file() and json.loads(state.read_text(encoding="utf-8")) == {"audit_id": audit_id}:
        for left_over in folder.glob(".*.part"):  # of a process that was killed
            left_over.unlink(missing_ok=True)
        return
    if folder.is_dir():
        rank_zero_info("What lies there of an unfinished audit of another model or other labels is thrown away.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    state.write_text(json.dumps({"audit_id": audit_id}), encoding="utf-8")


def positions_done(directory: Path, total: int) -> np.ndarray:
    """(N,) bool: which images are in a part already."""
    done = np.zeros(total, dtype=bool)
    for path in sorted((directory / FOLDER).glob(PATTERN)):
        done[pyarrow.parquet.read_table(path, columns=["position"])["position"].to_numpy()] = True
    return done


class PartWriter:
    """Collects rows and writes a part when it has many of them, or some for a minute.

    Args:
        directory: The audit's folder; :func:`begin_parts` has been there.
        schema: Of the rows.
        rank: The process that writes.
    """

    def __init__(self, directory: Path, schema: pa.Schema = SCHEMA, rank: int = 0) -> None:
        self.folder = directory / FOLDER
        self.schema = schema
        self.rank = rank
        self._batches: list[pa.Buffer] = []
        self._rows = 0
        self._begun = time.monotonic()

    def add(self, columns: Mapping[str, Any]) -> None:
        """Takes a batch of rows, a column for each field of the schema."""
        arrays = [pa.array(columns[field.name], field.type) for field in self.schema]
        batch = pa.record_batch(arrays, schema=self.schema)
        # In Arrow's own memory: columns left among the large arrays of a forward pass keep those from being used again.
        self._batches.append(batch.serialize())
        self._rows += batch.num_rows
        if self._rows >= ROWS_IN_PART or time.monotonic() - self._begun > SECONDS_IN_PART:
            self.flush()

    def flush(self) -> None:
        """Writes what was collected."""
        if self._rows:
            batches = [pa.ipc.read_record_batch(batch, self.schema) for batch in self._batches]
            table = pa.Table.from_batches(batches, self.schema)
            first, last = table["position"][0].as_py(), table["position"][-1].as_py()
            write_whole(table, self.folder / f"rows-{self.rank:05d}-{first:012d}-{last:012d}.parquet")
        self._batches, self._rows, self._begun = [], 0, time.monotonic()


def write_whole(table: pa.Table, path: Path) -> None:
    """Writes beside the place first, so that the file is whole or not there."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        pyarrow.parquet.write_table(table, part, compression="zstd")
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
