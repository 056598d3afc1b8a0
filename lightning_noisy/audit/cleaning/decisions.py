"""``decisions.json``: what people have decided about the images of an audit."""

import json
from pathlib import Path
from typing import Any

from lightning_noisy.utils.text import quote

FORMAT_VERSION = 1
DECISIONS = ("accept", "keep", "drop", "unsure")
"""Take the suggested label; the given one is right; leave the image out; as if nobody had looked."""


def read_decisions(path: str | Path, audit_id: str) -> dict[str, str]:
    """The decision for each id; whether the audit has these ids is for the caller to see.

    Args:
        path: What the report page has saved.
        audit_id: That of the audit which the decisions must be about.

    Raises:
        ValueError: If it can't be read, is about another audit, or has a word that is no decision or an id twice.
    """
    values = _read_json(Path(path))
    if not isinstance(values, dict) or values.get("format") != FORMAT_VERSION:
        raise _mistake(path, f"a JSON object with `format` {FORMAT_VERSION}", quote(values))
    if values.get("audit_id") != audit_id:
        raise ValueError(
            f"Expected the decisions {str(path)!r} to be about this audit ({audit_id!r}), but they are about "
            f"{quote(values.get('audit_id'))}. Give the decisions that were saved from this audit's own report."
        )
    entries = values.get("decisions")
    if not isinstance(entries, list):
        raise _mistake(path, "a list `decisions`", quote(entries))
    decisions: dict[str, str] = {}
    for entry in entries:
        name, decision = _checked(path, entry)
        if name in decisions:
            raise _mistake(path, "one decision for each image", f"{quote(name)} twice")
        decisions[name] = decision
    return decisions


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(
            f"Expected argument `decisions` to be a file that the report page has saved, but {str(path)!r} does not "
            "exist."
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:  # of JSON and of UTF-8
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"Expected the decisions {str(path)!r} to be JSON, but it can't be read: {reason}. Save them from the "
            "report page again."
        ) from error


def _checked(path: str | Path, entry: Any) -> tuple[str, str]:
    name, decision = (entry.get("id"), entry.get("decision")) if isinstance(entry, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(decision, str):
        raise _mistake(path, "a list of objects with an `id` and a `decision`", quote(entry))
    if decision not in DECISIONS:
        raise _mistake(path, f"the decisions {', '.join(map(repr, DECISIONS))}", f"{quote(decision)} for {quote(name)}")
    return name, decision


def _mistake(path: str | Path, expected: str, got: str) -> ValueError:
    return ValueError(
        f"Expected the decisions {str(path)!r} to hold {expected}, but got {got}. Save them from the report page again."
    )
