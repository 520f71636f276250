"""The client as a reward term: against our server, and against servers of the reference's kind."""

from __future__ import annotations

import asyncio
import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from caprl_native.config.cli import ConfigError, check, load_with_origins
from caprl_native.config.schema import Config
from caprl_native.rewards.base import Caption, TermContext
from caprl_native.rewards.rubric import Rubric
from caprl_native.rewards.service import client
from caprl_native.rewards.terms.service import ServiceOptions
from caprl_native.testing.chat_server import ChatServer, Reply, serve
from caprl_native.testing.reward_server import RewardServer, free_port, reward_server
from caprl_native.types import MediaRef, Question, Rollout, Sample
from tests.rewards.asking import QUESTIONS, group, sample, score

RULES = Path(__file__).parent / "rules.py"
CONFIG = f"""
[reward.terms.accuracy]
type = "custom"
import_path = "{RULES}:words"
"""


@contextmanager
def service(url: str | list[str], **options: Any) -> Iterator[Rubric]:
    """A reward of the one term, which is closed again."""
    options = {"wait_s": 0.1, "deadline_s": 20.0, "timeout_s": 10.0} | options
    terms = {"accuracy": ServiceOptions(endpoint=url, **options)}
    rubric = Rubric.of(terms, TermContext(lambda: pytest.fail("no reader")))
    try:
        yield rubric
    finally:
        rubric.close()


def rollouts(rubric: Rubric, texts: list[str], kind: str = "image") -> list[Rollout]:
    """The captions of one sample, scored."""
    scored = group(texts, kind=kind)
    score(rubric, [scored])
    return scored.rollouts


def answering(reply: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Reply]:
    """A server that answers with JSON, as the reference's would: it has no health route."""

    def answer(request: dict[str, Any]) -> Reply:
        value = reply(request)
        if isinstance(value, Reply):
            return value
        return Reply(raw=json.dumps(value).encode())

    return answer


def url_of(server: ChatServer) -> str:
    return server.url.replace("/v1", "/get_reward")


# --- our server -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[RewardServer]:
    with reward_server(CONFIG, tmp_path_factory.mktemp("service")) as running:
        yield running


def test_scores_come_in_order_in_batches_and_what_fails_is_missing(server):
    texts = [f"w{i}" for i in range(100)] + ["none"]
    with service(server.url, batch_size=8, concurrency=3) as rubric:
        scored = rollouts(rubric, texts)
    assert [r.total for r in scored[:-1]] == [i / 100 for i in range(100)]
    assert scored[-1].total is None and "returned None" in scored[-1].failure


def test_a_caption_that_the_server_refuses_spoils_no_other(server):
    with service(server.url) as rubric:
        scored = rollouts(rubric, ["w1", "w" * 70_000, "w3", "w4"])
    assert [r.total for r in scored] == [0.01, None, 0.03, 0.04]
    assert "prompts[0][0]: 70000 characters" in scored[1].failure


def test_a_service_that_is_killed_and_started_again_costs_time_and_nothing_else(tmp_path):
    texts = ["slow", *(f"w{i % 100}" for i in range(200)), "slow"]
    with (
        reward_server(CONFIG, tmp_path) as server,
        service(server.url, batch_size=4, concurrency=2, deadline_s=60) as rubric,
    ):
        threading.Timer(0.3, lambda: (server.kill(), time.sleep(1), server.start())).start()
        scored = rollouts(rubric, texts)
    assert [r.total for r in scored] == [0.5, *(i % 100 / 100 for i in range(200)), 0.5]


def test_servers_that_are_away_are_waited_for_once_and_not_by_each_request(monkeypatch):
    monkeypatch.setattr(client, "LEAST_S", 0.1)
    dead = f"http://127.0.0.1:{free_port()}/get_reward"

    async def asked() -> list[float]:
        servers, seconds = client.Servers([dead], "", 10.0, 0), []
        for _ in range(3):
            began = time.monotonic()
            assert (await servers.post({}, 2.0)).failure.startswith("no reply within 2 s")
            seconds.append(time.monotonic() - began)
        await servers.close()
        return seconds

    first, *others = asyncio.run(asked())
    assert first > 1.9 and sum(others) < 1.9


def test_one_of_two_servers_may_be_dead_or_die(server):
    dead = f"http://127.0.0.1:{free_port()}/get_reward"
    with pytest.raises(ValueError, match="not ready within 0.5 s"), service(dead, deadline_s=0.5):
        pass
    refusing = iter([{"rewards": []}] + [Reply(status=503)] * 100)
    with (
        serve(answering(lambda request: next(refusing))) as busy,
        service([url_of(busy), server.url], batch_size=4, concurrency=2) as rubric,
    ):
        scored = rollouts(rubric, [f"w{i}" for i in range(40)])
    assert [r.total for r in scored] == [i / 100 for i in range(40)]
    assert len(busy.requests) < 12


def test_a_server_without_what_is_asked_for_is_told_at_the_start(server):
    with pytest.raises(ValueError, match='no term "judge"'), service(server.url, mode="vl_judge"):
        pass


def test_evaluations_say_how_many_questions(server):
    with serve(answering(_ones)) as heard, service(url_of(heard)) as rubric:
        score(rubric.for_evaluation(0), [group(["x"])])
        score(rubric, [group(["x"])])
    assert [r.get("draws") for r in heard.requests[1:]] == [0, None]


def _ones(request: dict[str, Any]) -> dict[str, Any]:
    ones = [1.0 for _ in request["prompts"]]
    return {"rewards": ones, "qa_rewards": ones}


# --- the reference's servers ------------------------------------------------------------------


def test_a_server_of_the_reference_gets_its_protocol_alone():
    with (
        serve(answering(lambda r: {**_ones(r), "local_rank": 0})) as server,
        service(url_of(server), protocol="reference") as rubric,
    ):
        (scored,) = rollouts(rubric, ["a red circle"])
    assert scored.total == 1.0
    empty, request = [{k: v for k, v in r.items() if k != "path"} for r in server.requests]
    assert empty == {"prompts": [], "query": [], "labels": []}
    lines = ["What is the colour?", "   - A) red", "   - B) green", "   - C) blue"]
    caption, questions = request["prompts"][0]
    assert caption == "a red circle" and questions[0] == ["\n".join(lines), "A"]
    assert [q[1] for q in questions] == ["A", "B", "C", "D"]
    assert request.keys() == {"prompts", "query", "labels"}


def test_a_server_that_sends_rewards_alone_needs_a_scale():
    with serve(answering(lambda r: {"rewards": [2.0 for _ in r["prompts"]]})) as server:
        with service(url_of(server), protocol="reference") as rubric:
            assert "needs scale" in rollouts(rubric, ["x"])[0].failure
        with service(url_of(server), protocol="reference", scale=0.5) as rubric:
            assert rollouts(rubric, ["x"])[0].total == 1.0


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ({"rewards": [1.0], "qa_rewards": [1.0, 1.0]}, "2 qa_rewards for 1 captions"),
        ({"rewards": [1.0], "qa_rewards": {}}, "qa_rewards is no list"),
        ([1.0], "the reply is no object"),
        ({"qa_rewards": [None]}, "no reward, and no reason"),
        ({"qa_rewards": [None], "failures": {"0": "no reply"}}, "the service: no reply"),
        ({"qa_rewards": ["1"]}, "a reward that is no number"),
        ({"qa_rewards": [True]}, "a reward that is no number"),
        ({"qa_rewards": [math.nan]}, "a reward of nan"),
        ({"qa_rewards": [1.5]}, "a reward of 1.5; valid: 0 to 1"),
        ({"qa_rewards": [-0.5]}, "a reward of -0.5"),
        ({"qa_rewards": [10**400]}, "a reward of inf"),
        (Reply(raw=b"{"), "no JSON"),
        (Reply(raw=b"[" * 100_000), "no JSON"),
        (Reply(status=500), "status 500"),
        (Reply(status=404), "status 404"),
    ],
)
def test_a_reply_that_is_no_reward_is_missing_never_zero(reply, reason):
    replies = iter([{"rewards": []}])
    with (
        serve(answering(lambda request: next(replies, reply))) as server,
        service(url_of(server), retries=1) as rubric,
    ):
        (scored,) = rollouts(rubric, ["x"])
    assert scored.total is None
    assert re.search(reason, scored.failure), scored.failure


def test_what_a_server_fails_to_answer_is_tried_again():
    replies = iter([{"rewards": []}, Reply(status=500), Reply(status=429), {"qa_rewards": [0.5]}])
    with serve(answering(lambda r: next(replies))) as server, service(url_of(server)) as rubric:
        assert rollouts(rubric, ["x"])[0].total == 0.5
    assert server.times[3] - server.times[2] > server.times[2] - server.times[1] > 0.3


def test_what_the_protocol_cannot_say_is_missing():
    many = Question("Which?", tuple("abcdefg"), 0)
    clip = MediaRef("video", "clip.mp4", start=1.0, end=2.0)
    cases = [
        (
            {"protocol": "reference"},
            Sample("s", (MediaRef("image", "x"),), (), (many,)),
            "7 choices",
        ),
        ({}, Sample("s", (MediaRef("image", "x"),), ()), "no questions"),
        ({}, Sample("s", (), (), QUESTIONS), "no image or video"),
        ({"mode": "vl_judge"}, Sample("s", (clip,), ()), "one whole file"),
        ({"mode": "vl_judge", "protocol": "reference"}, sample(), "videos alone"),
    ]
    with serve(answering(lambda r: {"rewards": []})) as server:
        for options, asked, reason in cases:
            with service(url_of(server), **options) as rubric:
                term = rubric.terms[0]
                outcome = term.outcome(term.submit(Caption(asked, "x", 1, (0, 1, "s", 0))))
                assert outcome.value is None and reason in outcome.failure


def test_a_judge_is_sent_paths():
    judged = {"rewards": [0.25], "judge_rewards": [0.25]}
    replies = iter([{"rewards": []}, judged, judged])
    with (
        serve(answering(lambda r: next(replies))) as server,
        service(url_of(server), mode="vl_judge", protocol="reference") as rubric,
    ):
        assert rollouts(rubric, ["x"], "video")[0].total == 0.25
    assert server.requests[1]["samples"] == [{"caption": "x", "video_path": "s0.video"}]
    assert server.requests[1]["score_mode"] == "vl_judge"


def test_a_token_is_sent_and_never_shown(monkeypatch):
    monkeypatch.setenv("CAPRL_TEST_TOKEN", "a-very-secret-token")
    said = Reply(raw=b'{"error": "not a-very-secret-token"}', status=401)
    replies = iter([{"rewards": []}])
    with (
        serve(answering(lambda r: next(replies, said))) as server,
        service(url_of(server), api_key_env="CAPRL_TEST_TOKEN") as rubric,
    ):
        (scored,) = rollouts(rubric, ["x"])
    assert server.headers[1]["authorization"] == "Bearer a-very-secret-token"
    assert "status 401" in scored.failure and "secret" not in scored.failure


# --- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ("[]", "reward.terms.qa.endpoint"),
        ("ftp://x/get_reward", "reward.terms.qa.endpoint"),
        ("['http://x/', 'http://x/']", "reward.terms.qa.endpoint"),
    ],
)
def test_a_config_without_a_usable_server_does_not_start(setting, error):
    words = ["--reward.terms.qa.type", "service", "--reward.terms.accuracy.type", "none"]
    words += ["--reward.terms.qa.endpoint", setting, "--policy.path", "x"]
    words += ["--data.files", "['x']", "--eval.every", "0"]
    config, origins = load_with_origins(Config, [], words)
    with pytest.raises(ConfigError, match=error):
        check(config, origins)


def test_no_reader_is_needed_and_questions_are():
    assert not ServiceOptions(endpoint="http://x/").reads
    assert ServiceOptions().needs_questions
    assert not ServiceOptions(mode="vl_judge").needs_questions
