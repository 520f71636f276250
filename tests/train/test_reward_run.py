"""Rewards from outside the package in a run of two steps: all that a user writes is one file."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.ranks import ROOT
from tests.train.world import rows, tiny_config, train_ok


def test_a_function_and_a_term_from_outside_train_without_a_reader(
    world: Path, tiny_policy: Path, tmp_path: Path
) -> None:
    config = tiny_config(world, tiny_policy, "", tmp_path / "run")
    config.run.save_every, config.run.export, config.data.batch_size = 0, False, 4
    config.plugins = [str(ROOT / "examples/reward_term.py")]
    config.reward.terms = {
        "accuracy": {"weight": 0.0},
        "colours": {
            "type": "custom",
            "import_path": f"{ROOT}/examples/custom_reward.py:colours",
            "weight": 0.25,
            "options": {"enough": 1},
        },
        "fresh": {"ngram": 1},
    }
    folder = train_ok(config, tmp_path / "run.toml", ranks=1)
    colours = runpy.run_path(str(ROOT / "examples/custom_reward.py"))["colours"]
    steps = rows(folder / "metrics.jsonl")
    assert [line["step"] for line in steps] == [1, 2]
    for line in steps:
        logged = rows(folder / f"rollouts/step_{line['step']:06d}.jsonl")
        scored = [r for r in logged if r["failure"] is None]
        assert len(logged) == 16 and len(scored) > 1
        for r in scored:
            words = r["caption"].lower().split()
            named = colours(SimpleNamespace(text=r["caption"]), enough=1)
            assert r["rewards"]["colours"] == named
            assert r["rewards"].get("fresh") == (len(set(words)) / len(words) if words else None)
            assert r["total"] == 0.25 * named + r["rewards"].get("fresh", 0.0)
            assert [sorted(entry) for entry in r["reader"]] == [["repeated"]] * bool(words)
        for name in ("colours", "fresh"):
            values = [r["rewards"][name] for r in scored if name in r["rewards"]]
            assert line[f"reward/{name}/mean"] == pytest.approx(sum(values) / len(values))
        assert "reward/accuracy/mean" not in line
