"""Memories judged behind a server, in a run of two steps that cuts off what it samples from."""

from __future__ import annotations

from pathlib import Path

import pytest

from caprl_native.testing.chat_server import serve
from tests.rewards.judging import write_judge
from tests.rewards.memory.judges import answering, asked, sound
from tests.train.world import rows, tiny_config, train_ok

SAYS = {"description": "<face_1> waves."}


def test_groups_are_ranked_and_the_most_useful_is_learnt(world: Path, tmp_path: Path) -> None:
    """The policy says one thing alone, which the judge finds true but once in a while."""
    policy = write_judge(tmp_path / "policy", SAYS, before="</think>")
    config = tiny_config(world, policy, "", tmp_path / "run")
    config.run.save_every, config.run.export, config.data.batch_size = 0, False, 4
    config.rollout.max_tokens, config.rollout.temperature = 1, 0.7
    config.rollout.top_k, config.rollout.top_p = 20, 0.8
    algorithm = config.algorithm
    algorithm.advantage = {"type": "optimize_threshold"}
    algorithm.loss = {"type": "gspo_token", "clip_high": 0.28}
    algorithm.aggregation, algorithm.updates = "seq-mean-token-mean", 2
    algorithm.corrections = {"tis": {"type": "none"}}
    calls = iter(range(10**6))

    def judge(kind, shown) -> str:
        fails = kind == "label" and next(calls) == 5
        return "I cannot say." if fails else sound(kind, shown)

    with serve(answering(judge)) as server:
        where = {"endpoint": server.url, "model": "judge", "attempts": 1, "video_max_frames": 4}
        config.reward.terms = {"accuracy": {"weight": 0.0}, "memory": {"correctness": where}}
        folder = train_ok(config, tmp_path / "run.toml", ranks=1)
    steps = rows(folder / "metrics.jsonl")
    assert sum(line["data/failed_rewards"] for line in steps) == 4  # a whole group
    assert sum(line["reward/memory/judge_failure"] for line in steps) == 4
    assert sum(line["reward/memory/usefulness/requests"] for line in steps) == 7
    assert all(line["reward/memory/correct"] == line["reward/memory/valid"] == 1 for line in steps)
    assert all(line["reward/memory/tokens"] == 1 for line in steps)
    assert sum(asked(r) == "correctness" for r in server.requests) == 32
    for line in steps:
        groups: dict[str, list[dict]] = {}
        for r in rows(folder / f"rollouts/step_{line['step']:06d}.jsonl"):
            groups.setdefault(r["id"], []).append(r)
            assert r["reader"][0]["memory"] == "<face_1> waves."
        for group in groups.values():
            if group[0]["failure"]:
                assert {r["total"] for r in group} == {None}
                continue
            group.sort(key=lambda r: r["total"])
            assert [r["total"] for r in group] == pytest.approx(
                [0.5 + 0.05 * i / 3 for i in range(4)]
            )
            assert [r["advantage"] for r in group[:2]] == [0.0, 0.0]  # right, and less useful
            assert 0 < group[2]["advantage"] < group[3]["advantage"]
