"""Made-up runs, a live server, and a browser for both of its pages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from caprl_native.testing.made_runs import MadeRun
from tests.browser import browser, watched
from tests.ranks import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["browser"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve steps with an alarm, and two evaluations."""
    run = MadeRun(tmp_path_factory.mktemp("runs") / "first")
    for step in range(1, 13):
        run.step(step, alarm="captions repeat themselves" if step == 5 else "")
        if step % 6 == 0:
            run.evaluate(step)
    return run.folder


@contextmanager
def served(*runs: Path) -> Iterator[str]:
    """The address of a live page of these runs."""
    command = [sys.executable, str(ROOT / "tools/view_run.py"), *map(str, runs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a page's address, live or of a file; at the end nothing else was fetched."""
    with watched(browser, r"file://.*/run\.html|http://127\.0\.0\.1:") as context:

        def open_one(address: str, state: str = "") -> Page:
            page = context.new_page()
            page.goto(f"{address}#{state}")
            page.wait_for_selector("html[data-ready]")
            return page

        yield open_one
