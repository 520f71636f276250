"""A few hundred of the cases that `tools/fuzz.py` runs by the ten thousand."""

from __future__ import annotations

import sys

import pytest

from tests.ranks import ROOT

sys.path.insert(0, str(ROOT / "tools"))

import fuzz  # noqa: E402


@pytest.mark.parametrize("kind", sorted(fuzz.CASES))
def test_only_documented_errors_leave_the_readers(kind: str) -> None:
    assert fuzz.fuzz(fuzz.CASES[kind], kind, 300, seed=7) == []
