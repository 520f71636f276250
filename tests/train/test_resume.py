"""A run that is killed and interrupted goes on, bit for bit, as if nothing had happened."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path

import pytest
from kill_resume import (
    Moment,
    Plan,
    differences,
    ended,
    finished,
    kill_at,
    moments,
    steps_logged,
    wait_for,
)

from caprl_native import checkpoint
from tests.train.conftest import Unbroken


def saved(folder: Path) -> list[int]:
    return checkpoint.steps(folder / "checkpoints")


def test_killed_interrupted_and_killed_while_saving(unbroken: Unbroken, tmp_path: Path) -> None:
    """Four processes make the run that one made undisturbed, with the same numbers and weights."""
    plan, folder, rng = Plan((str(unbroken.config),)), tmp_path / "run", random.Random()
    second_step = unbroken.times[1] - unbroken.times[0]
    moment = Moment(1, second_step * rng.uniform(0.1, 0.9), victim="all")
    assert kill_at(plan, folder, moment)
    print(moment, "saved", saved(folder))  # shown where the test fails
    assert steps_logged(folder) in (1, 2) and saved(folder) in ([], [1], [1, 2])

    interrupted = Plan(plan.files, ("--run.save_every=0",))
    before = (saved(folder) or [0])[-1]
    if not before:  # a step may have been logged all the same
        (folder / "metrics.jsonl").unlink()
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

    moment = Moment(stopped + 1, rng.uniform(0, 0.3), saving=True, victim="rank")
    killed = kill_at(plan, folder, moment, resume=True)
    print(moment, killed, "saved", saved(folder))
    finished(plan.start(folder, resume=True), folder)
    assert differences(unbroken.folder, folder) == []


def test_differences_are_seen(unbroken: Unbroken, tmp_path: Path) -> None:
    """The comparison that the others rely on notices one changed bit of each kind."""
    import shutil

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
