"""What a pass over all images leaves while it runs, in a folder of its own: whole files, and enough to resume from."""

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
from lightning.pytorch.utilities import rank_zero_info

from lightning_noisy.utils.atomic_files import write_table, write_text

PARTS_FOLDER = "unfinished"
STATE_FILE = "state.json"
PATTERN = "rows-*.parquet"
ROWS_IN_PART = 200_000
BYTES_IN_PART = 64_000_000
SECONDS_IN_PART = 60.0
SECONDS_TO_WAIT = 600.0
"""How long another process waits for the first one to begin."""
SECONDS_TO_WORK = 86_400.0
"""How long another process waits for what the first one makes alone."""
SECONDS_BETWEEN_LOOKS = 0.5


def begin(directory: Path, state: str, is_first_process: bool, results: Sequence[str]) -> None:
    """Makes the folder of parts, or keeps it where it belongs to the same pass; every process calls it.

    Args:
        directory: The folder of what is to come of the pass.
        state: Tells this pass from others.
        is_first_process: Whether this process makes it; the others wait for it.
        results: The files that come of it; the first of them says that all are there.

    Raises:
        ValueError: If the folder can't be made, or holds files of others under these names.
    """
    if is_first_process:
        _begin(directory, state, results)
    elif not _waited_for(directory / PARTS_FOLDER / STATE_FILE, state):
        raise ValueError(
            f"Expected argument `output` to name a folder that all processes share, but the first one has begun "
            f"nothing in {str(directory)!r} within {SECONDS_TO_WAIT:.0f} seconds."
        )


def wait_for_first_process(is_there: Callable[[], bool], folder: Path) -> None:
    """Returns when the first process has made something alone, which may take hours.

    Not by a barrier of the process group, which ends a training after 10 minutes (NCCL) or 30 (Gloo).

    Args:
        is_there: Whether the files are there, whole and of this run.
        folder: Where, for the message.

    Raises:
        RuntimeError: If the process that has started this one is gone, as the first one of a machine is after an error.
        ValueError: If nothing comes within a day.
    """
    parent, deadline = os.getppid(), time.monotonic() + SECONDS_TO_WORK
    while not is_there():
        if os.getppid() != parent:
            raise RuntimeError("The first process has ended before its work was done; its own message says why.")
        if time.monotonic() > deadline:
            raise ValueError(
                f"Expected {str(folder)!r} to be a folder that all processes share, but the first one has finished "
                f"nothing there within {SECONDS_TO_WORK / 3600:.0f} hours."
            )
        time.sleep(SECONDS_BETWEEN_LOOKS)


def positions_done(directory: Path, total: int) -> np.ndarray:
    """(N,) bool: which images are in a part already."""
    done = np.zeros(total, dtype=bool)
    for path in part_files(directory):
        done[pyarrow.parquet.read_table(path, columns=["position"], partitioning=None)["position"].to_numpy()] = True
    return done


def part_files(directory: Path) -> list[Path]:
    """The finished parts."""
    return sorted((directory / PARTS_FOLDER).glob(PATTERN))


class PartWriter:
    """Collects rows and writes a part when it has many of them, or some for a minute.

    Args:
        directory: Where :func:`begin` has been.
        schema: Of the rows; ``position``, which numbers the images of all splits from 0 on, is among its columns.
        rank: The process that writes.
    """

    def __init__(self, directory: Path, schema: pa.Schema, rank: int = 0) -> None:
        self.folder = directory / PARTS_FOLDER
        self.schema = schema
        self.rank = rank
        self._clear()

    def add(self, columns: Mapping[str, Any]) -> None:
        """Takes a batch of rows, a column for each field of the schema."""
        arrays = [pa.array(columns[field.name], field.type) for field in self.schema]
        batch = pa.record_batch(arrays, schema=self.schema)
        # In Arrow's own memory: columns left among the large arrays of a forward pass keep those from being used again.
        self._batches.append(batch.serialize())
        self._rows += batch.num_rows
        self._bytes += self._batches[-1].size
        is_large = self._rows >= ROWS_IN_PART or self._bytes >= BYTES_IN_PART
        if is_large or time.monotonic() - self._begun > SECONDS_IN_PART:
            self.flush()

    def flush(self) -> None:
        """Writes what was collected."""
        if self._rows:
            batches = [pa.ipc.read_record_batch(batch, self.schema) for batch in self._batches]
            table = pa.Table.from_batches(batches, self.schema)
            first, last = table["position"][0].as_py(), table["position"][-1].as_py()
            write_table(self.folder / f"rows-{self.rank:05d}-{first:012d}-{last:012d}.parquet", table)
        self._clear()

    def _clear(self) -> None:
        self._batches: list[pa.Buffer] = []
        self._rows = self._bytes = 0
        self._begun = time.monotonic()


def _begin(directory: Path, state: str, results: Sequence[str]) -> None:
    folder = directory / PARTS_FOLDER
    before = _read_state(folder / STATE_FILE)
    if before == state:
        for left_over in folder.glob(".*.part"):  # of a process that was killed
            left_over.unlink(missing_ok=True)
        return
    _check_is_ours(directory, results, has_begun=before is not None)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name in results:  # the first says that the others are whole
            (directory / name).unlink(missing_ok=True)
        if before is not None:
            rank_zero_info(f"What lies unfinished in {str(folder)!r} was made with other settings and is thrown away.")
            shutil.rmtree(folder)
        folder.mkdir()
    except OSError as error:
        raise ValueError(
            f"Expected argument `output` to be a folder that can be written to, but {str(directory)!r} can't be made "
            f"({error.strerror}). Name another one."
        ) from error
    write_text(folder / STATE_FILE, json.dumps({"state": state}))


def _check_is_ours(directory: Path, results: Sequence[str], has_begun: bool) -> None:
    """Nothing of the user's may be replaced."""
    finished, *others = results
    if has_begun or (directory / finished).is_file():
        return
    found = [name for name in (PARTS_FOLDER, *others) if (directory / name).exists()]
    if found:
        raise ValueError(
            f"Expected argument `output` to be a new folder or one that this command has made, but {str(directory)!r} "
            f"holds {found[0]!r}, which comes from elsewhere. Name another folder."
        )


def _read_state(path: Path) -> str | None:
    return json.loads(path.read_text(encoding="utf-8"))["state"] if path.is_file() else None


def _waited_for(path: Path, state: str) -> bool:
    deadline = time.monotonic() + SECONDS_TO_WAIT
    while _read_state(path) != state:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
