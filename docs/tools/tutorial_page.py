"""Runs tutorial.py cell by cell and writes what a notebook would show as a page, ``tutorial.md`` with its pictures.

python docs/tools/tutorial_page.py    (from the root of the repository; about a minute)
"""

import ast
import contextlib
import io
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
from matplotlib.figure import Figure

DOCS = Path(__file__).parents[1]
SCRIPT = DOCS / "tutorial.py"
PAGE = DOCS / "tutorial.md"
PICTURES = DOCS / "tutorial"
WIDTH = 840
"""Of the widest picture in pixels: of the page's text on a desktop."""
NOTICE = "<!-- Written by docs/tools/tutorial_page.py from tutorial.py: change that one. -->\n\n"


@dataclass(frozen=True)
class Shown:
    """A cell and what it has left: code with its printed lines and its picture, or Markdown."""

    is_code: bool
    source: str
    printed: str = ""
    picture: Figure | None = None


def cells(script: Path = SCRIPT) -> list[Shown]:
    """As they stand in the script, not run."""
    notebook = jupytext.read(script)
    return [Shown(cell.cell_type == "code", cell.source) for cell in notebook.cells if cell.source.strip()]


def run(script: Path = SCRIPT) -> tuple[list[Shown], dict[str, Any]]:
    """All cells one after the other in one namespace, which comes back too; files go into the working folder."""
    space: dict[str, Any] = {"__name__": "__main__"}
    return [_run_cell(cell, space) if cell.is_code else cell for cell in cells(script)], space


def _run_cell(cell: Shown, space: dict[str, Any]) -> Shown:
    """The value of a last line that is an expression is shown, as in a notebook."""
    body = ast.parse(cell.source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(body, []), str(SCRIPT), "exec"), space)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), str(SCRIPT), "eval"), space)
    return Shown(True, cell.source, printed.getvalue(), value if isinstance(value, Figure) else None)


def write_page(shown: list[Shown], page: Path, pictures: Path) -> None:
    """The page, and a PNG for each picture."""
    pictures.mkdir(exist_ok=True)
    parts = []
    for cell in shown:
        if not cell.is_code:
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source.strip()}\n```")
        if cell.printed.strip():
            parts.append(f"```text\n{cell.printed.strip()}\n```")
        if cell.picture is not None:
            saved = re.search(r'savefig\(RUN / "(\w+\.png)"', cell.source)
            assert saved is not None, "Each picture is saved under a name, which is its name on the page too."
            cell.picture.savefig(pictures / saved[1], dpi=WIDTH / max(cell.picture.get_figwidth(), 7.0))
            heading = saved[1].removesuffix(".png").replace("_", " ").capitalize()
            parts.append(f"![{heading}]({pictures.name}/{saved[1]})")
    page.write_text(NOTICE + "\n\n".join(parts) + "\n", encoding="utf-8")


def main() -> None:
    """Runs the script in a temporary folder and replaces the page."""
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        shown, _ = run()
        os.chdir(before)
    write_page(shown, PAGE, PICTURES)


if __name__ == "__main__":
    main()
