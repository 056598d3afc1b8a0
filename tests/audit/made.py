"""An audit that is made up from what is known, without a model."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pyarrow.parquet as pq

from lightning_noisy.audit import LabelAudit
from lightning_noisy.audit.schema import AUDIT_FILE, AUDIT_SCHEMA, KINDS_SCHEMA
from lightning_noisy.audit.summary import LabelSums, summarise


def make_audit(directory, splits, suggested, p_given, source=None, row_group_size=1000):
    """Writes an audit of all images of ``splits``.

    Args:
        directory: Where to.
        splits: By name.
        suggested: For each split the (N,) suggested labels.
        p_given: For each split the (N,) probabilities of the given labels; below a half is flagged.
        source: As of the summary.
        row_group_size: Of the Parquet file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    names = next(iter(splits.values())).class_names
    tables = [_table(split, images, suggested[split], p_given[split]) for split, images in splits.items()]
    table = pa.concat_tables(tables).sort_by("p_given")
    table = table.append_column("rank", pa.array(range(1, len(table) + 1), pa.int64()))
    for name in KINDS_SCHEMA.names:  # nothing is known beside the labels
        values = {"is_label_issue": table["is_issue"], "label_issue_score": table["p_given"]}.get(name)
        table = table.append_column(
            name, pa.nulls(len(table), AUDIT_SCHEMA.field(name).type) if values is None else values
        )
    table = table.select(AUDIT_SCHEMA.names)
    pyarrow.parquet.write_table(table.cast(AUDIT_SCHEMA), directory / AUDIT_FILE, row_group_size=row_group_size)
    flagged, likeliest = (np.zeros((len(names), len(names)), dtype=np.int64) for _ in range(2))
    pair = (table["suggested_label"].to_numpy(), table["given_label"].to_numpy())
    np.add.at(likeliest, pair, 1)
    np.add.at(flagged, pair, table["is_issue"].to_numpy().astype(np.int64))
    doubts = np.bincount(pair[1], 1 - table["p_given"].to_numpy(), len(names))
    sums = LabelSums(flagged, likeliest, doubts, doubts)
    # The cache of `datasets` outlives a test: no two of them may share an id.
    audit_id = hashlib.sha256(f"{directory}{table.to_pylist()}".encode()).hexdigest()[:16]
    summarise(sums, names, audit_id, source=source or {}).write(directory)
    return LabelAudit(directory)


def audit_of(directory, data, row_group_size=1000):
    """The audit of a model that knows the truth: the clean labels of a data module of ours."""
    splits = {split: images for split, images in data.splits.items() if split != "test"}
    generator = np.random.default_rng(0)
    p_given = {
        split: np.where(
            images.clean_labels == images.noisy_labels,
            generator.uniform(0.8, 1.0, len(images)),
            generator.uniform(0.0, 0.2, len(images)),
        )
        for split, images in splits.items()
    }
    suggested = {split: images.clean_labels for split, images in splits.items()}
    return make_audit(directory, splits, suggested, p_given, data.arguments(), row_group_size)


def write_decisions(path, audit, decisions, **other):
    """``decisions.json`` as the report page saves it."""
    entries = [{"id": name, "decision": decision} for name, decision in decisions.items()]
    content = {"format": 1, "audit_id": audit.summary.audit_id, "decisions": entries, **other}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def hashes(folder):
    """Of every file below a folder."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _table(split, images, suggested, p_given):
    given = images.noisy_labels
    names = np.array(images.class_names, dtype=object)
    p_given = np.asarray(p_given, dtype=np.float32)
    return pa.table(
        {
            "id": images.ids,
            "path": pa.array([images.path(row) for row in range(len(images))], pa.string()),
            "split": [split] * len(images),
            "row": np.arange(len(images)),
            "given_label": given.astype(np.int32),
            "given_class": names[given],
            "suggested_label": np.asarray(suggested, dtype=np.int32),
            "suggested_class": names[suggested],
            "p_given": p_given,
            "p_suggested": np.maximum(p_given, 1 - p_given),
            "clean_probability": p_given,
            "is_issue": p_given < 0.5,
        }
    )


def mark(audit, columns):
    """Writes values into columns of the audit: ``{column: {id: value}}``."""
    table = pq.read_table(audit.directory / AUDIT_FILE)
    ids = table["id"].to_pylist()
    for name, values in columns.items():
        kind = table.schema.field(name).type
        filled = pa.array([values.get(each, False if name.startswith("is_") else None) for each in ids], kind)
        table = table.set_column(table.column_names.index(name), name, filled)
    pq.write_table(table, audit.directory / AUDIT_FILE, row_group_size=100)
    audit.__dict__.pop("table", None)


def labelled(data, split):
    """What a data module says of each image, by its id."""
    images = data.splits[split]
    weights = images.weights if images.weights is not None else np.ones(len(images))
    return {
        name: (images.class_names[label], float(weight))
        for name, label, weight in zip(images.ids.to_pylist(), images.noisy_labels, weights, strict=True)
    }
