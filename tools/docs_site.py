"""What `make docs` adds to docs/: a hook of mkdocs, named in mkdocs.yml.

Some pages lie elsewhere in the repository (README.md is the first page), and pages link to its
files and folders. On the site the former are pages like the others, and the latter are under files/
as they are, a folder as the list of what is in it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
# Pages that are not in docs/, by where they stand in the repository.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "measurements.md",
}
LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[#)])")  # of a link or an image, without its anchor


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages, and what pages link to."""
    for page, name in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / page).read_text("utf-8")))
    linked = {path for file in files.documentation_pages() for path in _linked(file)}
    inside = {file for folder in linked if folder.is_dir() for file in _inside(folder)}
    for path in sorted(linked | inside):
        files.append(_generated(config, path))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Links lead to where the site has what they name."""
    return _links_moved(markdown, page.file.src_uri)


def _links_moved(markdown: str, page: str) -> str:
    here = posixpath.dirname(page)

    def moved(match: re.Match[str]) -> str:
        target = _target(page, match[1])
        return match[1] if target is None else posixpath.relpath(_place(target), here or ".")

    return LINK.sub(moved, markdown)


def _source(page: str) -> Path:
    """The folder of the repository that a page of the site comes from."""
    origin = {name: path for path, name in PAGES.items()}.get(page, f"docs/{page}")
    return (ROOT / origin).parent


def _target(page: str, link: str) -> Path | None:
    """What a link of a page names in the repository; None where there is nothing."""
    path = Path(posixpath.normpath(_source(page) / link))
    return path if path.exists() and path.is_relative_to(ROOT) else None


def _place(path: Path) -> str:
    """Where the site has a file or a folder of the repository."""
    name = path.relative_to(ROOT).as_posix()
    if name in PAGES:
        return PAGES[name]
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    return f"files/{name}/index.md" if path.is_dir() else f"files/{name}"


def _linked(file: File) -> Iterator[Path]:
    """What a page links to and the site does not have otherwise."""
    for link in LINK.findall(file.content_string):
        target = _target(file.src_uri, link)
        if target is not None and _place(target).startswith("files/"):
            yield target


def _inside(folder: Path) -> list[Path]:
    """The files of a folder, and of those in it, that are the project's."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc")


def _generated(config: MkDocsConfig, path: Path) -> File:
    if path.is_file():
        return File.generated(config, _place(path), abs_src_path=str(path))
    names = [p.relative_to(path).as_posix() for p in _inside(path)]
    lines = [f"# {path.relative_to(ROOT)}/", "", *(f"- [{name}]({name})" for name in names)]
    return File.generated(config, _place(path), content="\n".join(lines) + "\n")
