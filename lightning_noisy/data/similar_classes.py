"""Classes whose names differ by case, spaces or Unicode form alone: most often one class, written in several ways."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from lightning_noisy.data.readers.base import RawSplit, look_up
from lightning_noisy.utils.rank_zero import rank_zero_warn

SHOWN_GROUPS = 5


def spelling_key(name: str) -> str:
    """What is left of a name without case, spaces, invisible characters and Unicode form."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return "".join(letter for letter in folded if not letter.isspace() and unicodedata.category(letter) != "Cf")


def similar_names(names: Iterable[str]) -> list[list[str]]:
    """The groups of at least two names that are alike."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(spelling_key(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def warn_of_similar_classes(
    counts: Mapping[str, int],
    where: str,
    remedy: str = "set `merge_similar_classes: true` (`--data.merge_similar_classes true`)",
) -> None:
    """Warns once, naming the classes that are alike.

    Args:
        counts: Of each class, how many images it has.
        where: The source's name.
        remedy: What to do if they are one class.
    """
    groups = similar_names(counts)
    if groups:
        words = [" and ".join(f"{name!r} ({counts[name]:,} images)" for name in group) for group in groups]
        more = f"; and {len(groups) - SHOWN_GROUPS} more" if len(groups) > SHOWN_GROUPS else ""
        rank_zero_warn(
            f"Some classes of {where!r} differ by case, spaces or Unicode form alone: "
            f"{'; '.join(words[:SHOWN_GROUPS])}{more}. If they are one class each, {remedy}."
        )


def merge_similar_classes(raw: Mapping[str, RawSplit], class_names: Sequence[str] | None) -> dict[str, RawSplit]:
    """The splits with one spelling for names that are alike: the one that is given, else that of most training images.

    Args:
        raw: The splits; ``train`` is among them.
        class_names: The names that the user gives.

    Raises:
        ValueError: If names that the user gives are alike.
    """
    alike = similar_names(class_names or [])
    if alike:
        raise ValueError(
            f"Expected argument `class_names` to hold no names that are alike where `merge_similar_classes` is true, "
            f"but got {alike[0]}. Keep one of them."
        )
    splits = {split: _with_names(part) for split, part in raw.items()}
    train = splits["train"]
    counted = pc.value_counts(train.labels.drop_null()).to_pylist() if pa.types.is_string(train.labels.type) else []
    spellings = {spelling_key(name): name for name in class_names or []}
    for count in sorted(counted, key=lambda count: (-count["counts"], count["values"])):
        spellings.setdefault(spelling_key(count["values"]), _tidy(count["values"]))
    return {split: _respelled(part, spellings) for split, part in splits.items()}


def _tidy(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).split())


def _with_names(raw: RawSplit) -> RawSplit:
    """Names in place of numbers where the source has names for them."""

    def named(labels: pa.Array) -> pa.Array:
        if pa.types.is_dictionary(labels.type):
            labels = labels.dictionary_decode()
        if pa.types.is_large_string(labels.type):
            labels = labels.cast(pa.string())
        if raw.class_names is None or not pa.types.is_integer(labels.type):
            return labels
        is_known = pc.and_(pc.greater_equal(labels, 0), pc.less(labels, len(raw.class_names)))
        return pa.array(raw.class_names).take(pc.if_else(is_known, labels, None))

    clean_labels = None if raw.clean_labels is None else named(raw.clean_labels)
    return replace(raw, labels=named(raw.labels), clean_labels=clean_labels)


def _respelled(raw: RawSplit, spellings: Mapping[str, str]) -> RawSplit:
    def respell(labels: pa.Array) -> pa.Array:
        if not pa.types.is_string(labels.type):
            return labels
        known = labels.drop_null().unique()
        names = [spellings.get(spelling_key(name), name) for name in known.to_pylist()]
        return look_up(labels, known, pa.array(names, pa.string()))

    own = raw.class_names and list(dict.fromkeys(spellings.get(spelling_key(name), name) for name in raw.class_names))
    clean_labels = None if raw.clean_labels is None else respell(raw.clean_labels)
    return replace(raw, labels=respell(raw.labels), clean_labels=clean_labels, class_names=own)
