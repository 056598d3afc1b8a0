"""Sources that are tables: manifest files, and ``datasets`` data sets on disk or on the Hub."""

import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from lightning_noisy.data.sources import SPLIT_NAMES, Columns, RawSplit
from lightning_noisy.data.stores import DatasetStore, FileStore
from lightning_noisy.data.table import unique_ids

IMAGE_COLUMNS = ("path", "file_name", "filename", "file", "image", "image_path", "filepath", "img")
LABEL_COLUMNS = ("label", "noisy_label", "labels", "class", "target", "category", "fine_label")
WEIGHT_COLUMN = "label_weight"
SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")


def read_manifest(path: Path, columns: Columns, argument: str) -> dict[str, RawSplit]:
    """The splits of a CSV, TSV, JSONL or Parquet file.

    Raises:
        ValueError: If it can't be read or lacks a column.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(
            f"Expected argument `{argument}` to be a manifest ending in {', '.join(SUFFIXES)}, but got {path.name!r}."
        )
    try:
        if suffix == ".parquet":
            if _holds_images(pyarrow.parquet.read_schema(path), columns, path.name):
                return _read_dataset(_dataset_from_parquet(path), columns, path.name, path.parent)
            table = pyarrow.parquet.read_table(path)
        elif suffix == ".jsonl":
            table = pyarrow.json.read_json(path)
        else:
            options = pyarrow.csv.ParseOptions(delimiter="\t" if suffix == ".tsv" else ",", newlines_in_values=True)
            table = pyarrow.csv.read_csv(path, parse_options=options)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"The manifest {str(path)!r} can't be read: {reason}") from error
    image = find_column("image_column", columns.image, IMAGE_COLUMNS, table.column_names, path.name)
    paths = table[image].combine_chunks().cast(pa.string())
    if paths.null_count:
        raise ValueError(f"Row {_first_null(paths)} of {path.name!r} has no image in column {image!r}.")
    store = FileStore(path.parent, paths)
    return _by_split(store, table, columns, path.name, paths, _class_label_names(table.schema))


def read_hub(name: str, columns: Columns, argument: str) -> dict[str, RawSplit]:
    """The splits of a data set on the Hub (``NAME`` or ``NAME:CONFIG``) or in a local folder.

    Raises:
        ValueError: If it can't be loaded or lacks a column.
    """
    import datasets

    folder = Path(name).expanduser()
    try:
        if is_saved_dataset(folder):
            loaded = datasets.load_from_disk(str(folder))
        else:
            repository, _, config = (str(folder), "", "") if folder.is_dir() else name.partition(":")
            loaded = datasets.load_dataset(repository, config or None)
    except Exception as error:  # the library and the network raise many kinds
        raise ValueError(
            f"Expected argument `{argument}` to name a data set that `datasets` can load, but 'hub:{name}' failed: "
            f"{first_line(error)} Check the name, the connection and `hf auth login`."
        ) from error
    if isinstance(loaded, datasets.Dataset):
        return _read_dataset(loaded, columns, name, folder)
    splits: dict[str, RawSplit] = {}
    for split, dataset in loaded.items():
        if split in SPLIT_NAMES:
            splits[SPLIT_NAMES[split]] = _read_dataset(dataset, columns, f"{name}, {split}", folder)["train"]
    if not splits or ("train" not in splits and argument == "source"):
        raise ValueError(f"Expected 'hub:{name}' to have a split named 'train', but got {sorted(loaded)}.")
    return splits


def is_saved_dataset(folder: Path) -> bool:
    """Whether ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk`` wrote this folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _holds_images(schema: pa.Schema, columns: Columns, where: str) -> bool:
    """Whether the image column of a Parquet file has the images themselves rather than their paths."""
    kinds = {field.name: field.type for field in schema}
    structs = [name for name, kind in kinds.items() if pa.types.is_struct(kind)]
    image = find_column("image_column", columns.image, [*structs, *IMAGE_COLUMNS], schema.names, where)
    return not (pa.types.is_string(kinds[image]) or pa.types.is_large_string(kinds[image]))


def _dataset_from_parquet(path: Path) -> Any:
    import datasets

    return datasets.Dataset.from_parquet(str(path))


def _read_dataset(dataset: Any, columns: Columns, where: str, root: Path) -> dict[str, RawSplit]:
    import datasets

    images = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    image = find_column("image_column", columns.image, [*images, *IMAGE_COLUMNS], dataset.column_names, where)
    store = DatasetStore(dataset, image, root)
    others = [name for name in dataset.column_names if name != image]
    if not others:
        raise ValueError(f"{where!r} has no column beside the images: a label column is needed.")
    table = dataset.select_columns(others).with_format("arrow")[:]
    names = {
        name: feature.names for name, feature in dataset.features.items() if isinstance(feature, datasets.ClassLabel)
    }
    return _by_split(store, table, columns, where, None, names)


def _by_split(
    store: Any,
    table: pa.Table,
    columns: Columns,
    where: str,
    paths: pa.Array | None,
    class_names: dict[str, list[str]],
) -> dict[str, RawSplit]:
    if not columns.strict:
        columns = present_columns(columns, table.column_names)
    label = find_column("label_column", columns.label, LABEL_COLUMNS, table.column_names, where)
    clean = columns.clean_label and find_column(
        "clean_label_column", columns.clean_label, (), table.column_names, where
    )
    identifier = columns.id and find_column("id_column", columns.id, (), table.column_names, where)
    weight = columns.weight or (WEIGHT_COLUMN if WEIGHT_COLUMN in table.column_names else None)
    if weight is not None:
        find_column("weight_column", weight, (), table.column_names, where)
    names = paths if identifier is None else table[identifier].combine_chunks()
    whole = RawSplit(
        store=store,
        ids=unique_ids(pa.array([str(row) for row in range(len(table))]) if names is None else names),
        labels=table[label].combine_chunks(),
        clean_labels=table[clean].combine_chunks() if clean else None,
        class_names=class_names.get(label),
        is_clean=label == clean,
        where=where,
        weights=table[weight].combine_chunks() if weight else None,
    )
    split_column = columns.split or ("split" if "split" in table.column_names else None)
    if split_column is None:
        return {"train": whole}
    find_column("split_column", split_column, (), table.column_names, where)
    return _cut(whole, table[split_column].combine_chunks(), where)


def present_columns(columns: Columns, present: Sequence[str]) -> Columns:
    """The columns that are there; the clean labels stand in for the given ones."""

    def here(name: str | None) -> str | None:
        return name if name in present else None

    clean_label = here(columns.clean_label)
    return Columns(
        columns.image,
        here(columns.label) or clean_label,
        clean_label,
        here(columns.id),
        here(columns.split),
        weight=here(columns.weight),
    )


def _cut(whole: RawSplit, split_of_row: pa.Array, where: str) -> dict[str, RawSplit]:
    found = {name: SPLIT_NAMES.get(str(name).lower()) for name in split_of_row.unique().to_pylist()}
    for name, split in found.items():
        if split is None:
            raise ValueError(f"Expected the split column of {where!r} to say train, val or test, but got {name!r}.")
    splits = {}
    for split in sorted({split for split in found.values() if split}):
        values = pa.array([name for name, its_split in found.items() if its_split == split])
        rows = np.flatnonzero(pc.is_in(split_of_row, value_set=values).to_numpy(zero_copy_only=False))
        splits[split] = _rows(whole, rows)
    if "train" not in splits:
        raise ValueError(f"Expected the split column of {where!r} to have rows that say train, but got {list(found)}.")
    return splits


def _rows(whole: RawSplit, rows: np.ndarray) -> RawSplit:
    taken = pa.array(rows)
    store = whole.store
    if isinstance(store, FileStore):
        store = FileStore(store.root, store.paths.take(taken))
    elif isinstance(store, DatasetStore):
        store = DatasetStore(store.dataset.select(rows), store.column, store.root)
    return replace(
        whole,
        store=store,
        ids=whole.ids.take(taken),
        labels=whole.labels.take(taken),
        clean_labels=None if whole.clean_labels is None else whole.clean_labels.take(taken),
        weights=None if whole.weights is None else whole.weights.take(taken),
    )


def find_column(argument: str, wanted: str | None, usual: Sequence[str], present: Sequence[str], where: str) -> str:
    """The column that is wanted, or the first usual one that is there.

    Raises:
        ValueError: If there is none.
    """
    if wanted is not None:
        if wanted in present:
            return wanted
        near = difflib.get_close_matches(wanted, present, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"Expected argument `{argument}` to name a column of {where!r}, which has {list(present)}, but got "
            f"{wanted!r}.{hint}"
        )
    found = next((name for name in usual if name in present), None)
    if found is None:
        raise ValueError(
            f"Expected argument `{argument}` to be given, since {where!r} has none of the usual columns {list(usual)}, "
            f"but {list(present)}."
        )
    return found


def _class_label_names(schema: pa.Schema) -> dict[str, list[str]]:
    import datasets

    if not schema.metadata or b"huggingface" not in schema.metadata:
        return {}
    features = datasets.Features.from_arrow_schema(schema)
    return {name: feature.names for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)}


def _first_null(values: pa.Array) -> int:
    return int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])


def first_line(error: Exception) -> str:
    """What an error says, in one line that ends in a full stop."""
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".") + "."
