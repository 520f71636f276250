"""A term behind the service asks its reader what it would ask in the run's own process."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from typing import Any

import pytest

from caprl_native.config.schema import RewardConfig
from caprl_native.rewards.base import TermContext
from caprl_native.rewards.rubric import Rubric, build_rubric
from caprl_native.rewards.terms.service import ServiceOptions
from caprl_native.testing.chat_server import Reply, serve
from caprl_native.testing.reward_server import reward_server
from tests.rewards.asking import group, score

TERM = {"questions": "own", "draws": 3, "answers": "sampled"}
TEXTS = ["a red circle", "B", "", "one [00:01] two"]


def drawn(request: dict[str, Any]) -> Reply:
    """A reader whose answer depends on all that it was asked, its seed too."""
    asked = json.dumps([request["messages"], request["seed"]]).encode()
    return Reply(" " + "ABCD"[hashlib.sha256(asked).digest()[0] % 4])


@pytest.fixture
def reader():
    with serve(drawn) as server:
        yield server


def config(url: str) -> RewardConfig:
    reader = {"endpoint": url, "model": "reader", "retries": 0}
    return RewardConfig(reader=reader, terms={"accuracy": TERM})


def toml(url: str) -> str:
    reader = f'[reward.reader]\nendpoint = "{url}"\nmodel = "reader"\nretries = 0\n'
    term = "\n".join(f"{key} = {value!r}" for key, value in TERM.items())
    return f"[reward.terms.accuracy]\n{term}\n{reader}"


def test_scores_and_readings_are_those_of_the_run(reader, tmp_path):
    def scored(rubric: Rubric) -> list[Any]:
        groups = [group(TEXTS, name="s0"), group(TEXTS, name="s1", kind="video")]
        score(rubric, groups, step=7)
        held_out = group(TEXTS, name="s2")
        score(rubric.for_evaluation(0), [held_out], step=-1)
        rollouts = [r for g in (*groups, held_out) for r in g.rollouts]
        return [(r.total, r.reading, r.parts, r.failure) for r in rollouts]

    with closing(build_rubric(config(reader.url), seed=3)) as rubric:
        here = scored(rubric)
    with reward_server(toml(reader.url), tmp_path) as server:
        term = ServiceOptions(endpoint=server.url, batch_size=3, wait_s=0.0)
        context = TermContext(lambda: pytest.fail("no reader"), seed=3)
        with closing(Rubric.of({"accuracy": term}, context)) as rubric:
            assert scored(rubric) == here
    assert len({total for total, *_ in here}) > 2


def test_a_question_that_does_not_parse_is_asked_as_given_and_counted(reader, tmp_path):
    as_given = "Is the thing red? Say A for yes, B for no."
    parsed = "What is it?\n   - A) a cat\n   - B) a dog"
    with reward_server(toml(reader.url), tmp_path) as server:
        request = {"prompts": [[t, [[as_given, "A"], [parsed, "B"]]] for t in TEXTS]}
        first, second = server.post(request), server.post(request)
        status, reply = server.post({"prompts": [["x", [[as_given, "A"]]]]})
    assert first == second and first[0] == 200 and first[1]["unshuffled"] == 4
    assert all(0 <= q <= 1 for q in first[1]["qa_rewards"])
    assert (status, reply["unshuffled"]) == (200, 1) and reply["qa_rewards"][0] in (0.0, 1.0)
    asked = reader.requests[-1]["messages"]
    user = next(turn["content"] for turn in asked if turn["role"] == "user")
    assert f"Question: {as_given}\n\n" in user and "A) " not in user


def test_a_reader_that_is_down_is_a_missing_reward_and_comes_back(tmp_path):
    replies = iter([Reply(status=500)])
    with (
        serve(lambda request: next(replies, Reply(" A"))) as reader,
        reward_server(toml(reader.url), tmp_path) as server,
    ):
        body = {"prompts": [["x", [["What?\n   - A) cat\n   - B) dog", "A"]]]], "draws": 1}
        status, reply = server.post(body)
        assert (status, reply["rewards"]) == (200, [None])
        assert "InternalServerError" in reply["failures"]["0"]
        assert server.post(body)[1]["rewards"][0] in (0.0, 1.0)
