"""The folder of a published data set: its lists as columns, and mistakes in it as one sentence."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from lightning_noisy.utils.text import quote

NOT_IN_A_LINE = "\x01"
"""The separator of a table that has but one column."""


@dataclass(frozen=True)
class PublishedFolder:
    """A folder as the publishers of a data set lay it out.

    Args:
        kind: What the user calls the data set, such as ``"clothing1m"``.
        root: The folder.
        argument: The user's name for the source, for messages.
    """

    kind: str
    root: Path
    argument: str

    @property
    def where(self) -> str:
        """The source as the user gives it."""
        return f"{self.kind}:{self.root}"

    def check_folders(self, *names: str) -> None:
        """Raises a :class:`ValueError` that names the first folder of images that is not there."""
        for name in names:
            if not (self.root / name).is_dir():
                raise self._missing(f"a folder {name!r} with images")

    def fields(self, name: str, pattern: str, form: str, header: str | None = None) -> dict[str, pa.StringArray]:
        """The columns of a list.

        Args:
            name: The file, from the root on.
            pattern: A regular expression that each line follows; its named groups are the columns.
            form: Such a line, for messages.
            header: How the first line starts where it is none of the list.

        Raises:
            ValueError: If the file is not there, is no text, or has another line. Blank lines are left out.
        """
        lines = self._lines(name)
        filled = np.flatnonzero(pc.not_equal(pc.utf8_trim_whitespace(lines), "").to_numpy(zero_copy_only=False))
        if header is not None and len(filled) and lines[filled[0]].as_py().startswith(header):
            filled = filled[1:]
        if len(filled) == 0:
            raise self.mistake(f"whose {name!r} has lines like {form!r}", "it has none", "Download the file again.")
        found = pc.extract_regex(lines.take(pa.array(filled)), pattern=pattern)
        if found.null_count:
            row = int(filled[np.flatnonzero(found.is_null().to_numpy(zero_copy_only=False))[0]])
            line = lines[row].as_py()
            raise self.mistake(
                f"whose {name!r} has lines like {form!r}",
                f"line {row + 1} is {quote(line)}",
                "Correct the line, or download the file again.",
            )
        return {field.name: found.field(field.name) for field in found.type}

    def mistake(self, expected: str, got: str, remedy: str) -> ValueError:
        """The error in one sentence: what the folder should be, what it is instead, and what to do."""
        return ValueError(
            f"Expected argument `{self.argument}` ({self.where!r}) to name a folder {expected}, but {got}. {remedy}"
        )

    def _missing(self, what: str) -> ValueError:
        got = "it is not there" if self.root.is_dir() else "the folder does not exist"
        return self.mistake(
            f"that holds {what}", got, f"Unpack all of the data set into one folder and give '{self.kind}:THAT_FOLDER'."
        )

    def _lines(self, name: str) -> pa.StringArray:
        path = self.root / name
        if not path.is_file():
            raise self._missing(f"the file {name!r}")
        if path.stat().st_size == 0:
            return pa.array([], pa.string())
        try:
            table = pyarrow.csv.read_csv(
                path,
                read_options=pyarrow.csv.ReadOptions(column_names=["line"]),
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter=NOT_IN_A_LINE, quote_char=False, ignore_empty_lines=False
                ),
                convert_options=pyarrow.csv.ConvertOptions(column_types={"line": pa.string()}),
            )
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise self.mistake(
                f"whose {name!r} is a text file in UTF-8", f"it can't be read ({reason})", "Download the file again."
            ) from error
        return table["line"].combine_chunks()
