"""Folders with a folder for each class: which of their files are images, and which are what systems leave behind."""

import mimetypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
from PIL import Image

from lightning_noisy.data.image_stores import FileStore, is_utf8
from lightning_noisy.data.labelled_images import unique_ids
from lightning_noisy.data.readers.base import SPLIT_NAMES, Columns, RawSplit, image_suffixes
from lightning_noisy.utils.rank_zero import rank_zero_warn
from lightning_noisy.utils.text import printable_path as printable

SYSTEM_NAMES = {
    "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "#recycle", "@eadir", "lost+found",
    "system volume information", "__pycache__",
}  # fmt: skip
"""What unpackers, file browsers and network disks leave behind, in lower case; hidden files start with a dot."""
USUAL_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
NO_SUFFIX, DEAD_LINK, NO_CLASS = "no suffix", "a link that leads nowhere", "an image beside the class folders"
"""Kinds of files that are not read, beside suffixes."""
MANIFESTS = (".csv", ".tsv", ".jsonl", ".parquet")
METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def read_folder(root: Path, columns: Columns, argument: str, on_empty_class: str) -> dict[str, RawSplit]:
    """The splits of a folder: by class folders, or by the ``metadata`` files of the imagefolder form of ``datasets``.

    Args:
        root: The folder, which may hold ``train/``, ``val/`` and ``test/``.
        columns: Column names for metadata files.
        argument: The user's name for the folder, for messages.
        on_empty_class: ``"error"``, or ``"skip"`` to leave out folders without images.

    Raises:
        ValueError: If there are no class folders, or one of them holds no image.
    """
    from lightning_noisy.data.readers.tables import read_metadata

    def listed(folder: Path) -> dict[str, RawSplit] | None:
        metadata = _metadata_file(folder, argument)
        is_optional = bool(_class_folders(folder))
        return None if metadata is None else read_metadata(metadata, columns, argument, is_optional)

    found = listed(root)
    if found is not None:
        return found
    folders = _class_folders(root)
    if not folders or not all(folder.name.lower() in SPLIT_NAMES for folder in folders):
        if argument == "source":
            _check_is_no_cover(root, folders)
        return {"train": _read_class_folders(root, root, columns, argument, on_empty_class)}
    by_split = {SPLIT_NAMES[folder.name.lower()]: folder for folder in folders}
    if len(by_split) < len(folders) or ("train" not in by_split and argument == "source"):
        raise ValueError(
            f"Expected argument `{argument}` to hold one folder of training images and one for each other split, but "
            f"{printable(str(root))!r} holds {' and '.join(repr(printable(folder.name)) for folder in folders)}. Add a "
            "folder 'train' beside them or join what belongs together, or name them as `val_source` and `test_source`."
        )
    splits = {}
    for split, folder in by_split.items():
        found = listed(folder)
        if found is None:
            found = {"train": _read_class_folders(root, folder, columns, argument, on_empty_class)}
        splits[split] = found["train"]
    return splits


def _check_is_no_cover(root: Path, folders: list[Path]) -> None:
    """Raises a :class:`ValueError` where the only folder is no class: the classes, or a list of them, lie elsewhere."""
    if len(folders) != 1:
        return
    lists = [file for file in sorted(root.iterdir()) if file.suffix.lower() in MANIFESTS and file.is_file()]
    meant = [*lists, *(folders if len(_class_folders(folders[0])) > 1 else [])]
    if meant:
        raise ValueError(
            f"Expected argument `source` to hold a folder for each class, but {printable(str(root))!r} holds one, "
            f"{printable(folders[0].name)!r}. Did you mean {' or '.join(repr(printable(str(path))) for path in meant)}?"
        )


def is_left_behind(name: str) -> bool:
    """Whether a file or folder is hidden or one that a system leaves behind: no user put it there as data."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def _read_class_folders(root: Path, folder: Path, columns: Columns, argument: str, on_empty_class: str) -> RawSplit:
    class_folders = _class_folders(folder)
    if not class_folders:
        raise ValueError(
            f"Expected argument `{argument}` to hold a folder for each class with images inside, but {str(folder)!r} "
            "has no folders. A list of files belongs in a manifest (.csv, .tsv, .parquet, .jsonl)."
        )
    paths: list[str] = []
    labels: list[str] = []
    empty: list[str] = []
    not_read: dict[str, tuple[int, str]] = {}
    for file in sorted(entry for entry in folder.iterdir() if not entry.is_dir() and not is_left_behind(entry.name)):
        if _is_image(file, image_suffixes()):
            _count(not_read, NO_CLASS, file, root)
    for class_folder in class_folders:
        _check_lists_agree(class_folder, columns, argument)
        left_out: list[tuple[str, Path]] = []
        files = sorted(_image_files(class_folder, lambda kind, file: left_out.append((kind, file))))  # noqa: B023
        for kind, file in left_out:
            _count(not_read, kind, file, root)
        name = printable(class_folder.name)
        if not files and on_empty_class == "error":
            others = f", but {len(left_out)} others, such as {printable(left_out[0][1].name)!r}" if left_out else ""
            raise ValueError(
                f"Class {name!r} has no images: {printable(str(class_folder))!r} holds no file that ends in .jpg, "
                f".png, .webp or another image suffix{others}. Fill the folder, remove it, or set "
                "`on_empty_class: skip` (`--data.on_empty_class skip`)."
            )
        if not files:
            empty.append(name)
        paths += [file.relative_to(root).as_posix() for file in files]
        labels += [name] * len(files)
    if empty:
        words = ", ".join(map(repr, empty[:5])) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
        rank_zero_warn(f"Class {words} has no images in {printable(str(folder))!r} and is left out.")
    ids = pa.array(map(printable, paths), pa.string())
    files_of_rows = ids if all(map(is_utf8, paths)) else pa.array(map(os.fsencode, paths), pa.binary())
    names = pa.array(labels, pa.string())
    where = printable(str(folder))
    return RawSplit(FileStore(root, files_of_rows), unique_ids(ids), names, where=where, not_read=not_read)


def _check_lists_agree(class_folder: Path, columns: Columns, argument: str) -> None:
    """Looks whether a ``metadata`` file inside a class folder gives its images several labels.

    Raises:
        ValueError: If it does: then it is not clear what the classes are.
    """
    from lightning_noisy.data.readers.tables import read_metadata

    for metadata in (class_folder / name for name in METADATA_FILES if (class_folder / name).is_file()):
        found = read_metadata(metadata, columns, argument, is_optional=True) or {}
        labels = {str(label) for split in found.values() for label in split.labels.unique().to_pylist()}
        if len(labels) > 1:
            raise ValueError(
                f"Expected the folders in argument `{argument}` to be the classes, or one list in it to tell them, but "
                f"{printable(str(metadata))!r} gives the images of the folder {printable(class_folder.name)!r} the "
                f"labels {', '.join(map(repr, sorted(labels)[:3]))}. Join such lists into one {metadata.name!r} beside "
                "the folders, or rename them if the folders are right."
            )


def _count(counts: dict[str, tuple[int, str]], kind: str, file: Path, root: Path) -> None:
    number, first = counts.get(kind, (0, printable(file.relative_to(root).as_posix())))
    counts[kind] = number + 1, first


def _class_folders(folder: Path) -> list[Path]:
    """The visible folders; a link back to the folder or to one above it is no class."""
    found = []
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not is_left_behind(entry.name):
            if os.path.realpath(entry) in _itself_and_above(folder):
                _warn_of_circle(entry)
            else:
                found.append(entry)
    return found


def _image_files(folder: Path, leave_out: Callable[[str, Path], None]) -> Iterator[Path]:
    """The images below a class folder; links are followed, each folder once.

    Args:
        folder: The class folder.
        leave_out: Is told the kind of each file that is no image.
    """
    suffixes = image_suffixes()
    seen = _itself_and_above(folder)
    for place, folders, files in os.walk(folder, followlinks=True):
        kept = []
        for name in sorted(folders):
            real = os.path.realpath(os.path.join(place, name))
            if is_left_behind(name):
                continue
            if real in seen:
                _warn_of_circle(Path(place, name))
                continue
            seen.add(real)
            kept.append(name)
        folders[:] = kept
        for file in (Path(place, name) for name in sorted(files) if not is_left_behind(name)):
            if _is_image(file, suffixes):
                yield file
            else:
                leave_out(_kind(file), file)


def _itself_and_above(folder: Path) -> set[str]:
    real = Path(os.path.realpath(folder))
    return {str(real), *map(str, real.parents)}


def _warn_of_circle(link: Path) -> None:
    rank_zero_warn(f"{printable(str(link))!r} leads to a folder that is read already, and is left out.")


def _is_image(file: Path, suffixes: set[str]) -> bool:
    """By its suffix; by its first bytes where it has none, or one that no kind of file has (``a.jpg_large``)."""
    if file.suffix.lower() in suffixes:
        return file.is_file()
    if mimetypes.guess_type(file.name) != (None, None) or not file.is_file():
        return False
    try:
        with Image.open(file, formats=USUAL_FORMATS):
            return True
    except OSError:  # Pillow's word for "this is no image" is one
        return False


def _kind(file: Path) -> str:
    if not file.exists():
        return DEAD_LINK
    return file.suffix.lower() or NO_SUFFIX


def _metadata_file(folder: Path, argument: str) -> Path | None:
    found = [folder / name for name in METADATA_FILES if (folder / name).is_file()]
    if len(found) > 1:
        raise ValueError(
            f"Expected argument `{argument}` to name a folder with one list of its images, but {str(folder)!r} holds "
            f"{found[0].name!r} and {found[1].name!r}. Remove one, or name the other as `{argument}`."
        )
    return found[0] if found else None
