"""Two judges in a run of two steps: one behind an endpoint with a key, one in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from caprl_native.testing.chat_server import serve
from tests.rewards.judging import HONEST, KEY, honest, write_judge
from tests.train.world import rows, tiny_config, train_ok

REPLY = {"factuality": 0.8, "temporal_alignment": 0.7, "coverage": 0.6}
REPLY |= {"hallucination_penalty": 0.9}
SCORES = {"image": 0.4 * 0.8 + 0.35 * 0.6 + 0.25 * 0.9, "video": 0.745}


def test_captions_are_judged_by_what_the_policy_saw(
    world: Path, tiny_policy: Path, tmp_path: Path
) -> None:
    config = tiny_config(world, tiny_policy, "", tmp_path / "run")
    config.run.save_every, config.run.export, config.data.batch_size = 0, False, 4
    config.rollout.n = 2
    file = tmp_path / "servers.json"
    limits = {"max_tokens": 1, "max_model_len": 1024, "max_num_seqs": 4, "kv_cache_gib": 0.05}
    judge = write_judge(tmp_path / "judge", REPLY)
    with serve(honest) as server:
        file.write_text(json.dumps({"judge": [{"base_url": server.url, "api_key": KEY}]}))
        config.reward.terms = {
            "accuracy": {"weight": 0.0},
            "judge": {"endpoint_file": str(file), "model": "judge"},
            "local": {"type": "judge", "path": str(judge), "weight": 0.5, **limits},
            "length": {"weight": 0.2, "l1": 8, "l2": 32},
        }
        folder = train_ok(config, tmp_path / "run.toml", ranks=1)
    steps = rows(folder / "metrics.jsonl")
    assert [line["reward/judge/mean"] for line in steps] == pytest.approx([0.25, 0.25])
    assert all(line["reward/local/unreadable"] == 0 for line in steps)
    logged = [r for line in steps for r in rows(folder / f"rollouts/step_{line['step']:06d}.jsonl")]
    assert len(logged) == 16 == len(server.requests) and not any(r["failure"] for r in logged)
    for r in logged:
        kind = "video" if r["media"][0].endswith(".mp4") else "image"
        assert r["rewards"]["local"] == pytest.approx(SCORES[kind])
        assert {entry["term"] for entry in r["reader"]} == {"judge", "local"}
        assert r["parts"]["judge/coverage"] == HONEST["coverage"]
    frames = {sum(p["type"] == "image_url" for p in r["messages"][1]["content"])
              for r in server.requests}  # fmt: skip
    assert frames <= {1, 2, 4, 6}  # as many as the policy saw
    assert all(h["authorization"] == f"Bearer {KEY}" for h in server.headers)
    written = [f for f in folder.rglob("*") if f.is_file()]
    assert written and not [f for f in written if KEY.encode() in f.read_bytes()]
