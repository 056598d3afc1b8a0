"""Tables that are text: how they are encoded, what separates their columns, and which of their labels are numbers."""

import codecs
import csv
import re
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

DELIMITERS = (",", ";", "\t", "|")
MISSING = pa.array(pyarrow.csv.ConvertOptions().null_values)
"""What stands in a column of numbers where there is none, such as ``NA``."""
WHOLE_NUMBER = r"^-?(0|[1-9][0-9]{0,17})(\.0+)?$"
DECIMAL_NUMBER = r"^-?[0-9]*\.[0-9]+$"


def column_key(name: str) -> str:
    """By this two names of columns are the same: ``File Name`` is ``file_name``."""
    return re.sub(r"[\s_-]+", "_", name.strip()).casefold()


def read_delimited(path: Path, usual: Collection[str], number_column: str, where: str) -> pa.Table:
    """Reads a table whose columns are separated by a comma, a semicolon, a tab or a vertical bar.

    Args:
        path: The file, in UTF-8, or in UTF-16 with its mark at the start.
        usual: Names of columns that tell that a line is cut at the right places.
        number_column: This column is read as numbers; all others are text, so that ``007`` stays what it is.
        where: The file as messages call it.

    Raises:
        ValueError: If its encoding or what separates its columns can't be told, or two columns have one name.
        pyarrow.ArrowException: If it is no such table.
    """
    encoding = encoding_of(path, where)
    with open(path, encoding=encoding, newline="") as file:
        header = next((line.rstrip("\r\n") for line in file if line.strip()), "")
    delimiter = _delimiter_of(header, where, usual)
    names = next(csv.reader([header], delimiter=delimiter), [])
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"Expected each column of {where} to have a name of its own, but two are {twice!r}.")
    table = pyarrow.csv.read_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(encoding="utf8" if encoding == "utf-8-sig" else encoding),
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={name: pa.string() for name in names if column_key(name) != column_key(number_column)}
        ),
    )
    for place, name in enumerate(table.column_names):
        # Who writes "path, label" writes a space in front of each label, too.
        if name.startswith(" ") and pa.types.is_string(table[name].type):
            table = table.set_column(place, name, pc.utf8_ltrim(table[name], " "))
    return table


def read_json_lines(path: Path, where: str) -> pa.Table:
    """Reads a table with a JSON object in each line.

    Raises:
        ValueError: If it is not in UTF-8.
        pyarrow.ArrowException: If it is no such table.
    """
    if encoding_of(path, where) == "utf-16":
        raise ValueError(f"Expected {where} to be a text in UTF-8, but it is in UTF-16. Save it as UTF-8.")
    return pyarrow.json.read_json(path)


def encoding_of(path: Path, where: str) -> str:
    """``"utf-16"`` where a file starts with its mark, else ``"utf-8-sig"``, which is UTF-8 with a mark or without.

    Raises:
        ValueError: If it is neither; the sentence shows what the first such line would be in Windows-1252.
    """
    with open(path, "rb") as file:
        start = file.read(1024)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        if b"\0" in start:
            raise ValueError(f"Expected {where} to be a text in UTF-8, but it holds zero bytes. Save it as UTF-8.")
        file.seek(0)
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                guess = line.decode("cp1252", "replace").strip()[:80]
                raise ValueError(
                    f"Expected {where} to be a text in UTF-8, but line {number} is not. It may be in Windows-1252 "
                    f"(also called ANSI or Latin-1), where the line is {guess!r}, or in another encoding. Save the "
                    "table as UTF-8 (in Excel: 'CSV UTF-8')."
                ) from error
    return "utf-8-sig"


def typed_labels(text: pa.Array) -> pa.Array:
    """Labels of a text table as whole numbers where all of them are written as such, else as they are.

    Numbers with leading zeros are codes: ``007`` and ``7`` are two classes. Decimal numbers become float64, which no
    label may be.
    """
    trimmed = pc.utf8_trim_whitespace(text)
    filled = pc.if_else(pc.is_in(trimmed, value_set=MISSING), pa.scalar(None, pa.string()), trimmed)
    known = filled.drop_null().unique()
    if len(known) == 0:
        return filled
    if pc.all(pc.match_substring_regex(known, WHOLE_NUMBER)).as_py():
        return pc.replace_substring_regex(filled, r"\.0+$", "").cast(pa.int64())
    if pc.all(pc.match_substring_regex(known, f"{WHOLE_NUMBER}|{DECIMAL_NUMBER}")).as_py():
        return filled.cast(pa.float64())
    if pc.all(pc.is_in(pc.utf8_lower(known), value_set=pa.array(["false", "true"]))).as_py():
        return pc.utf8_lower(filled)
    return text


def _delimiter_of(header: str, where: str, usual: Collection[str]) -> str:
    """What cuts the first line into several names, best of all such that usual ones are among them."""
    wanted = {column_key(name) for name in usual}
    names = {delimiter: next(csv.reader([header], delimiter=delimiter), []) for delimiter in DELIMITERS}
    cutting = [delimiter for delimiter in DELIMITERS if len(names[delimiter]) > 1]
    telling = [delimiter for delimiter in cutting if wanted & set(map(column_key, names[delimiter]))]
    for found in (telling, cutting):
        if len(found) == 1:
            return found[0]
    if not header:
        return ","  # an empty file, which pyarrow refuses
    raise ValueError(
        f"Expected the columns of {where} to be separated by a comma, a semicolon, a tab or a vertical bar, but its "
        f"first line, {header[:80]!r}, does not show by which. Start the table with the names of its columns, such as "
        "'path,label'."
    )
