"""What was found beside wrong labels, in few numbers and in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_noisy.utils.text import quote

MOST_PAIRS = 5
SPLIT_WORDS = {"train": "training", "val": "validation", "test": "test"}
QUALITY_WORDS = {
    "low_information": "hold hardly any information",
    "dark": "are dark",
    "light": "are too bright",
    "blurry": "are blurry",
    "odd_aspect_ratio": "have an odd shape",
    "odd_size": "have an odd size",
}


@dataclass(frozen=True)
class Leak:
    """Pictures of one split that an earlier one has too.

    Args:
        split: ``"val"`` or ``"test"``.
        images: Of the split, how many are such pictures.
        total: How many images the split has.
    """

    split: str
    images: int
    total: int


@dataclass(frozen=True)
class SimilarClasses:
    """Two classes that a probe can't tell apart.

    Args:
        one: Number of a class.
        other: Number of the other class.
        separability: AUROC, over the images that carry either label, of the probe's odds between the two: 1 where it
            tells them apart, .5 where it can't.
        confused: The share of these images to which the probe gives more of the other label.
        cosine: Of the mean features of the two, less those of all images.
    """

    one: int
    other: int
    separability: float
    confused: float
    cosine: float


@dataclass(frozen=True)
class SplitClass:
    """A class whose images fall into two groups.

    Args:
        label: Number of the class.
        share: Of its images, those in the smaller group.
        crossing: How many images have neighbours in the other group, by how many would have in one cloud: 1 where there
            is no gap between the groups, 0 where nothing is near it.
        examples: Ids of images in the middle of the one group, and of the other.
    """

    label: int
    share: float
    crossing: float
    examples: list[list[str]]


@dataclass(frozen=True)
class IssueFindings:
    """The numbers.

    Args:
        kinds: How many of the audited images are of each kind; a kind that was not looked for is missing.
        pictures: How many pictures are there several times, in whatever split.
        conflicts: Of how many of them the labels differ.
        wrong_at_least: How many labels are wrong for certain, since another one of the same picture is right.
        most_copies: How often the most frequent picture is there.
        leaks: By split.
        similar_classes: Pairs of classes that look like one.
        split_classes: Classes that look like two.
    """

    kinds: dict[str, int]
    pictures: int = 0
    conflicts: int = 0
    wrong_at_least: int = 0
    most_copies: int = 0
    leaks: list[Leak] = field(default_factory=list)
    similar_classes: list[SimilarClasses] = field(default_factory=list)
    split_classes: list[SplitClass] = field(default_factory=list)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "IssueFindings":
        """From what :func:`dataclasses.asdict` gave."""
        kinds = {"leaks": Leak, "similar_classes": SimilarClasses, "split_classes": SplitClass}
        lists = {name: [kind(**each) for each in values.get(name, [])] for name, kind in kinds.items()}
        return cls(**{**values, **lists})

    def sentences(self, class_names: Sequence[str], agreement: float | None = None) -> list[str]:
        """What was found, for people; nothing is said of what was not found.

        Args:
            class_names: The K names.
            agreement: The accuracy of the judge on images that it has not learned from, to say how far leaks flatter.
        """
        kinds = self.kinds
        said = []
        if self.pictures:
            exact = kinds.get("exact_duplicate", 0)
            said.append(
                f"{_several(self.pictures, 'picture is', 'pictures are')} there several times, the most frequent one "
                f"{self.most_copies:,} times: {_images(kinds.get('near_duplicate', 0))} in all, {exact:,} of them with "
                "the very same pixels."
            )
        if self.conflicts:
            said.append(
                f"The labels of {_several(self.conflicts, 'such picture', 'such pictures')} differ: at least "
                f"{_several(self.wrong_at_least, 'label is', 'labels are')} wrong for certain."
            )
        said += [_leak_in_words(leak, agreement) for leak in self.leaks]
        if kinds.get("placeholder"):
            said.append(f"Placeholders, one picture very often and under many labels: {_images(kinds['placeholder'])}.")
        if kinds.get("outlier"):
            said.append(f"Unlike all classes: {_images(kinds['outlier'])}.")
        for pair in self.similar_classes[:MOST_PAIRS]:
            one, other = (quote(class_names[label]) for label in (pair.one, pair.other))
            said.append(
                f"{one} and {other} look like one class: the probe tells their images apart hardly better than by "
                f"chance (AUROC {pair.separability:.2f})."
            )
        if len(self.similar_classes) > MOST_PAIRS:
            said.append(f"{len(self.similar_classes) - MOST_PAIRS:,} more pairs of classes look like one.")
        for split in self.split_classes[:MOST_PAIRS]:
            said.append(
                f"{quote(class_names[split.label])} looks like two classes: its images fall into groups of "
                f"{1 - split.share:.0%} and {split.share:.0%} with a gap between them."
            )
        if len(self.split_classes) > MOST_PAIRS:
            said.append(f"{len(self.split_classes) - MOST_PAIRS:,} more classes look like two.")
        poor = [f"{kinds[kind]:,} {words}" for kind, words in QUALITY_WORDS.items() if kinds.get(kind)]
        if poor:
            said.append(f"Of the pictures, {', '.join(poor)}.")
        return said


def _leak_in_words(leak: Leak, agreement: float | None) -> str:
    earlier = "the training images" if leak.split == "val" else "the training or validation images"
    share = leak.images / leak.total
    words = f"{leak.images:,} of {leak.total:,} {SPLIT_WORDS[leak.split]} images ({share:.1%}) are among {earlier} too"
    if agreement is None:
        return f"{words}: an accuracy measured on them is flattered."
    points = 100 * share * (1 - agreement)
    return f"{words}: a network that knows them by heart has an accuracy that is too high by about {points:.1f} points."


def _images(count: int) -> str:
    return _several(count, "image", "images")


def _several(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"
