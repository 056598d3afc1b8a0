"""What a user says of a model, checked, and what an export is told by: without an import of any framework."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from huggingface_hub.utils import HFValidationError, validate_repo_id

from lightning_noisy.run_record import RECORD_FILE, plain_number

CARD_FILE = "README.md"
NOISY_MODEL_TYPE = "noisy_image_classification"
"""The ``model_type`` of a model that still has its noise layer; an export has its library's own."""


class CardArguments(TypedDict, total=False):
    """The keyword arguments of :class:`CardOptions` beside licence and repository, for functions that hand them on."""

    model_name: str | None
    description: str | None
    base_model: str | None
    datasets: Sequence[str] | None
    metrics: Mapping[str, float] | None


@dataclass(frozen=True)
class CardOptions:
    """What the user says of the model, beside what its training has recorded.

    Args:
        license: The licence of the weights, by the Hub's identifier: ``"apache-2.0"``, ``"cc-by-nc-4.0"``, ``"other"``.
            It has no default.
        repo_id: Where it will lie on the Hub; the snippets load it from there. By default they load the folder.
        model_name: The title; the repository's or the folder's name by default.
        description: A few sentences in front.
        base_model: The repository that it was fine-tuned from; known where the backbone came from the Hub.
        datasets: The repositories of its data; known where they came from the Hub.
        metrics: More metrics, by name; ``test/accuracy_clean`` for instance. Names end in ``_clean`` or ``_noisy``,
            after the labels they are against.

    Raises:
        ValueError: If there is no licence, or an argument is wrong.
    """

    license: str | None
    repo_id: str | None = None
    model_name: str | None = None
    description: str | None = None
    base_model: str | None = None
    datasets: Sequence[str] | None = None
    metrics: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if not self.license:
            raise ValueError(
                "Expected argument `license` to be given, the licence under which the weights may be used, such as "
                "'apache-2.0' or 'cc-by-nc-4.0', but got none. It must allow no more than the licences of the base "
                "model and of the data do."
            )
        check_license(self.license, "the weights", "the licences of the base model and the data")
        for name, repo_id in [
            ("repo_id", self.repo_id),
            ("base_model", self.base_model),
            *(("datasets", dataset) for dataset in self.datasets or ()),
        ]:
            check_repo_id(name, repo_id)
        for name, value in (self.metrics or {}).items():
            number = plain_number(value)
            if number is None or not math.isfinite(number):
                raise ValueError(f"Expected argument `metrics` to hold finite numbers, but got {value!r} for {name!r}.")


def is_saved_export(path: str | Path) -> bool:
    """Whether a folder holds what :func:`~lightning_noisy.hub.export_clean` wrote: a model and its card."""
    folder = Path(path).expanduser()
    if not all((folder / name).is_file() for name in (CARD_FILE, "config.json", RECORD_FILE)):
        return False
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config.get("model_type") != NOISY_MODEL_TYPE


def check_license(license: str | None, of_what: str, above: str) -> None:
    """Raises a :class:`ValueError` where it is no identifier of the Hub's; none is taken for granted.

    Args:
        license: What the user gives.
        of_what: What it is the licence of.
        above: What it must agree with.
    """
    if not isinstance(license, str) or not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise ValueError(
            f"Expected argument `license` to be the licence of {of_what} by the Hub's identifier, such as "
            f"'apache-2.0', 'mit', 'cc-by-nc-4.0' or 'other', but got {license!r}. It must allow what {above} allow."
        )


def is_repo_id(name: str) -> bool:
    """Whether a text may be the name of a repository on the Hub."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def check_repo_id(name: str, repo_id: str | None) -> None:
    """Raises a :class:`ValueError` that names the argument, where it is none of the Hub's."""
    if repo_id is None:
        return
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"Expected argument `{name}` to be a repository such as 'me/birds', but {error}") from error
