"""Data sets with real label noise, read as their publishers lay them out."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from lightning_noisy.data.image_stores import FileStore
from lightning_noisy.data.labelled_images import unique_ids
from lightning_noisy.data.readers.base import RawSplit, image_suffixes, look_up
from lightning_noisy.data.readers.published_folder import PublishedFolder

NAME = r"^\s*(?P<name>\S.*?)\s*$"
KEY_AND_NUMBER = r"^(?P<key>\S.*?)[ \t]+(?P<number>\d{1,9})\s*$"
CLASS_AND_FILE = r"^(?P<key>(?P<label>[^/]+)/\S.*?)\s*$"
VERIFICATION = r"^(?P<key>[^/]+/\S.*?)[ \t]+(?P<is_right>[01])\s*$"
SYNSET = r"^(?P<synset>n\d+)\s+(?P<name>\S.*?)\s*$"

ANIMALS = ["cat", "lynx", "wolf", "coyote", "cheetah", "jaguar", "chimpanzee", "orangutan", "hamster", "guinea pig"]
MINI_WEBVISION_CLASSES = 50
MAX_NUMBER = 10**9


def read_published(kind: str, root: Path, argument: str) -> dict[str, RawSplit]:
    """The splits of a published data set.

    Args:
        kind: One of :data:`READERS`.
        root: The folder into which it was unpacked.
        argument: The user's name for the source, for messages.

    Raises:
        ValueError: If a file or a folder is not there, or a line of a list is not as it should be.
    """
    return READERS[kind](PublishedFolder(kind, root, argument))


def read_clothing1m(folder: PublishedFolder) -> dict[str, RawSplit]:
    """Clothing1M (Xiao et al. 2015, https://github.com/Cysu/noisy_label): a million images, 14 classes.

    Trains on ``noisy_train_key_list.txt``; an image of it that has a clean label, too, keeps that beside it. Validation
    and test are ``clean_val_key_list.txt`` and ``clean_test_key_list.txt`` with their clean labels.
    """
    folder.check_folders("images")
    names = folder.fields("category_names_eng.txt", NAME, "T-Shirt")["name"].to_pylist()
    noisy, clean = (_numbered(folder, f"{kind}_label_kv.txt", "images/0/00/1,2.jpg 3") for kind in ("noisy", "clean"))

    def split(part: str, labels_file: str, labels: tuple[pa.Array, pa.Array]) -> RawSplit:
        keys_file = f"{part}_key_list.txt"
        keys = folder.fields(keys_file, NAME, "images/0/00/1,2.jpg")["name"]
        found = look_up(keys, *labels)
        if found.null_count:
            first = keys.filter(pc.is_null(found))[0].as_py()
            raise folder.mistake(
                f"whose {labels_file!r} has a label for each image of {keys_file!r}",
                f"{first!r} has none",
                "Download both files again.",
            )
        return replace(_split(folder, keys, keys, found, names), clean_labels=look_up(keys, *clean))

    return {
        "train": split("noisy_train", "noisy_label_kv.txt", noisy),
        "val": split("clean_val", "clean_label_kv.txt", clean),
        "test": split("clean_test", "clean_label_kv.txt", clean),
    }


def read_food101n(folder: PublishedFolder) -> dict[str, RawSplit]:
    """Food-101N (Lee et al. 2018, https://kuanghuei.github.io/Food-101N): 310,009 images, 101 classes.

    Validates on the images of ``meta/verified_val.tsv`` and trains on the others of ``meta/imagelist.tsv``. A label
    that was verified as right is a clean one; where it was verified as wrong, nobody knows the clean label. The test
    images are those of Food-101.
    """
    folder.check_folders("images")
    names = folder.fields("meta/classes.txt", NAME, "apple_pie", header="class_name")["name"].to_pylist()
    images = folder.fields("meta/imagelist.tsv", CLASS_AND_FILE, "apple_pie/0a1b.jpg", header="class_name")
    keys, labels = images["key"], images["label"]
    verified = [
        folder.fields(f"meta/verified_{part}.tsv", VERIFICATION, "apple_pie/0a1b.jpg\t1", header="class_name")
        for part in ("train", "val")
    ]
    # Some verified images stand under another class in the list of images: they count as not verified.
    right = pa.concat_arrays([part["key"].filter(pc.equal(part["is_right"], "1")) for part in verified])
    clean_labels = pc.if_else(pc.is_in(keys, value_set=right), labels, pa.scalar(None, labels.type))
    paths = pc.binary_join_element_wise("images", keys, "/")
    for_validation = pc.is_in(keys, value_set=verified[1]["key"])
    splits = {}
    for split, rows in {"train": pc.invert(for_validation), "val": for_validation}.items():
        splits[split] = _split(folder, paths.filter(rows), keys.filter(rows), labels.filter(rows), names)
        splits[split].clean_labels = clean_labels.filter(rows)
    return splits


def read_food101(folder: PublishedFolder) -> dict[str, RawSplit]:
    """Food-101 (Bossard et al. 2014): 101,000 images; the labels of the test images were checked."""
    folder.check_folders("images")
    names = folder.fields("meta/classes.txt", NAME, "apple_pie")["name"].to_pylist()
    splits = {}
    for split in ("train", "test"):
        images = folder.fields(f"meta/{split}.txt", CLASS_AND_FILE, "apple_pie/1005649")
        paths = pc.binary_join_element_wise("images/", images["key"], ".jpg", "")
        splits[split] = _split(folder, paths, images["key"], images["label"], names)
    splits["test"].is_clean = True
    return splits


def read_webvision(folder: PublishedFolder) -> dict[str, RawSplit]:
    """WebVision 1.0 (Li et al. 2017): 2.4 million images from Google and Flickr, the 1,000 classes of ImageNet.

    Validates on ``info/val_filelist.txt``, whose labels are clean; the labels of the test images are not published.
    """
    return _webvision(folder, ("google", "flickr"), None)


def read_mini_webvision(folder: PublishedFolder) -> dict[str, RawSplit]:
    """Mini-WebVision (Jiang et al. 2018): the images from Google of WebVision's first 50 classes."""
    return _webvision(folder, ("google",), MINI_WEBVISION_CLASSES)


def read_animal10n(folder: PublishedFolder) -> dict[str, RawSplit]:
    """ANIMAL-10N (Song et al. 2019, https://dm.kaist.ac.kr/datasets/animal-10n): 55,000 images, 10 classes.

    A file's name starts with the number of its label. The labels of the test images are clean.
    """
    folder.check_folders("training", "testing")
    splits = {"train": _animals(folder, "training"), "test": _animals(folder, "testing")}
    splits["test"].is_clean = True
    return splits


READERS: dict[str, Callable[[PublishedFolder], dict[str, RawSplit]]] = {
    "clothing1m": read_clothing1m,
    "food101n": read_food101n,
    "food101": read_food101,
    "webvision": read_webvision,
    "mini-webvision": read_mini_webvision,
    "animal10n": read_animal10n,
}
"""What comes before the colon of a source, and what reads the folder after it."""


def _webvision(folder: PublishedFolder, engines: tuple[str, ...], num_classes: int | None) -> dict[str, RawSplit]:
    folder.check_folders(*engines, "val_images_256")
    synsets = folder.fields("info/synsets.txt", SYNSET, "n01440764 tench, Tinca tinca")
    names = _different(synsets["name"].to_pylist(), synsets["synset"].to_pylist())[:num_classes]

    def read(name: str, form: str) -> tuple[pa.Array, pa.Array]:
        keys, numbers = _numbered(folder, name, form)
        rows = pc.less(numbers, num_classes or MAX_NUMBER)
        return keys.filter(rows), numbers.filter(rows)

    lists = [read(f"info/train_filelist_{engine}.txt", f"{engine}/q0001/1a2b.jpg 0") for engine in engines]
    train_keys, train_labels = (pa.concat_arrays(columns) for columns in zip(*lists, strict=True))
    val_keys, val_labels = read("info/val_filelist.txt", "val000001.jpg 0")
    val_paths = pc.binary_join_element_wise("val_images_256", val_keys, "/")
    splits = {
        "train": _split(folder, train_keys, train_keys, train_labels, names),
        "val": _split(folder, val_paths, val_keys, val_labels, names),
    }
    splits["val"].is_clean = True
    return splits


def _different(names: list[str], synsets: list[str]) -> list[str]:
    """The names; one that two classes share (a crane is a bird and a machine) with its synset."""
    counts = Counter(names)
    return [f"{name} ({synset})" if counts[name] > 1 else name for name, synset in zip(names, synsets, strict=True)]


def _animals(folder: PublishedFolder, part: str) -> RawSplit:
    suffixes = image_suffixes()
    entries = (folder.root / part).iterdir()
    files = sorted(file.name for file in entries if file.suffix.lower() in suffixes and not file.name.startswith("."))
    if not files:
        raise folder.mistake(f"whose {part!r} holds images", "it has none", "Unpack the raw images into it.")
    names = pa.array(files, pa.string())
    found = pc.extract_regex(names, pattern=r"^(?P<number>[0-9])_")
    if found.null_count:
        raise folder.mistake(
            f"whose images in {part!r} are called LABEL_NUMBER, such as '0_31234.jpg'",
            f"one is called {names.filter(pc.is_null(found))[0].as_py()!r}",
            "Unpack the publishers' raw images again, or give a folder with a folder for each class instead.",
        )
    paths = pc.binary_join_element_wise(part, names, "/")
    return _split(folder, paths, paths, found.field("number").cast(pa.int64()), ANIMALS)


def _numbered(folder: PublishedFolder, name: str, form: str) -> tuple[pa.Array, pa.Array]:
    columns = folder.fields(name, KEY_AND_NUMBER, form)
    return columns["key"], columns["number"].cast(pa.int64())


def _split(folder: PublishedFolder, paths: pa.Array, ids: pa.Array, labels: pa.Array, names: list[str]) -> RawSplit:
    return RawSplit(FileStore(folder.root, paths), unique_ids(ids), labels, class_names=names, where=folder.where)
