"""Small tables of the photos."""

import json

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet


def write_manifest(photos, name, rows=None, **columns):
    files = sorted(photos.rglob("*.png"))
    table = {
        "path": [file.relative_to(photos).as_posix() for file in files],
        "label": [file.parent.name for file in files],
    }
    table = pa.table({**table, **columns}).slice(0, rows or len(files))
    target = photos / name
    if target.suffix == ".parquet":
        pyarrow.parquet.write_table(table, target)
    elif target.suffix == ".jsonl":
        target.write_text("\n".join(json.dumps(row) for row in table.to_pylist()), encoding="utf-8")
    else:
        delimiter = "\t" if target.suffix == ".tsv" else ","
        pyarrow.csv.write_csv(table, target, pyarrow.csv.WriteOptions(delimiter=delimiter))
    return str(target)
