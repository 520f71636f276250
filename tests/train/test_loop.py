"""Training from end to end on two ranks, a real engine on each; and runs that are killed go on."""

from __future__ import annotations

import json
import random
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from kill_resume import (
    Moment,
    differences,
    ended,
    finished,
    kill_at,
    moments,
    steps_logged,
    wait_for,
)

from caprl_native import checkpoint
from caprl_native.config.cli import load
from caprl_native.config.schema import Config
from caprl_native.observe.rollout_index import read_index
from caprl_native.rewards.terms.length import length_reward
from caprl_native.rewards.terms.timestamps import timestamp_reward
from caprl_native.viewer.run import Run
from tests.train.conftest import Unbroken
from tests.train.world import Launched, Quick, rows, tiny_config, train_ok, write_rows

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
    "caption/stamps_per_100_words",
    "caption/repetition",
    "data/skipped",
    "data/reduced",
    "data/failed_rewards",
    "perf/tokens_per_s",
    "perf/step_s",
    "time/rollout",
    "time/reward",
    "time/train",
    "time/sync",
]
EVAL = ["eval/reward/total/mean", "eval/reward/accuracy/mean", "eval/completion/length_mean"]
EVAL += ["eval/data/skipped", "eval/data/reduced"]


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
        assert ("caption/length_ratio" in line) is (line["step"] > 2)
        assert ("reward/accuracy/blind" in line) is (line["step"] % 2 == 0)
    evaluated = [r for r in rows(unbroken.folder / "metrics.jsonl") if "policy/loss" not in r]
    assert [line["step"] for line in evaluated] == [0, 2, 4, 5]  # the start, every second, the end
    for line in evaluated:
        assert set(EVAL) <= line.keys()


def test_every_number_has_a_meaning_and_its_evidence(unbroken: Unbroken) -> None:
    """The page finds each file of captions by its index, blind answers included."""
    run = Run(unbroken.folder)
    run.refresh()
    told = json.loads("".join(run.news([])))
    names = {name for row in told["metrics"] for name in row} - {"step"}
    assert told["meanings"].keys() == names
    files = {(s.kind, s.step): s for s in run.steps}
    assert [kind for kind, _ in files].count("rollouts") == 5
    for (kind, step), file in files.items():
        assert read_index(unbroken.folder, f"{kind}/step_{step:06d}.jsonl") == file.index
    for line in steps(unbroken.folder):
        if "reward/accuracy/blind" in line:
            records = rows(unbroken.folder / f"blind/step_{line['step']:06d}.jsonl")
            assert all(record["caption"] == "" and record["reader"] for record in records)
            values = [record["rewards"]["accuracy"] for record in records]
            assert line["reward/accuracy/blind"] == pytest.approx(sum(values) / len(values))


def test_what_was_left_out_of_the_data_is_listed(unbroken: Unbroken) -> None:
    (dropped,) = rows(unbroken.folder / "dropped.jsonl")
    assert Path(dropped["file"]).name == "train.jsonl" and dropped["row"] == 1
    assert dropped["question"] > 0 and dropped["reason"] == "answer outside the choices"
    first, *others = rows(unbroken.folder / "metrics.jsonl")
    assert (first["data/dropped_questions"], first["data/dropped_records"]) == (1, 0)
    assert not any("data/dropped_questions" in line for line in others)


def test_the_rollout_log_explains_every_reward(unbroken: Unbroken) -> None:
    terms = load(Config, [unbroken.folder / "config.toml"]).reward.terms
    l1, l2 = terms["length"].l1, terms["length"].l2
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
            total = right + 0.2 * length_reward(r["tokens"], l1, l2)
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
    last = checkpoint.directory(unbroken.folder / "checkpoints", 5) / "hf"
    for name in exported:  # of the last step, as of every checkpoint
        assert (last / name).read_bytes() == (unbroken.folder / "export" / name).read_bytes()


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
    for step in (1, 2):  # each caption is read and rewarded once, whoever shares the engines
        logged = rows(folder / f"rollouts/step_{step:06d}.jsonl")
        assert len({(r["id"], r["rollout"]) for r in logged}) == len(logged) == 8 * 4
        assert all(r["total"] is not None and len(r["reader"]) == 2 for r in logged)


# --- killed, interrupted, resumed -------------------------------------------------------------


def saved(folder: Path) -> list[int]:
    return checkpoint.steps(folder / "checkpoints")


def forget_after(step: int, folder: Path) -> None:
    """Drops what a killed run logged beyond its checkpoint: later lines are the next run's."""
    lines = rows(folder / "metrics.jsonl")
    write_rows(folder / "metrics.jsonl", [line for line in lines if line["step"] <= step])


def test_killed_interrupted_and_killed_while_saving(unbroken: Unbroken, tmp_path: Path) -> None:
    """Four processes make the run that one made undisturbed, with the same numbers and weights."""
    plan, folder, rng = Quick((str(unbroken.config),)), tmp_path / "run", random.Random()
    second_step = unbroken.times[1] - unbroken.times[0]
    moment = Moment(1, second_step * rng.uniform(0.1, 0.9), victim="all")
    assert kill_at(plan, folder, moment)
    print(moment, "saved", saved(folder))  # shown where the test fails
    assert steps_logged(folder) in (1, 2) and saved(folder) in ([], [1], [1, 2])

    interrupted = Launched(plan.files, ("--run.save_every=0",))
    before = (saved(folder) or [0])[-1]
    forget_after(before, folder)
    process = interrupted.start(folder, resume=bool(before))
    with ended(process):
        assert wait_for(lambda: steps_logged(folder) == before + 1, process)
        process.send_signal(signal.SIGINT)
        process.wait(120)
    output = folder.with_suffix(".log").read_text()
    assert output.count("interrupted: finishing the step") == 1
    assert "forcefully" not in output and "Error" not in output.replace("SignalException", "")
    stopped = steps_logged(folder)
    assert stopped in (before + 1, before + 2) and saved(folder)[-1] == stopped
    assert not (folder / "export").exists()
    assert (checkpoint.directory(folder / "checkpoints", stopped) / "hf/config.json").is_file()

    moment = Moment(stopped + 1, rng.uniform(0, 0.3), saving=True, victim="rank")
    killed = kill_at(plan, folder, moment, resume=True)
    print(moment, killed, "saved", saved(folder))
    finished(plan.start(folder, resume=True), folder)
    assert differences(unbroken.folder, folder) == []


def test_differences_are_seen(unbroken: Unbroken, tmp_path: Path) -> None:
    """The comparison that the others rely on notices one changed bit of each kind."""
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(unbroken.folder, tmp_path / "copy")
    assert differences(unbroken.folder, copy) == []
    weights = load_file(copy / "export/model.safetensors")
    name = min(weights)
    weights[name].view(-1)[0] += 1.0
    save_file(weights, copy / "export/model.safetensors", metadata={"format": "pt"})
    assert differences(unbroken.folder, copy) == ["weights"]
    lines = (copy / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    last["time/rollout"] = -1.0
    (copy / "metrics.jsonl").write_text("\n".join([*lines[:-1], json.dumps(last)]) + "\n")
    assert differences(unbroken.folder, copy) == ["weights"]
    last["reward/total/mean" if "policy/loss" in last else "eval/reward/total/mean"] += 1e-12
    (copy / "metrics.jsonl").write_text("\n".join([*lines[:-1], json.dumps(last)]) + "\n")
    (copy / "rollouts/step_000002.jsonl").write_text("")
    assert differences(unbroken.folder, copy) == ["metrics", "captions", "weights"]


@pytest.mark.parametrize("seed", range(5))
def test_moments_are_spread_over_the_whole_life(seed: int) -> None:
    times = [20.0, 23.0, 25.0, 31.0, 40.0]  # four steps; the end
    chosen = moments(times, [1, 2, 3, 4], 0.5, 12, seed)
    assert sum(m.saving for m in chosen) == 4
    assert {m.victim for m in chosen} == {"all", "rank", "launcher"}
    for i, m in enumerate(chosen):
        if m.saving:
            assert 1 <= m.step <= 4 and 0 <= m.delay <= 0.5
        else:
            at = m.delay + (times[m.step - 1] if m.step else 0.0)
            assert 40.0 * i / 12 <= at <= 40.0 * (i + 1) / 12
            assert m.step == 4 or at < times[m.step]


def test_a_run_never_trains_on_what_it_holds_out(world, tiny_policy, tmp_path) -> None:
    from caprl_native.trainer import Trainer

    config = tiny_config(world, tiny_policy, "http://127.0.0.1:1/v1", tmp_path)
    config.data.hold_out = 0.2
    trainer = Trainer.__new__(Trainer)  # its data alone: no engine
    trainer.config, trainer.folder = config, tmp_path
    trainer.dims = SimpleNamespace(data_rank=0, data_size=1, is_main=True)
    trainer._load_data()
    held_out = {sample.id for sample in trainer.held_out}
    epochs = 4 * trainer.loader.batches_per_epoch
    seen = {item.sample.id for _ in range(epochs) for item in next(trainer.loader)}
    trainer.loader.close()
    assert len(held_out) == 6 and not seen & held_out
    assert seen | held_out == {row["id"] for row in rows(world / "train.jsonl")}
