"""`make docs` builds a site without a warning, and what it shows comes from no other machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

ROOT = Path(__file__).parent.parent
LOADED = re.compile(r"<(?:script|img|iframe|source)[^>]* src=\"([^\"]+)|<link[^>]* href=\"([^\"]+)")
HREF = re.compile(r"<a [^>]*href=\"([^\"]+)\"")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does; a warning, such as one of a dead link, is a failure."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    nowhere = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "all_proxy")}
    env = {**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-4000:]
    assert "WARNING" not in built.stderr
    return out


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def test_every_document_is_a_page(site: Path) -> None:
    names = {p.relative_to(site).with_suffix(".md").as_posix() for p in pages(site)}
    docs = ROOT / "docs"
    assert names >= {p.relative_to(docs).as_posix() for p in docs.rglob("*.md")}
    assert names >= {"index.md", "contributing.md", "changelog.md", "measurements.md"}


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in pages(site):
        loaded = [a or b for a, b in LOADED.findall(page.read_text())]
        assert loaded and not [link for link in loaded if "//" in link], page


def test_every_link_of_the_built_pages_leads_somewhere(site: Path) -> None:
    texts = {page: page.read_text() for page in pages(site)}
    ids = {page: set(re.findall(r" (?:id|name)=\"([^\"]+)\"", t)) for page, t in texts.items()}
    dead = []
    for page, text in texts.items():
        for link in HREF.findall(text):
            if page.name == "404.html" or re.match(r"\w+:", link):
                continue
            path, anchor = map(unquote, urldefrag(link))
            target = (page.parent / path).resolve() if path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (anchor and anchor not in ids.get(target, {anchor})):
                dead.append(f"{page.relative_to(site)}: {link}")
    assert not dead


def test_the_reference_shows_what_is_extended(site: Path) -> None:
    shown = "".join(page.read_text() for page in (site / "api").glob("*.html"))
    for name in (
        "caprl_native.rewards.base.RewardTerm",
        "caprl_native.algorithm.inputs.LossInputs",
        "caprl_native.policy.families.base.Family",
        "caprl_native.data.record_formats.base.RecordFormat",
        "caprl_native.inference.models.Model",
        "eval.benchmarks.base.Benchmark",
    ):
        assert f'id="{name}"' in shown, name
