"""Sources that are tables: manifest files, and ``datasets`` data sets on disk or on the Hub."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from lightning_noisy.data.image_stores import DatasetStore, FileStore
from lightning_noisy.data.labelled_images import unique_ids
from lightning_noisy.data.readers.base import SPLIT_NAMES, Columns, RawSplit, image_suffixes
from lightning_noisy.data.readers.table_paths import check_no_urls, usable_paths
from lightning_noisy.data.readers.text_tables import column_key, read_delimited, read_json_lines, typed_labels
from lightning_noisy.utils.text import first_line

IMAGE_COLUMNS = ("path", "file_name", "filename", "file", "image", "image_path", "filepath", "img", "url", "image_url")
LABEL_COLUMNS = ("label", "noisy_label", "labels", "class", "target", "category", "fine_label")
WEIGHT_COLUMN = "label_weight"
SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")
REMEDIES = {
    **dict.fromkeys((".zip", ".gz", ".tgz", ".tar", ".rar", ".7z", ".bz2", ".xz"), " Unpack it first."),
    **dict.fromkeys((".xlsx", ".xls", ".ods", ".numbers"), " Save the sheet as CSV."),
    **dict.fromkeys((".txt", ".lst", ".list"), " Give it a first line such as 'path,label' and call it .csv or .tsv."),
    ".json": ' Write one object a line, such as {"path": "a.jpg", "label": "ant"}, and call it .jsonl.',
}
"""What to do with files that are often given in place of a manifest."""


def read_manifest(path: Path, columns: Columns, argument: str) -> dict[str, RawSplit]:
    """The splits of a CSV, TSV, JSONL or Parquet file.

    Raises:
        ValueError: If it can't be read or lacks a column.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(
            f"Expected argument `{argument}` to be a manifest ending in {', '.join(SUFFIXES)}, but got {path.name!r}."
            f"{REMEDIES.get(suffix, '')}"
        )
    if suffix == ".parquet" and _embeds_images(path, columns):
        return _read_dataset(_dataset_from_parquet(path), columns, path.name, path.parent)
    return _manifest_splits(_read_table(path, columns, argument), path, columns)


def read_metadata(path: Path, columns: Columns, argument: str, is_optional: bool) -> dict[str, RawSplit] | None:
    """The splits of a ``metadata`` file of the imagefolder form of ``datasets``.

    Without a split column they are those folders (``train/``, ``val/``, ``test/``) in which all the images lie.

    Args:
        path: The file, whose paths are relative to its folder.
        columns: Column names.
        argument: The user's name for the source, for messages.
        is_optional: Whether a file without labels is ``None`` rather than an error, since class folders tell them.

    Raises:
        ValueError: If it can't be read or lacks a column.
    """
    table = _read_table(path, columns, argument)
    present = table.column_names
    is_list_of_labels = all(
        wanted or any(same_column(name, present) for name in usual)
        for wanted, usual in ((columns.image, IMAGE_COLUMNS), (columns.label, LABEL_COLUMNS))
    )
    if is_optional and not is_list_of_labels:
        return None
    splits = _manifest_splits(table, path, columns)
    if len(splits) > 1 or columns.split or same_column("split", present):
        return splits
    whole = splits["train"]
    if not isinstance(whole.store, FileStore):
        return splits
    folder_of_row = pc.list_element(pc.split_pattern(whole.store.paths, "/", max_splits=1), 0)
    folders = {folder.lower() for folder in folder_of_row.unique().to_pylist()}
    names = {SPLIT_NAMES.get(folder) for folder in folders}
    return _cut(whole, folder_of_row, path.name) if "train" in names and None not in names else splits


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


def _read_table(path: Path, columns: Columns, argument: str) -> pa.Table:
    suffix, called = path.suffix.lower(), f"argument `{argument}` ({path.name!r})"
    try:
        if suffix == ".parquet":
            return pyarrow.parquet.read_table(path, partitioning=None)
        if suffix == ".jsonl":
            return read_json_lines(path, called)
        named = (columns.image, columns.label, columns.clean_label, columns.id, columns.split, columns.weight)
        usual = {*IMAGE_COLUMNS, *LABEL_COLUMNS, *filter(None, named)}
        return read_delimited(path, usual, columns.weight or WEIGHT_COLUMN, called)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"The manifest {str(path)!r} can't be read: {str(error).splitlines()[0]}")


def _manifest_splits(table: pa.Table, path: Path, columns: Columns) -> dict[str, RawSplit]:
    image = find_column("image_column", columns.image, IMAGE_COLUMNS, table.column_names, path.name)
    paths = table[image].combine_chunks().cast(pa.string())
    if paths.null_count:
        raise ValueError(f"Row {_first_null(paths)} of {path.name!r} has no image in column {image!r}.")
    paths = usable_paths(paths, path.parent, path.name, image)
    store = FileStore(path.parent, paths)
    read_labels = typed_labels if path.suffix.lower() in (".csv", ".tsv") else _as_they_are
    return _by_split(store, table, columns, path.name, paths, _class_label_names(table.schema), read_labels)


def _embeds_images(path: Path, columns: Columns) -> bool:
    try:
        schema = pyarrow.parquet.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error
    return _holds_images(schema, columns, path.name)


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
    if dataset.features[image] == datasets.Value("string"):
        check_no_urls(pa.array(dataset[:1][image], pa.string()), where, image)
    store = DatasetStore(dataset, image, root)
    others = [name for name in dataset.column_names if name != image]
    if not others:
        raise ValueError(f"{where!r} has no column beside the images: a label column is needed.")
    table = dataset.select_columns(others).with_format("arrow")[:]
    names = {
        name: feature.names for name, feature in dataset.features.items() if isinstance(feature, datasets.ClassLabel)
    }
    return _by_split(store, table, columns, where, None, names)


def _as_they_are(labels: pa.Array) -> pa.Array:
    return labels


def _by_split(
    store: Any,
    table: pa.Table,
    columns: Columns,
    where: str,
    paths: pa.Array | None,
    class_names: dict[str, list[str]],
    read_labels: Callable[[pa.Array], pa.Array] = _as_they_are,
) -> dict[str, RawSplit]:
    present = table.column_names
    if not columns.strict:
        columns = present_columns(columns, present)
    label = find_column("label_column", columns.label, LABEL_COLUMNS, present, where)
    clean = columns.clean_label and find_column("clean_label_column", columns.clean_label, (), present, where)
    identifier = columns.id and find_column("id_column", columns.id, (), present, where)
    weight = columns.weight or same_column(WEIGHT_COLUMN, present)
    weight = weight and find_column("weight_column", weight, (), present, where)
    names = paths if identifier is None else table[identifier].combine_chunks()
    whole = RawSplit(
        store=store,
        ids=unique_ids(pa.array([str(row) for row in range(len(table))]) if names is None else names),
        labels=read_labels(table[label].combine_chunks()),
        clean_labels=read_labels(table[clean].combine_chunks()) if clean else None,
        class_names=class_names.get(label),
        is_clean=label == clean,
        where=where,
        weights=table[weight].combine_chunks() if weight else None,
    )
    split_column = columns.split or same_column("split", present)
    if split_column is None:
        return {"train": whole}
    split_column = find_column("split_column", split_column, (), present, where)
    return _cut(whole, table[split_column].combine_chunks(), where)


def present_columns(columns: Columns, present: Sequence[str]) -> Columns:
    """The columns that are there; the clean labels stand in for the given ones."""

    def here(name: str | None) -> str | None:
        return name and same_column(name, present)

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
        table_rows=rows,
    )


def find_column(argument: str, wanted: str | None, usual: Sequence[str], present: Sequence[str], where: str) -> str:
    """The column that is wanted, or the first usual one that is there; case and outer spaces do not matter.

    Raises:
        ValueError: If there is none.
    """
    if wanted is not None:
        found = same_column(wanted, present)
        if found is not None:
            return found
        near = difflib.get_close_matches(wanted, present, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"Expected argument `{argument}` to name a column of {where!r}, which has {list(present)}, but got "
            f"{wanted!r}.{hint}"
        )
    found = next((name for name in usual if name in present), None)
    found = found or next((here for name in usual if (here := same_column(name, present)) is not None), None)
    if found is None:
        raise ValueError(
            f"Expected argument `{argument}` to be given, since {where!r} has none of the usual columns {list(usual)}, "
            f"but {list(present)}.{_hint_of_no_header(present)}"
        )
    return found


def _hint_of_no_header(present: Sequence[str]) -> str:
    if not any(Path(name).suffix.lower() in image_suffixes() for name in present):
        return ""
    return " Its first line seems to be an image already: put the names of the columns above it, such as 'path,label'."


def same_column(name: str, present: Sequence[str]) -> str | None:
    """The column of this name, or else the first one whose name differs by case, spaces, ``-`` and ``_`` alone."""
    if name in present:
        return name
    return next((other for other in present if column_key(other) == column_key(name)), None)


def _class_label_names(schema: pa.Schema) -> dict[str, list[str]]:
    import datasets

    if not schema.metadata or b"huggingface" not in schema.metadata:
        return {}
    features = datasets.Features.from_arrow_schema(schema)
    return {name: feature.names for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)}


def _first_null(values: pa.Array) -> int:
    return int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
