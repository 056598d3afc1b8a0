"""Reads what an offline W&B run has written: ``run-ID.wandb``."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.csv
import pytest
import wandb

BLOCK = 32 * 1024
FULL, LAST = 1, 4


def run_files(folder: Path) -> list[Path]:
    """The offline runs below ``folder``, oldest first."""
    return sorted(folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)


def finish() -> None:
    """Waits until the file of a run of this process is whole."""
    wandb.finish()
    wandb.teardown()


def read_records(path: Path) -> list[Any]:
    """All records; ``wandb.proto.wandb_internal_pb2.Record``."""
    from wandb.proto.wandb_internal_pb2 import Record

    records = []
    for payload in _payloads(path.read_bytes()):
        record = Record()
        record.ParseFromString(payload)
        records.append(record)
    return records


def read_history(path: Path) -> list[dict[str, Any]]:
    """One dict for each row that was logged."""
    rows = [record.history.item for record in read_records(path) if record.HasField("history")]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row} for row in rows]


def read_config(path: Path) -> dict[str, Any]:
    """The config, later values over earlier ones."""
    records = [record for record in read_records(path) if record.HasField("config") or record.HasField("run")]
    config = {}
    for record in records:
        updates = record.run.config.update if record.HasField("run") else record.config.update
        config |= {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in updates}
    return config


def read_run(path: Path) -> Any:
    """The record of the run itself; ``wandb.proto.wandb_internal_pb2.RunRecord``."""
    return next(record.run for record in read_records(path) if record.HasField("run"))


def read_only_run(folder: Path, recipe: str) -> list[Path]:
    """The files of the one W&B run below ``folder``, which says its recipe and has what the CSV file has."""
    finish()
    files = run_files(folder)
    runs = {read_run(path).run_id: read_run(path) for path in files}
    assert len(runs) == 1, "one run, also of several processes and parts"
    (run,) = runs.values()
    assert (run.display_name, run.project) == (f"{recipe}-{run.run_id}", "lightning-noisy")
    assert read_config(files[0])["recipe"] == recipe
    logged = {name: row[name] for path in files for row in read_history(path) for name in row}
    metrics = [path for path in folder.rglob("metrics.csv")]
    rows = pyarrow.csv.read_csv(max(metrics, key=lambda path: path.stat().st_mtime_ns)).to_pylist()
    losses = [row["train/loss_clean"] for row in rows if row.get("train/loss_clean") is not None]
    assert logged["train/loss_clean"] == pytest.approx(losses[-1], rel=1e-6)
    return files


def read_artifacts(path: Path) -> list[Any]:
    """The artifact records, as they were sent or requested."""
    found = []
    for record in read_records(path):
        if record.HasField("artifact"):
            found.append(record.artifact)
        elif record.HasField("request") and record.request.HasField("log_artifact"):
            found.append(record.request.log_artifact.artifact)
    return found


def _payloads(content: bytes) -> Iterator[bytes]:
    place, parts = 7, []
    while place + 7 <= len(content):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        parts.append(content[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (FULL, LAST):
            yield b"".join(parts)
            parts = []


def read_table(path: Path) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of a table's file."""
    table = json.loads(path.read_text(encoding="utf-8"))
    return table["columns"], table["data"]
