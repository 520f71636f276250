"""Training from end to end on two ranks, a real engine on every one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from caprl_native.config import Config
from caprl_native.config_io import load
from caprl_native.rewards.length import length_reward
from caprl_native.rewards.timestamps import timestamp_reward
from tests.train.conftest import Unbroken
from tests.train.world import rows, tiny_config, train_ok

METRICS = [
    "reward/total/mean",
    "reward/accuracy/mean",
    "reward/timestamps/mean",
    "reward/length/mean",
    "reward/std",
    "reward/zero_std_groups",
    "completion/length_mean",
    "completion/truncated_frac",
    "policy/loss",
    "policy/entropy",
    "policy/kl",
    "policy/clip_frac",
    "policy/grad_norm",
    "policy/lr",
    "mismatch/logprob_abs_mean",
    "mismatch/logprob_abs_max",
    "mismatch/tis_clipped_frac",
    "data/skipped",
    "data/failed_rewards",
    "perf/tokens_per_s",
    "perf/step_s",
    "time/rollout",
    "time/reward",
    "time/train",
    "time/sync",
]
EVAL = ["eval/reward/total/mean", "eval/reward/accuracy/mean", "eval/completion/length_mean"]


def steps(folder: Path) -> list[dict[str, float]]:
    return [line for line in rows(folder / "metrics.jsonl") if "policy/loss" in line]


def check_agreement(folder: Path, count: int) -> None:
    """So many steps were made, and trainer and engine agree at each of them."""
    lines = steps(folder)
    assert [line["step"] for line in lines] == list(range(1, count + 1))
    for line in lines:
        assert line["mismatch/logprob_abs_mean"] <= 0.005, line
        assert line["policy/grad_norm"] > 0


def check_media(folder: Path) -> None:
    """Captions of images and of videos were trained on."""
    names = [name for f in folder.glob("rollouts/*") for row in rows(f) for name in row["media"]]
    assert {Path(name).suffix for name in names} == {".png", ".mp4"}


def test_trainer_and_engine_agree_at_every_step(unbroken: Unbroken) -> None:
    check_agreement(unbroken.folder, 5)
    check_media(unbroken.folder)


def test_every_metric_is_there(unbroken: Unbroken) -> None:
    for line in steps(unbroken.folder):
        assert set(METRICS) <= line.keys(), set(METRICS) - line.keys()
    evaluated = [r for r in rows(unbroken.folder / "metrics.jsonl") if "policy/loss" not in r]
    assert [line["step"] for line in evaluated] == [0, 2, 4, 5]  # the start, every second, the end
    for line in evaluated:
        assert set(EVAL) <= line.keys()


def test_the_rollout_log_explains_every_reward(unbroken: Unbroken) -> None:
    config = load(Config, [unbroken.folder / "config.toml"]).reward
    for step in steps(unbroken.folder):
        logged = rows(unbroken.folder / f"rollouts/step_{step['step']:06d}.jsonl")
        assert len(logged) == 8 * 4
        for r in logged:
            assert all(Path(name).is_file() for name in r["media"])
            assert r["finish_reason"] in ("stop", "length") and r["source"] and r["failure"] is None
            assert len(r["reader"]) == 2
            for asked in r["reader"]:
                assert asked["question"] and len(asked["choices"]) >= 3
                assert isinstance(asked["answer"], str)
                assert asked["right"] in "ABCDEF"
            right = sum(a["letter"] == a["right"] for a in r["reader"]) / 2
            total = right + 0.2 * length_reward(r["tokens"], config.length.l1, config.length.l2)
            if r["media"][0].endswith(".mp4"):
                stamps = timestamp_reward(r["caption"]).value
                assert r["rewards"]["timestamps"] == stamps
                total = right + 0.2 * stamps + 0.2 * r["rewards"]["length"]
            else:
                assert "timestamps" not in r["rewards"]
            assert r["rewards"]["accuracy"] == right
            assert r["total"] == total
        for metric, values in {
            "reward/total/mean": [r["total"] for r in logged],
            "reward/length/mean": [r["rewards"]["length"] for r in logged],
            "completion/length_mean": [r["tokens"] for r in logged],
            "completion/truncated_frac": [r["finish_reason"] == "length" for r in logged],
        }.items():
            assert step[metric] == pytest.approx(sum(values) / len(values)), metric
        for name in {r["id"] for r in logged}:
            assert sum(r["advantage"] for r in logged if r["id"] == name) == pytest.approx(0)


def test_config_and_model_are_written(unbroken: Unbroken) -> None:
    saved = load(Config, [unbroken.folder / "config.toml"])
    given = load(Config, [unbroken.config], [f"--run.dir={unbroken.folder}"])
    assert saved == given
    exported = {f.name for f in (unbroken.folder / "export").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= exported


@pytest.mark.parametrize("variant", ["qwen2_5_vl", "tensor_parallel"])
def test_other_models_and_layouts(
    variant: str,
    world: Path,
    tiny_policy: Path,
    tiny_policy_2_5: Path,
    tiny_reader: Path,
    tmp_path: Path,
) -> None:
    policy = tiny_policy_2_5 if variant == "qwen2_5_vl" else tiny_policy
    config = tiny_config(world, policy, tiny_reader, tmp_path / "run")
    config.run.save_every, config.run.export = 0, False
    if variant == "tensor_parallel":
        config.rollout.tensor_parallel_size = 2
    folder = train_ok(config, tmp_path / "run.toml")
    check_agreement(folder, 2)
    check_media(folder)
