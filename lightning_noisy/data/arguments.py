"""Checks of arguments that the data modules share; each raises a :class:`ValueError` that names the argument."""

from collections.abc import Sequence


def check_at_least(name: str, value: int | None, least: int) -> None:
    """An integer that is not below ``least``, or ``None``."""
    if value is not None and value < least:
        raise ValueError(f"Expected argument `{name}` to be an integer of at least {least}, but got {value}.")


def check_on_broken(on_broken: str) -> None:
    """What happens to an image that can't be decoded."""
    if on_broken not in ("error", "skip"):
        raise ValueError(f"Expected argument `on_broken` to be 'error' or 'skip', but got {on_broken!r}.")


def check_on_empty_class(on_empty_class: str) -> None:
    """What happens to a class without training images."""
    if on_empty_class not in ("error", "skip"):
        raise ValueError(f"Expected argument `on_empty_class` to be 'error' or 'skip', but got {on_empty_class!r}.")


def check_clean_splits(clean_splits: Sequence[str] | None) -> None:
    """The splits whose labels were checked by hand."""
    for split in clean_splits or []:
        if split not in ("val", "test"):
            raise ValueError(f"Expected argument `clean_splits` to hold 'val' or 'test' only, but got {split!r}.")


def check_datamodule_arguments(
    val_fraction: float,
    batch_size: int,
    num_workers: int | None,
    on_broken: str,
    max_train_images: int | None,
    image_size: int | None,
) -> None:
    """Raises a :class:`ValueError` that names the argument of a data module that is out of its range."""
    if not 0 <= val_fraction < 1:
        raise ValueError(f"Expected argument `val_fraction` to be a float in the [0,1) range, but got {val_fraction}.")
    check_on_broken(on_broken)
    check_at_least("batch_size", batch_size, 1)
    check_at_least("num_workers", num_workers, 0)
    check_at_least("max_train_images", max_train_images, 2)
    check_at_least("image_size", image_size, 1)
