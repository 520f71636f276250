"""Golden tables: a module that sets TABLE gets its tests' `case` argument from that table."""

import json
from pathlib import Path
from typing import Any

import torch

GOLDEN = Path(__file__).parents[1] / "golden" / "rl"


def decoded(value: Any) -> Any:
    """Numbers written as strings ("nan", "-inf") become floats; numeric lists become tensors."""
    if isinstance(value, dict):
        return {key: decoded(item) for key, item in value.items()}
    if isinstance(value, list):
        try:
            return torch.tensor(_floats(value), dtype=torch.float64)
        except (TypeError, ValueError):
            return value
    return float(value) if value in ("nan", "inf", "-inf") else value


def _floats(value: Any) -> Any:
    return [_floats(item) for item in value] if isinstance(value, list) else float(value)


def pytest_generate_tests(metafunc: Any) -> None:
    table = getattr(metafunc.module, "TABLE", None)
    if table is None or "case" not in metafunc.fixturenames:
        return
    data = json.loads((GOLDEN / table).read_text())
    batches = {name: decoded(batch) for name, batch in data["batches"].items()}
    cases = [decoded(case) | {"inputs": batches[case["batch"]]} for case in data["cases"]]
    metafunc.parametrize("case", cases, ids=[case["id"] for case in cases])
