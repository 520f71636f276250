"""The demo's reader behind the service says what it says in the run's own process, to the bit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing

import pytest
import torch.distributed as dist

from caprl_native.config.schema import RewardConfig
from caprl_native.distributed.world import init_distributed
from caprl_native.rewards.base import TermContext
from caprl_native.rewards.rubric import Rubric, build_rubric
from caprl_native.rewards.terms.service import ServiceOptions
from caprl_native.testing.reward_server import ROOT, reward_server
from tests.rewards.asking import group, score

READER = {
    "path": str(ROOT / "demo_models/reader"),
    "dtype": "float32",
    "max_model_len": 256,
    "kv_cache_gib": 0.05,
}
TEXTS = [
    "The picture shows a big red circle on the left.",
    "A small blue square. The background is green.",
    "nothing to be seen",
    "It is huge, and at the top.",
]


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of one, which the engine takes with it when it ends."""
    before = dict(os.environ)
    init_distributed()
    yield
    if dist.is_initialized():
        dist.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.usefixtures("alone")
def test_the_service_scores_as_the_reader_in_process(tmp_path):
    here = [group(TEXTS, name="s0"), group(TEXTS, name="s1", kind="video")]
    config = RewardConfig(reader=READER, terms={"accuracy": {"questions": "own", "draws": 5}})
    with closing(build_rubric(config, seed=3)) as rubric:
        score(rubric, here, step=7)
        evaluated = group(TEXTS)
        score(rubric.for_evaluation(0), [evaluated])

    reader = "\n".join(
        f'{k} = "{v}"' if isinstance(v, str) else f"{k} = {v}" for k, v in READER.items()
    )
    toml = f'[reward.terms.accuracy]\nquestions = "own"\ndraws = 5\n[reward.reader]\n{reader}\n'
    there = [group(TEXTS, name="s0"), group(TEXTS, name="s1", kind="video")]
    with reward_server(toml, tmp_path) as server:
        term = ServiceOptions(endpoint=server.url, batch_size=3, wait_s=0.0)
        context = TermContext(lambda: pytest.fail("no reader"), seed=3)
        with closing(Rubric.of({"accuracy": term}, context)) as rubric:
            score(rubric, there, step=7)
            evaluated_there = group(TEXTS)
            score(rubric.for_evaluation(0), [evaluated_there])
        asked = "What is the colour?\n   - A) red\n   - B) blue"
        as_given = "Is the thing red? Say A for yes, B for no."
        request = {"prompts": [[t, [[asked, "A"], [as_given, "A"]]] for t in TEXTS]}
        first, second = server.post(request), server.post(request)
    for ours, theirs in zip([*here, evaluated], [*there, evaluated_there], strict=True):
        for a, b in zip(ours.rollouts, theirs.rollouts, strict=True):
            assert (a.total, a.reading, a.parts) == (b.total, b.reading, b.parts)
    assert first == second and first[0] == 200
    assert first[1]["unshuffled"] == 4 and None not in first[1]["qa_rewards"]
