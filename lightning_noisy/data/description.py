"""What data say of themselves: for the record of a run and its card, and to be read again by an audit."""

import os
from pathlib import Path, PurePath
from typing import Any

from lightning_noisy.data.readers.published import READERS


def describe(datamodule: Any) -> dict[str, Any]:
    """Name and numbers of what a data module holds, in JSON's types; of a local path only its last part.

    Returns:
        ``name``, ``hub_id`` of a data set on the Hub, ``noise``, ``label_noise_rate`` and, for each split,
        ``SPLIT_images``; what is not known is missing.
    """
    hub_id = public_name(datamodule.source) if datamodule.source.startswith("hub:") else None
    noise = datamodule.noise
    described = {
        "name": public_name(datamodule.source) or _last_part(datamodule.source),
        "hub_id": hub_id,
        "noise": "matrix" if noise and noise.startswith("matrix:") else noise,
        "label_noise_rate": datamodule.label_noise_rate,
    }
    described |= {f"{split}_images": len(images) for split, images in datamodule.splits.items()}
    return {name: value for name, value in described.items() if value is not None}


def public_name(source: str) -> str | None:
    """By what all the world knows a source: the Hub's name, or that of a published data set; ``None`` of one's own."""
    kind, _, rest = source.partition(":")
    if kind == "hub" and not rest.startswith((".", "/", "~")):
        return rest
    return kind if kind in READERS or source == "digits" else None


def _last_part(source: str) -> str:
    kind, _, rest = source.partition(":")
    path = PurePath(rest if kind in ("hub", "idx") else source.partition("?")[0])
    return path.parent.name if set("*{[") & set(path.name) else path.name


def arguments_of(datamodule: Any) -> dict[str, Any]:
    """The arguments of :class:`~lightning_noisy.NoisyImageDataModule` that give the same images in the same splits.

    Paths are absolute, all values are JSON's, and what is at its default is left out.
    """
    columns = datamodule.columns
    arguments = {
        "source": _absolute_source(datamodule.source),
        "label_column": columns.label,
        "clean_label_column": columns.clean_label,
        "id_column": columns.id,
        "image_column": columns.image,
        "split_column": columns.split,
        "class_names": datamodule.given_class_names and [str(name) for name in datamodule.given_class_names],
        "val_source": _absolute_source(datamodule.other_sources["val"]),
        "test_source": _absolute_source(datamodule.other_sources["test"]),
        "noise": _absolute_matrix(datamodule.noise),
        "max_train_images": datamodule.max_train_images,
        "merge_similar_classes": datamodule.merge_similar_classes or None,
        "on_empty_class": None if datamodule.on_empty_class == "error" else datamodule.on_empty_class,
    }
    drawn = {"val_fraction": datamodule.val_fraction, "seed": datamodule.seed, "on_broken": datamodule.on_broken}
    return {name: value for name, value in arguments.items() if value is not None} | drawn


def _absolute_source(source: str | None) -> str | None:
    if source is None or source == "digits":
        return source
    kind, colon, rest = source.partition(":")
    if not (colon and rest and kind in ("idx", "hub", *READERS)):
        return _absolute(source)
    if kind == "hub" and not Path(rest).expanduser().is_dir():
        return source
    return f"{kind}:{_absolute(rest)}"


def _absolute_matrix(noise: str | None) -> str | None:
    kind, _, rest = (noise or "").partition(":")
    return f"matrix:{_absolute(rest)}" if kind == "matrix" and rest else noise


def _absolute(path: str) -> str:
    return os.path.abspath(Path(path).expanduser())
