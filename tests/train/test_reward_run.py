"""Rewards from outside the package in a run of two steps: all that a user writes is one file."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from caprl_native.config.models import HeldOutReaderConfig, ReaderConfig
from caprl_native.testing.chat_server import serve
from tests.ranks import ROOT
from tests.rewards.listing import listing
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


def test_two_readers_weigh_the_choices_and_a_third_is_held_out(
    world: Path, tiny_policy: Path, tiny_reader: Path, tmp_path: Path
) -> None:
    """In process on two ranks that share their engines, beside endpoints that list tokens."""
    config = tiny_config(world, tiny_policy, tiny_reader, tmp_path / "run")
    config.run.save_every, config.run.export, config.data.batch_size = 0, False, 4
    config.rollout.tensor_parallel_size = 2
    config.reward.terms = {"accuracy": {"misled_weight": 0.5, "readers": "minimum", "shuffles": 2}}
    with serve(lambda request: listing({" A": 0.75, " B": 0.25})) as listed:
        endpoint = {"endpoint": listed.url, "model": "listed", "temperature": 1.0}
        config.reward.readers = [ReaderConfig(**endpoint)]
        config.reward.held_out_reader = HeldOutReaderConfig(**endpoint, every=2)
        folder = train_ok(config, tmp_path / "run.toml", ranks=2)
    first, second = rows(folder / "metrics.jsonl")
    assert "reward/held_out/gap" not in first and "reward/held_out/accuracy" in second
    for line in (first, second):
        parts = {name: line[f"reward/accuracy/{name}"] for name in ("right", "misled", "abstained")}
        assert all(0 <= share <= 1 for share in parts.values()) and sum(parts.values()) <= 1 + 1e-9
        expected = parts["right"] - 0.5 * parts["misled"]
        assert line["reward/accuracy/mean"] == pytest.approx(expected)
        assert line["data/failed_rewards"] == 0 and line["reward/accuracy/sampled"] == 0
    gap = second["reward/accuracy/right"] - second["reward/held_out/accuracy"]
    assert second["reward/held_out/gap"] == pytest.approx(gap)
    for r in rows(folder / "rollouts/step_000002.jsonl"):
        assert {entry["reader"] for entry in r["reader"]} == {0, 1}
        listed_ones = [e["probabilities"] for e in r["reader"] if e["reader"] == 1]
        assert all((p["A"], p["B"]) == (0.75, 0.25) for p in listed_ones)
