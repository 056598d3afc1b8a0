"""What the rows of shards look like: which column, or which member of a sample in a .tar, holds what."""

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import fsspec
import pyarrow.parquet

from lightning_noisy.data.readers.base import Columns, image_suffixes
from lightning_noisy.data.readers.tables import IMAGE_COLUMNS, LABEL_COLUMNS, find_column, present_columns

if TYPE_CHECKING:
    import datasets

LABEL_MEMBERS = ("cls", "label", "label.txt", "cls.txt", *(f"json.{name}" for name in LABEL_COLUMNS))
KEY = "__key__"
"""What ``datasets`` calls the name that the members of a sample share."""
INTEGER_SUFFIXES = ("cls", "cls2", "index", "inx", "id")
"""Members that ``datasets`` reads as whole numbers."""


class Field(NamedTuple):
    """A column, or a key in the JSON that it holds."""

    name: str
    key: str | None = None

    def of(self, row: dict[str, Any]) -> Any:
        """Its value in a row; ``None`` where it has none."""
        value = row.get(self.name)
        return value if self.key is None or not isinstance(value, dict) else value.get(self.key)


@dataclass(frozen=True)
class Layout:
    """Where the rows of shards have what is needed of them.

    Args:
        image: The images' column.
        label: The given labels.
        clean_label: The checked ones.
        id: Stable ids; ``None`` is the shard with the sample's key or the row's number.
        class_names: Names of the class numbers, where the shards tell them.
        features: The columns to read, images undecoded.
    """

    image: str
    label: Field
    clean_label: Field | None
    id: Field | None
    class_names: list[str] | None
    features: "datasets.Features"

    @property
    def label_fields(self) -> list[Field]:
        """The labels that there are."""
        return [self.label] if self.clean_label is None else [self.label, self.clean_label]


def parquet_layout(url: str, columns: Columns, where: str) -> Layout:
    """The layout of a table with images.

    Raises:
        ValueError: If a column is missing.
    """
    import datasets

    with fsspec.open(url) as file:
        features = datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(file))
    present = list(features)
    pictures = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    image = find_column("image_column", columns.image, [*pictures, *IMAGE_COLUMNS], present, where)
    fields = _fields(columns, present, LABEL_COLUMNS, where)
    kept = datasets.Features({name: features[name] for name in dict.fromkeys([image, *_names(fields)])})
    if image in pictures:
        kept[image] = datasets.Image(decode=False)
    label = features[fields["label"].name]
    if isinstance(label, datasets.List | datasets.LargeList):
        raise ValueError(
            f"Expected argument `label_column` to name one label for each image of {where!r}, but "
            f"{fields['label'].name!r} holds lists: images with several labels (multi-label data) are not handled. "
            "Keep one label of each, or name another column."
        )
    names = list(label.names) if isinstance(label, datasets.ClassLabel) else None
    return Layout(image, fields["label"], fields["clean_label"], fields["id"], names, kept)


def tar_layout(url: str, columns: Columns, where: str) -> Layout:
    """The layout of a WebDataset, by its first sample. ``json.label`` names the key ``label`` of the member ``json``.

    Raises:
        ValueError: If there is no sample, or a member is missing.
    """
    import datasets

    with fsspec.open(url) as file:
        sample = next(tar_samples(file), None)
    if sample is None:
        raise ValueError(f"Expected {where!r} to hold samples such as '0001.jpg' and '0001.cls', but got none.")
    members, suffixes = sample, image_suffixes()
    present = [name for name in members if name != KEY]
    pictures = [name for name in present if f".{_suffix(name)}" in suffixes]
    keys = [f"{name}.{key}" for name in present if _suffix(name) == "json" for key in _json_keys(members[name])]
    image = find_column("image_column", columns.image, pictures, present, where)
    fields = _fields(columns, [*present, *keys], LABEL_MEMBERS, where)
    fields = {
        role: Field(*field.name.rsplit(".", 1)) if field and field.name not in present else field
        for role, field in fields.items()
    }
    kept = datasets.Features({name: _member_feature(name) for name in _names(fields)})
    kept |= {image: datasets.Image(decode=False), KEY: datasets.Value("string")}
    return Layout(image, fields["label"], fields["clean_label"], fields["id"], None, datasets.Features(kept))


def tar_samples(file: BinaryIO, names: list[str] | None = None) -> Iterator[dict[str, bytes]]:
    """The samples of a WebDataset as ``datasets`` tells them apart: members in a row with the same key.

    Args:
        file: The .tar; what need not be read is skipped where the file allows it.
        names: The members to read; all by default.
    """
    sample: dict[str, Any] = {}
    with tarfile.open(fileobj=file, mode="r:" if file.seekable() else "r|") as archive:
        for member in archive:
            archive.members = []  # type: ignore[attr-defined]  # it would remember them all
            found = re.match(r"^((?:.*/|)[^.]+)[.]([^/]*)$", member.name)
            if not member.isreg() or found is None or member.name.rpartition("/")[2].startswith((".", "__")):
                continue
            key, name = found.groups()
            if sample and sample[KEY] != key:
                yield sample
                sample = {}
            content = archive.extractfile(member) if names is None or name in names else None
            sample |= {KEY: key, name: b"" if content is None else content.read()}
    if sample:
        yield sample


def member_value(field: Field, sample: dict[str, bytes]) -> Any:
    """A member of a sample as ``datasets`` reads it; ``None`` where there is none."""
    data = sample.get(field.name)
    if data is None:
        return None
    if _suffix(field.name) == "json":
        return field.of({field.name: json.loads(data)})
    text = data.decode()
    return int(text) if _suffix(field.name) in INTEGER_SUFFIXES else text


def _fields(columns: Columns, present: list[str], usual: tuple[str, ...], where: str) -> dict[str, Any]:
    if not columns.strict:
        columns = present_columns(columns, present)
    return {
        "label": Field(find_column("label_column", columns.label, usual, present, where)),
        "clean_label": columns.clean_label
        and Field(find_column("clean_label_column", columns.clean_label, (), present, where)),
        "id": columns.id and Field(find_column("id_column", columns.id, (), present, where)),
    }


def _names(fields: dict[str, Field | None]) -> list[str]:
    return list(dict.fromkeys(field.name for field in fields.values() if field is not None))


def _suffix(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _json_keys(data: bytes) -> list[str]:
    content = json.loads(data)
    return list(content) if isinstance(content, dict) else []


def _member_feature(name: str) -> Any:
    import datasets

    if _suffix(name) == "json":
        return datasets.Json()
    if _suffix(name) in INTEGER_SUFFIXES:
        return datasets.Value("int64")
    return datasets.Value("string" if _suffix(name) in ("txt", "text", "transcript") else "binary")
