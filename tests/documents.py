"""The project's Markdown as its readers meet it: links, headings, commands and code."""

import re
import shlex
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "recipes" / "README.md", *(ROOT / "docs").rglob("*.md")], key=lambda path: str(path)
)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s#]*)(?:#([^)\s]*))?\)|<img src=\"([^\"]+)\"")
PROGRAMS = ("lightning-noisy", "python", "torchrun", "sbatch")


def name(path: Path) -> str:
    """Of a file, for messages."""
    return str(path.relative_to(ROOT))


def links(path: Path) -> list[tuple[str, str]]:
    """(file, heading) of each link within the repository; either may be empty."""
    found = LINK.findall(path.read_text(encoding="utf-8"))
    return [(target or picture, anchor) for target, anchor, picture in found]


def anchors(path: Path) -> set[str]:
    """What a link may lead to: the headings as GitHub and the site name them."""
    tokens = _tokens(path)
    headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def python_blocks(path: Path) -> list[str]:
    return [token.content for token in _tokens(path) if token.type == "fence" and token.info.strip() == "python"]


def commands(path: Path) -> list[list[str]]:
    """The words of each command of a shell block, and of each ``fit`` in a line of text or a table."""
    lines: list[str] = []
    for token in _tokens(path):
        if token.type == "code_block" or (token.type == "fence" and token.info.strip() == "bash"):
            lines += token.content.replace("\\\n", " ").splitlines()
        for child in token.children or []:
            is_run = child.type == "code_inline" and re.search(r"(fit|\.py|\.sh|\.slurm) .*--", child.content)
            lines += [child.content] if is_run and "…" not in child.content else []
    split = [shlex.split(re.sub(r"\s#.*", "", line)) for line in lines if line.strip() and not line.startswith(" ")]
    return [words for words in map(_without_variables, split) if words and _program(words)]


def _without_variables(words: list[str]) -> list[str]:
    """``DATA=photos recipes/audit.sh`` -> ``recipes/audit.sh``."""
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    return words


def _program(words: list[str]) -> bool:
    return words[0] in PROGRAMS or words[0].startswith(("recipes/", "benchmarks/"))


def _tokens(path: Path) -> list:
    return MarkdownIt().enable("table").parse(path.read_text(encoding="utf-8"))
