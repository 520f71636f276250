"""The shipped demo models, on scenes made afresh, through the real engine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from demo_world import checks, datasets  # noqa: E402

import caprl_native  # noqa: E402, F401
from caprl_native.policy.parallel import init_distributed  # noqa: E402

SEED = 20_000  # no scene of the training data is made from it


@pytest.fixture(scope="module")
def reader() -> Iterator[checks.EngineReader]:
    init_distributed()
    reader = checks.open_reader(ROOT / "demo_models" / "reader")
    yield reader
    reader.close()


def test_shipped_models_are_small() -> None:
    files = [f for f in (ROOT / "demo_models").rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 10_000_000


def test_the_reader_reads(reader: checks.EngineReader) -> None:
    """All it knows is the caption: right from a complete one, honest about what is not there."""
    shares = checks.check_reader(reader, scenes=100, seed=SEED)
    assert shares["complete"] > 0.9
    assert shares["empty"] > 0.9
    assert shares["other"] < 0.28  # chance is 0.25 of about 800 questions
    assert shares["told"] > 0.9
    assert shares["untold"] > 0.8


def test_the_policy_sees_much_and_says_little(reader: checks.EngineReader, tmp_path: Path) -> None:
    """Asked for everything it is right; asked to describe it mentions a few attributes."""
    world = datasets.write_world(tmp_path, "fresh", 48, 32, SEED)
    painter = checks.Painter(ROOT / "demo_models" / "policy", world)
    try:
        full = painter.captions(full=True)
        greedy = painter.captions()
    finally:
        painter.engine.close()
    assert checks.recognition(full)["all"] > 0.9
    assert checks.richness(greedy)["mentioned"] < 4
    assert checks.accuracy(reader, greedy)["all"] + 0.3 < checks.accuracy(reader, full)["all"]
