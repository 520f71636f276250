"""The world of the training tests, for what is curated from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.train.world import make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"), images=10, videos=4)
