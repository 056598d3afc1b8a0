"""From the labels of a source to class numbers."""

import difflib
import textwrap
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from lightning_noisy.data.labelled_images import LabelledImages
from lightning_noisy.data.readers.base import RawSplit
from lightning_noisy.noise.functional import NO_LABEL
from lightning_noisy.utils.rank_zero import rank_zero_warn


def find_class_names(train: RawSplit, class_names: Sequence[str] | None) -> list[str]:
    """The names of the classes: given, told by the source, or read from the training labels.

    Raises:
        ValueError: If labels are missing, or are no names of at least 2 classes.
    """
    if class_names is not None:
        return check_class_names(class_names)
    if len(train.labels) == 0:
        raise ValueError(f"{train.where!r} has no training images.")
    if train.class_names is not None:
        return list(train.class_names)
    return class_names_from(_known_labels(train.labels, train), train.where)


def check_class_names(class_names: Sequence[str]) -> list[str]:
    """The names that the user gives; raises a :class:`ValueError` where they are not at least 2 different ones."""
    names = [str(name) for name in class_names]
    if len(names) < 2 or len(set(names)) != len(names):
        raise ValueError(f"Expected argument `class_names` to be at least 2 different names, but got {names}.")
    return names


def class_names_from(labels: pa.Array, where: str) -> list[str]:
    """The names of the classes that labels, whole numbers (which may be ids with gaps) or strings, tell of.

    Raises:
        ValueError: If there are less than 2, or a number is negative.
    """
    if not pa.types.is_integer(labels.type):
        names = sorted(labels.unique().to_pylist())
        if len(names) < 2:
            raise ValueError(f"Expected at least 2 classes in {where!r}, but all labels are {names[0]!r}.")
        return names
    lowest = pc.min(labels).as_py()
    if lowest < 0:
        raise ValueError(
            f"Expected the labels of {where!r} to be class numbers from 0 on, but got {lowest}. Drop such rows, "
            "or give names as labels."
        )
    present = sorted(labels.unique().to_pylist())
    if len(present) < 2:
        raise ValueError(f"Expected at least 2 classes in {where!r}, but all labels are {lowest}.")
    return [str(number) for number in present]


def numbers_are_names(class_names: Sequence[str]) -> bool:
    """Whether a label that is a number is the name of its class (``"10"``) rather than its position among the classes.

    It is, where any class is called by a number. ``0, 1, 2`` are both.
    """
    return any(name.isdecimal() for name in class_names)


def number_labels(raw: RawSplit, class_names: list[str], is_clean: bool, split: str = "train") -> LabelledImages:
    """A split with class numbers.

    Args:
        raw: The split as its source gives it.
        class_names: The K names.
        is_clean: Whether the given labels are known to be right.
        split: Its name, for messages.

    Raises:
        ValueError: If a label is missing or is none of the classes.
    """
    noisy_labels = _numbers(_known_labels(raw.labels, raw), raw, class_names, split)
    if raw.clean_labels is not None:
        known = np.flatnonzero(~_is_missing(raw.clean_labels).to_numpy(zero_copy_only=False))
        clean_labels = np.full(len(noisy_labels), NO_LABEL, dtype=np.int64)
        rows = known if raw.table_rows is None else raw.table_rows[known]
        checked = replace(raw, ids=raw.ids.take(pa.array(known)), table_rows=rows)
        labels = _as_labels(raw.clean_labels.take(pa.array(known)), raw)
        clean_labels[known] = _numbers(labels, checked, class_names, split, "clean labels")
    elif is_clean or raw.is_clean:
        clean_labels = noisy_labels.copy()
    else:
        clean_labels = np.full(len(noisy_labels), NO_LABEL, dtype=np.int64)
    return LabelledImages(raw.ids, noisy_labels, clean_labels, class_names, raw.store, np.arange(len(noisy_labels)))


def training_weights(raw: RawSplit) -> np.ndarray | None:
    """(N,) float32, what each image weighs in the loss; ``None`` where the source says nothing of it.

    Raises:
        ValueError: If a weight is no number of at least 0, or all are 0.
    """
    if raw.weights is None:
        return None
    try:
        weights = raw.weights.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(
            f"Expected the weights of {raw.where!r} to be numbers, but got the type {raw.weights.type}."
        ) from error
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"Expected the weights of {raw.where!r} to be finite and at least 0, but {raw.name_of(row)} has "
            f"{raw.weights[row].as_py()}. Correct it, or name another `weight_column`."
        )
    if not weights.any():
        raise ValueError(
            f"Expected the weights of {raw.where!r} to leave something to train on, but all of them are 0. Raise some, "
            "or name another `weight_column`."
        )
    return weights


def check_every_class_has_images(
    counts: np.ndarray,
    class_names: Sequence[str],
    where: str,
    remedy: str = "Add some, or leave it out of `class_names`.",
) -> None:
    """Raises a :class:`ValueError` that names the first classes without a training image.

    Args:
        counts: (K,) training images that carry each label.
        class_names: The K names.
        where: The source's name for the message.
        remedy: What to do.
    """
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        raise ValueError(f"Class {_first_names(class_names, empty)} has no images for training in {where!r}. {remedy}")


def leave_out_empty_classes(splits: dict[str, LabelledImages], where: str) -> dict[str, LabelledImages]:
    """The splits without the classes that no training image has, with a warning that names them.

    Args:
        splits: By name; ``train`` is among them.
        where: The source's name for messages.

    Raises:
        ValueError: If another split, or a clean label, is of such a class, or less than 2 classes are left.
    """
    names = splits["train"].class_names
    is_empty = np.bincount(splits["train"].noisy_labels, minlength=len(names)) == 0
    if not is_empty.any():
        return splits
    empty = _first_names(names, np.flatnonzero(is_empty))
    for split, images in splits.items():
        for kind, labels in (("label", images.noisy_labels), ("clean label", images.clean_labels)):
            rows = np.flatnonzero((labels != NO_LABEL) & is_empty[labels])
            if len(rows):
                label = labels[rows[0]]
                first = images.ids[int(rows[0])].as_py()
                raise ValueError(
                    f"Class {names[label]!r} has no images for training in {where!r}, but is the {kind} of "
                    f"{(labels == label).sum()} {split} images, the first {first!r}. Add training images of it, "
                    "or take those images out."
                )
    kept = [name for name, without in zip(names, is_empty, strict=True) if not without]
    if len(kept) < 2:
        raise ValueError(f"Expected training images of at least 2 classes in {where!r}, but only {kept} have some.")
    rank_zero_warn(f"Class {empty} has no images for training in {where!r} and is left out.")
    # The last entry is the number of an unknown label, which is -1.
    numbers = np.append(np.where(is_empty, NO_LABEL, np.cumsum(~is_empty) - 1), NO_LABEL)
    return {
        split: replace(
            images,
            noisy_labels=numbers[images.noisy_labels],
            clean_labels=numbers[images.clean_labels],
            class_names=kept,
        )
        for split, images in splits.items()
    }


def _first_names(class_names: Sequence[str], numbers: np.ndarray) -> str:
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return ", ".join(repr(class_names[number]) for number in numbers[:5]) + more


def count_checked_labels(
    clean_labels: np.ndarray, noisy_labels: np.ndarray, num_classes: int, times: np.ndarray | int = 1
) -> np.ndarray | None:
    """(K, K) int64 counts ``[clean label, noisy label]`` of the images whose clean label is known; ``None`` if none is.

    Clean labels that do nothing but confirm some of the given ones tell nothing of the others and are not counted.

    Args:
        clean_labels: (M,) -1 where unknown.
        noisy_labels: (M,).
        num_classes: ``K``.
        times: (M,) how many images carry these labels.
    """
    known = clean_labels != NO_LABEL
    is_confirmed = (clean_labels == noisy_labels)[known]
    if not known.any() or (is_confirmed.all() and not known.all()):
        return None
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(counts, (clean_labels[known], noisy_labels[known]), np.broadcast_to(times, known.shape)[known])
    return counts


def wrong_share(checked: np.ndarray | None) -> float | None:
    """The share of wrong labels in what :func:`count_checked_labels` gives."""
    return None if checked is None else float((checked.sum() - np.trace(checked)) / checked.sum())


def transition_matrix_from(checked: np.ndarray | None) -> Tensor | None:
    """(K, K) the true transition matrix, where every class has checked labels."""
    if checked is None or not checked.sum(axis=1).all():
        return None
    return torch.from_numpy(checked / checked.sum(axis=1, keepdims=True))


def _numbers(labels: pa.Array, raw: RawSplit, class_names: list[str], split: str, kind: str = "labels") -> np.ndarray:
    if pa.types.is_integer(labels.type):
        if raw.class_names is None and numbers_are_names(class_names):
            return _numbers(labels.cast(pa.string()), raw, class_names, split, kind)
        count = len(class_names if raw.class_names is None else raw.class_names)
        numbers = labels.to_numpy(zero_copy_only=False).astype(np.int64)
        outside = np.flatnonzero((numbers < 0) | (numbers >= count))
        if len(outside):
            row = int(outside[0])
            raise ValueError(
                f"Expected the {kind} of {raw.where!r} to lie in 0..{count - 1}, but {raw.name_of(row)} has "
                f"{numbers[row]}. Correct the row, or give all `class_names`."
            )
        if raw.class_names is not None and raw.class_names != class_names:
            return _numbers(pa.array(raw.class_names).take(labels), raw, class_names, split, kind)
        return numbers
    indices = pc.index_in(labels, value_set=pa.array(class_names, labels.type))
    if indices.null_count:
        raise _unknown_label(labels.filter(pc.is_null(indices)), labels, raw, class_names, split, kind)
    return indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _unknown_label(
    unknown: pa.StringArray, labels: pa.StringArray, raw: RawSplit, class_names: list[str], split: str, kind: str
) -> ValueError:
    label = unknown[0].as_py()
    row = pc.index(labels, label).as_py()
    near = difflib.get_close_matches(label, class_names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    if split == "train":
        return ValueError(
            f"Expected the {kind} of {raw.where!r} to be among the {len(class_names)} classes, but {raw.name_of(row)} "
            f"has {label!r}.{hint} Correct the row, or give all `class_names`."
        )
    count = pc.count(unknown.filter(pc.equal(unknown, label))).as_py()
    others = len(unknown.unique()) - 1
    more = f", and so it is with {others} more of its classes" if others else ""
    return ValueError(
        f"Expected the {split} images of {raw.where!r} to be of the {len(class_names)} classes that the training "
        f"images have, but {count} of them, the first {raw.ids[row].as_py()!r}, are labelled {label!r}{more}.{hint} "
        f"Add training images of it, or take those {split} images out."
    )


def _known_labels(labels: pa.Array, raw: RawSplit) -> pa.Array:
    rows = np.flatnonzero(_is_missing(labels).to_numpy(zero_copy_only=False))
    if len(rows):
        raise ValueError(
            f"Expected a label in each row of {raw.where!r}, but {raw.name_of(int(rows[0]))} has none, one of "
            f"{len(rows)} such rows. Fill them in or drop them."
        )
    return _as_labels(labels, raw)


def _is_missing(labels: pa.Array) -> pa.BooleanArray:
    missing = pc.is_null(labels, nan_is_null=True)
    if pa.types.is_string(labels.type) or pa.types.is_large_string(labels.type):
        missing = pc.or_(missing, pc.equal(pc.utf8_trim_whitespace(pc.fill_null(labels, "")), ""))
    return missing


def _are_lists_in_text(labels: pa.Array) -> bool:
    """Whether a text table has lists as labels, such as ``['dog', 'cat']`` or ``[1]``."""
    if not pa.types.is_string(labels.type):
        return False
    return bool(pc.any(pc.match_substring_regex(labels, r"""^\s*\[(.*[,'"].*|[0-9\s]+)\]\s*$""")).as_py())


def _as_labels(labels: pa.Array, raw: RawSplit) -> pa.Array:
    kind = labels.type
    if pa.types.is_nested(kind) or _are_lists_in_text(labels):
        first = textwrap.shorten(str(labels.drop_null()[:1].to_pylist()), 80)
        raise ValueError(
            f"Expected one label for each image of {raw.where!r}, but got such as {first}: images with several labels "
            "(multi-label data) are not handled. Keep one label of each, or name another `label_column`."
        )
    if pa.types.is_dictionary(kind):
        return _as_labels(labels.dictionary_decode(), raw)
    if pa.types.is_integer(kind) or pa.types.is_string(kind):
        return labels
    if pa.types.is_large_string(kind) or pa.types.is_boolean(kind):
        return labels.cast(pa.string())
    try:
        return labels.cast(pa.int64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(
            f"Expected the labels of {raw.where!r} to be class names or whole numbers, but got the type {kind}."
        ) from error
