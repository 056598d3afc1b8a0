"""What a training leaves behind for its model card: primitives only, in a checkpoint or as JSON."""

import dataclasses
import json
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RECORD_FILE = "noisy_training.json"
CARD_TAG = "lightning-noisy"
"""By this tag a model card says that it was written from such a record."""
PACKAGES = ("lightning-noisy", "torch", "timm", "transformers", "peft", "lightning", "datasets", "accelerate")


@dataclass
class RunRecord:
    """The facts of one training run. No path of the machine is in it.

    Args:
        trainer: ``"lightning"`` or ``"transformers"``.
        base_model: The Hub repository whose weights the training started from.
        hyperparameters: By name.
        adapter: ``kind``, ``rank`` and ``trained_parameters`` (head included) of a PEFT adapter; empty without.
        data: ``name``, ``hub_id``, ``train_images``, ``noise`` and ``label_noise_rate`` where they are known.
        metrics: By name; a name that ends in ``_noisy`` was measured against the given labels, ``_clean`` against
            checked ones.
        history: The course of the metrics: in each row ``epoch``, how many were done, and what was measured then.
        label_counts: ``[predicted class, given label, count]`` of the last epoch.
        epochs: Epochs trained.
        steps: Optimizer steps.
        seconds: Wall-clock time of the training.
        hardware: The accelerator's name.
        processes: How many processes trained together.
        versions: Of the packages that took part.
    """

    trainer: str = ""
    base_model: str | None = None
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    adapter: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    label_counts: list[list[int]] = field(default_factory=list)
    epochs: float = 0.0
    steps: int = 0
    seconds: float = 0.0
    hardware: str = ""
    processes: int = 1
    versions: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Primitives; :meth:`from_dict` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunRecord":
        """Reads what :meth:`to_dict` wrote; keys of a newer version are ignored."""
        known = {item.name for item in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


def package_versions() -> dict[str, str]:
    """Python's and the packages' versions, those that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def plain_number(value: Any) -> float | None:
    """A number as a float, from a scalar tensor or array too; ``None`` where it is none."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def as_numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The entries of ``metrics`` that are finite numbers, scalar tensors and arrays included, as floats."""
    numbers = {}
    for name, value in metrics.items():
        value = plain_number(value)
        if value is not None and math.isfinite(value):
            numbers[name] = value
    return numbers


def add_to_history(history: list[dict[str, float]], epoch: float, metrics: Mapping[str, Any]) -> None:
    """Puts the numbers among the metrics into the row of this epoch, which is the last one or a new one."""
    numbers = as_numbers(metrics)
    if not numbers:
        return
    if not history or history[-1]["epoch"] != epoch:
        history.append({"epoch": epoch})
    history[-1].update(numbers)


def read_record(path: Path) -> RunRecord:
    """The record in a file, or an empty one where there is none."""
    return RunRecord.from_dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else RunRecord()


def write_record(record: RunRecord, path: Path) -> None:
    """Writes the record as JSON."""
    path.write_text(json.dumps(record.to_dict(), indent=1), encoding="utf-8")
