"""Texts of users in messages, tables and spreadsheets: short, on one line, and harmless."""

import os
import unicodedata
from pathlib import Path
from typing import Any

LONGEST_QUOTE = 80
LONGEST_LINE = 200
FORMULA_STARTS = "=+-@\t\r＝＋－＠"
"""A spreadsheet takes a cell that begins so for a formula, some in full width too."""
HIDDEN = "\\x00-\\x1f\\x7f\\x{061c}\\x{200b}-\\x{200f}\\x{202a}-\\x{202e}\\x{2060}\\x{2066}-\\x{2069}\\x{feff}"
"""Control characters, and those that turn the direction of what follows; for a class of characters in RE2."""


def quote(value: Any) -> str:
    """A value for a message, cut where it is long."""
    if isinstance(value, str):
        return repr(value if len(value) <= LONGEST_QUOTE else value[:LONGEST_QUOTE] + "…")
    text = repr(value)
    return text if len(text) <= LONGEST_QUOTE else text[:LONGEST_QUOTE] + "…"


def first_line(error: Exception) -> str:
    """What an error says, in one line that ends in a full stop."""
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".") + "."


def plain_text(value: str) -> str:
    """One line without control and direction characters, cut where it is very long."""
    spaced = " ".join(value.split())
    visible = "".join(c for c in spaced if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co"))
    return visible if len(visible) <= LONGEST_LINE else visible[: LONGEST_LINE - 1] + "…"


def printable_path(path: str) -> str:
    """A path of the file system as text: ``caf\\xe9.png`` where it is not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def relative_path(directory: str | Path) -> str:
    """From the current folder, where it is below it."""
    path = Path(directory)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def spreadsheet_cell(value: Any) -> Any:
    """A cell of a CSV file for people: what a spreadsheet would take for a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(tuple(FORMULA_STARTS)) else value
