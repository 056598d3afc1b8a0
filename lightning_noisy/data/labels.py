"""From the labels of a source to class numbers."""

import difflib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from lightning_noisy.data.sources import RawSplit
from lightning_noisy.data.table import UNKNOWN, LabelledImages


def find_class_names(train: RawSplit, class_names: Sequence[str] | None) -> list[str]:
    """The names of the classes: given, told by the source, or read from the training labels.

    Raises:
        ValueError: If labels are missing, or class numbers leave a gap.
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
    """The names of the classes that labels, whole numbers or strings, tell of.

    Raises:
        ValueError: If there are less than 2, or class numbers leave a gap.
    """
    if not pa.types.is_integer(labels.type):
        names = sorted(labels.unique().to_pylist())
        if len(names) < 2:
            raise ValueError(f"Expected at least 2 classes in {where!r}, but all labels are {names[0]!r}.")
        return names
    lowest, highest = pc.min_max(labels).as_py().values()
    if lowest < 0:
        raise ValueError(
            f"Expected the labels of {where!r} to be class numbers from 0 on, but got {lowest}. Drop such rows, "
            "or give names as labels."
        )
    present = set(labels.unique().to_pylist())
    empty = next((number for number in range(highest + 1) if number not in present), None)
    if empty is not None:
        raise ValueError(
            f"Class {empty} has no images in {where!r}, whose labels go from 0 to {highest}. Number the classes "
            "without a gap, or use names as labels."
        )
    if highest < 1:
        raise ValueError(f"Expected at least 2 classes in {where!r}, but all labels are 0.")
    return [str(number) for number in range(highest + 1)]


def number_labels(raw: RawSplit, class_names: list[str], is_clean: bool) -> LabelledImages:
    """A split with class numbers.

    Args:
        raw: The split as its source gives it.
        class_names: The K names.
        is_clean: Whether the given labels are known to be right.

    Raises:
        ValueError: If a label is missing or is none of the classes.
    """
    noisy_labels = _numbers(_known_labels(raw.labels, raw), raw, class_names)
    if raw.clean_labels is not None:
        known = pc.invert(_is_missing(raw.clean_labels))
        clean_labels = np.full(len(noisy_labels), UNKNOWN, dtype=np.int64)
        numbers = _numbers(_as_labels(raw.clean_labels.filter(known), raw), raw, class_names)
        clean_labels[known.to_numpy(zero_copy_only=False)] = numbers
    elif is_clean or raw.is_clean:
        clean_labels = noisy_labels.copy()
    else:
        clean_labels = np.full(len(noisy_labels), UNKNOWN, dtype=np.int64)
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
            f"Expected the weights of {raw.where!r} to be finite and at least 0, but row {row} "
            f"({raw.ids[row].as_py()!r}) has {raw.weights[row].as_py()}. Correct it, or name another `weight_column`."
        )
    if not weights.any():
        raise ValueError(
            f"Expected the weights of {raw.where!r} to leave something to train on, but all of them are 0. Raise some, "
            "or name another `weight_column`."
        )
    return weights


def check_every_class_has_images(counts: np.ndarray, class_names: Sequence[str], where: str) -> None:
    """Raises a :class:`ValueError` that names the first classes without a training image.

    Args:
        counts: (K,) training images that carry each label.
        class_names: The K names.
        where: The source's name for the message.
    """
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        names = ", ".join(repr(class_names[label]) for label in empty[:5])
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        raise ValueError(
            f"Class {names}{more} has no images for training in {where!r}. Add some, or leave it out of `class_names`."
        )


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
    known = clean_labels != UNKNOWN
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


def _numbers(labels: pa.Array, raw: RawSplit, class_names: list[str]) -> np.ndarray:
    if pa.types.is_integer(labels.type):
        numbers = labels.to_numpy(zero_copy_only=False).astype(np.int64)
        if raw.class_names is not None and raw.class_names != class_names:
            return _numbers(pa.array(raw.class_names).take(labels), raw, class_names)
        outside = np.flatnonzero((numbers < 0) | (numbers >= len(class_names)))
        if len(outside):
            row = int(outside[0])
            raise ValueError(
                f"Expected the labels of {raw.where!r} to lie in 0..{len(class_names) - 1}, but row {row} "
                f"({raw.ids[row].as_py()!r}) has {numbers[row]}. Correct the row, or give all `class_names`."
            )
        return numbers
    indices = pc.index_in(labels, value_set=pa.array(class_names, labels.type))
    if indices.null_count:
        row = int(np.flatnonzero(pc.is_null(indices).to_numpy(zero_copy_only=False))[0])
        label = labels[row].as_py()
        near = difflib.get_close_matches(label, class_names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"Expected the labels of {raw.where!r} to be among the {len(class_names)} classes, but row {row} "
            f"({raw.ids[row].as_py()!r}) has {label!r}.{hint} Correct the row, or give all `class_names`."
        )
    return indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _known_labels(labels: pa.Array, raw: RawSplit) -> pa.Array:
    rows = np.flatnonzero(_is_missing(labels).to_numpy(zero_copy_only=False))
    if len(rows):
        raise ValueError(
            f"Row {rows[0]} ({raw.ids[int(rows[0])].as_py()!r}) of {raw.where!r} has no label, and so have {len(rows)} "
            "rows in all. Fill them in or drop them."
        )
    return _as_labels(labels, raw)


def _is_missing(labels: pa.Array) -> pa.BooleanArray:
    missing = pc.is_null(labels, nan_is_null=True)
    if pa.types.is_string(labels.type) or pa.types.is_large_string(labels.type):
        missing = pc.or_(missing, pc.equal(pc.utf8_trim_whitespace(pc.fill_null(labels, "")), ""))
    return missing


def _as_labels(labels: pa.Array, raw: RawSplit) -> pa.Array:
    kind = labels.type
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
