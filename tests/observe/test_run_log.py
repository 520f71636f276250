"""What the log writes into a run's folder, and what it drops when a run goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from caprl_native.config.schema import LogConfig
from caprl_native.distributed.world import ParallelDims
from caprl_native.observe.log import ALARMS, RunLog
from caprl_native.observe.metrics import group_metrics, numbers
from caprl_native.observe.rollout_index import index_of_file, read_index
from caprl_native.rewards.blind import Blind
from caprl_native.rewards.terms.accuracy import AccuracyOptions
from tests.rewards.asking import group, rubric, sample, score
from tests.viewer.test_viewer_run import rows


def opened(folder: Path, **settings: object) -> RunLog:
    config = LogConfig(backends=[], progress=False, **settings)
    return RunLog(folder, config, main=True, name="run", resolved="")


@pytest.mark.parametrize("limit", [-1, 0, 3])
def test_each_file_of_captions_has_its_index(dims: ParallelDims, tmp_path: Path, limit) -> None:
    """Captions, held-out ones and blind answers; metrics are of all, however many are kept."""
    log, judged = opened(tmp_path, rollouts=limit), rubric(accuracy=AccuracyOptions(draws=0))
    made = [group(["a red cat", "", "so"], name="a"), group(["x", "y"], name="b")]
    groups = [replace(one, prompt=range(9)) for one in made]
    score(judged, groups)
    blind = Blind(judged, 1)
    blind.add(sample("a"), is_local=True)
    blind.finish()
    found = log.rollouts(1, groups, group_metrics(groups, judged.names))
    log.evaluation(1, groups[:1], {})
    log.blind(1, blind.groups)
    assert numbers(found) == numbers(group_metrics(groups, judged.names))
    counts = {"rollouts": 5 if limit < 0 else limit, "eval": 3, "blind": 1}
    for kind, count in counts.items():
        name = f"{kind}/step_000001.jsonl"
        assert len(rows(tmp_path / name)) == count
        assert read_index(tmp_path, name) == index_of_file(tmp_path / name)
    (answered,) = rows(tmp_path / "blind/step_000001.jsonl")
    assert answered["caption"] == "" and len(answered["reader"]) == len(sample().questions)
    assert all(sum(entry["outcome"].values()) <= 1 for entry in answered["reader"])


def test_alarms_of_steps_that_are_done_again_are_dropped(tmp_path: Path) -> None:
    log = opened(tmp_path)
    for step in (3, 7):
        log.alarms(step, {"caption/repetition": f"at {step}\u2028"})
        log.metrics(step, {"policy/loss": 1.0})
    opened(tmp_path).start(3, 10)
    kept = {"step": 3, "metric": "caption/repetition", "text": "at 3\u2028"}
    assert rows(tmp_path / ALARMS) == [kept]
    opened(tmp_path).start(0, 10)
    assert (tmp_path / ALARMS).read_text() == ""
