"""A hook of MkDocs: links to files beside docs/ lead to pages of the site, and formulas become MathML.

The same Markdown is read on the site and in the repository, so nothing in it is for one of them alone.
"""

import posixpath
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
DOCS = "docs/"
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)\s#]+)((?:#[^)\s]*)?\))")
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$`(.+?)`\$", re.DOTALL)
CODE = {".py": "python", ".sh": "bash", ".slurm": "bash", ".yaml": "yaml"}
"""Files that a browser would not show: they stand on a page."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds every file beside docs/ that a page links to."""
    unread = [file.src_uri for file in files.documentation_pages()]
    while unread:
        place = repository_path(unread.pop())
        for target in linked_from(place):
            uri = site_uri(target)
            if target.startswith(DOCS) or files.get_file_from_path(uri) is not None:
                continue
            files.append(_file(target, uri, config))
            if uri.endswith(".md"):
                unread.append(uri)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links and formulas into those of the site."""
    folder = posixpath.dirname(repository_path(page.file.src_uri))

    def to_site(found: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(folder, found[2]))
        if not (ROOT / target).is_file():
            return found[0]  # MkDocs says so
        uri = posixpath.relpath(site_uri(target), posixpath.dirname(page.file.src_uri) or ".")
        return f"{found[1]}{uri}{found[3]}"

    def to_mathml(found: re.Match) -> str:
        if found[2]:
            # In a span, so that a line that begins with a formula stays text.
            return f"<span>{convert(found[2].strip(), display='inline')}</span>"
        return f'<div class="formula">{convert(found[1].strip(), display="block")}</div>'

    return FORMULA.sub(to_mathml, LINK.sub(to_site, markdown))


def linked_from(place: str) -> list[str]:
    """The files that a Markdown file links to, as paths in the repository."""
    if not place.endswith(".md"):
        return []
    found = LINK.findall((ROOT / place).read_text(encoding="utf-8"))
    targets = [posixpath.normpath(posixpath.join(posixpath.dirname(place), target)) for _, target, _ in found]
    return [target for target in targets if (ROOT / target).is_file()]


def site_uri(place: str) -> str:
    """Where a file of the repository is in the site's sources."""
    if place.startswith(DOCS):
        return place.removeprefix(DOCS)
    return f"{place}.md" if Path(place).suffix in CODE else place


def repository_path(uri: str) -> str:
    """Where a file of the site's sources is in the repository."""
    if (ROOT / DOCS / uri).is_file():
        return DOCS + uri
    code = uri.removesuffix(".md")
    return code if Path(code).suffix in CODE else uri


def _file(place: str, uri: str, config: MkDocsConfig) -> File:
    path = ROOT / place
    language = CODE.get(path.suffix)
    if language is None:
        return File.generated(config, uri, abs_src_path=str(path))
    text = path.read_text(encoding="utf-8").rstrip()
    return File.generated(config, uri, content=f"# {path.name}\n\n````{language}\n{text}\n````\n")
