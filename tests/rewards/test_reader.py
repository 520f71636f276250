"""The two readers: an engine on a tiny model, and an endpoint that is a real HTTP server."""

from __future__ import annotations

import json
import logging
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from caprl_native.config.models import ReaderConfig
from caprl_native.rewards.prompts import ANSWER_PREFIX
from caprl_native.rewards.readers.base import Answer, Ask, answers_to
from caprl_native.rewards.readers.endpoint import EndpointReader
from caprl_native.testing.chat_server import Reply, serve
from tests.ranks import run_ranks
from tests.rewards.asking import ask

KEY = "sk-very-secret-123"


def reader(url: str, **settings) -> EndpointReader:
    settings = {"timeout_s": 10.0, "retries": 0, **settings}
    return EndpointReader(ReaderConfig(endpoint=url, model="reader", **settings))


def answer(asks: list[Ask], url: str, **settings) -> list[Answer]:
    """The answers of a reader that is closed again."""
    with closing(reader(url, **settings)) as ours:
        return answers_to(ours, asks)


# --- endpoint ---------------------------------------------------------------------------------


def test_answers_come_in_order_and_never_too_many_at_once() -> None:
    with serve(lambda request: Reply(f" {request['seed']}", after_s=0.03)) as server:
        answers = answer([ask("x", seed=s) for s in range(40)], server.url, concurrency=4)
    assert [a.text for a in answers] == [f" {s}" for s in range(40)]
    assert 1 < server.most_at_once <= 4


def test_failed_requests_are_tried_again_with_growing_pauses() -> None:
    replies = iter([Reply(status=500), Reply(status=429), Reply(" B")])
    with serve(lambda request: next(replies)) as server:
        (given,) = answer([ask("x")], server.url, retries=3)
    assert given.text == " B" and given.failure is None
    first, second, third = server.times
    assert 0.2 < second - first < third - second


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(status=500), "InternalServerError"),
        (Reply(status=429), "RateLimitError"),
        (Reply(status=404), "NotFoundError"),
        (Reply(text=None), "no text"),
        (Reply(raw=b"{}"), "no text"),
        (Reply(raw=b"<html>welcome</html>", kind="text/html"), "no text"),
        (Reply(raw=b'{"choices": [', kind="application/json"), ""),
    ],
)
def test_what_is_no_answer_is_missing_with_a_reason(reply: Reply, expected: str) -> None:
    with serve(lambda request: reply) as server:
        (given,) = answer([ask("x")], server.url)
    assert given.text is None
    assert given.failure.startswith(server.url) and expected in given.failure
    assert "\n" not in given.failure and len(given.failure) < 600


def test_retries_are_bounded() -> None:
    with serve(lambda request: Reply(status=503)) as server:
        (given,) = answer([ask("x")], server.url, retries=1)
    assert given.text is None and len(server.requests) == 2


def test_a_server_that_hangs_is_given_up() -> None:
    began = time.monotonic()
    with serve(lambda request: Reply(after_s=20)) as server:
        (given,) = answer([ask("x")], server.url, timeout_s=0.5)
        assert time.monotonic() - began < 10
    assert given.text is None and "Timeout" in given.failure


def test_a_server_that_is_gone_is_given_up() -> None:
    with serve(lambda request: Reply()) as server:
        pass
    (given,) = answer([ask("x")], server.url)
    assert given.text is None and "Connection" in given.failure


def test_one_failure_leaves_the_other_answers_alone() -> None:
    with serve(lambda r: Reply(status=500) if r["seed"] == 1 else Reply(" C")) as server:
        answers = answer([ask("x", seed=s) for s in range(3)], server.url)
    assert [a.text for a in answers] == [" C", None, " C"]


def test_the_key_is_sent_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CAPRL_TEST_KEY", KEY)
    quoting = json.dumps({"error": {"message": f"bad key {KEY}"}}).encode()
    with caplog.at_level(logging.DEBUG), serve(lambda r: Reply(status=401, raw=quoting)) as server:
        (given,) = answer([ask("x")], server.url, api_key_env="CAPRL_TEST_KEY")
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert "bad key ***" in given.failure
    assert KEY not in given.failure + caplog.text


def test_without_a_key_none_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)  # another service's, and none of our business
    with serve(lambda request: Reply()) as server:
        (given,) = answer([ask("x")], server.url)
    assert given.text == " A"
    assert "authorization" not in server.headers[0]


def test_a_key_that_is_not_set_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAPRL_TEST_KEY", raising=False)
    with pytest.raises(ValueError, match="CAPRL_TEST_KEY is not set"):
        reader("http://127.0.0.1:1/v1", api_key_env="CAPRL_TEST_KEY")


def test_the_request_opens_the_reader_s_turn_where_the_server_can_go_on() -> None:
    asked = ask("a red circle", seed=2**40 + 7)
    with serve(lambda request: Reply(f"{ANSWER_PREFIX} B")) as server:
        (opened,) = answer([asked], server.url, prefill=True, temperature=0.3, top_p=0.9)
        (plain,) = answer([asked], server.url, prefill=False, max_tokens=5)
    one, two = server.requests
    assert one["path"] == "/v1/chat/completions" and one["model"] == "reader"
    assert one["messages"][:-1] == asked.messages == two["messages"]
    assert one["messages"][-1] == {"role": "assistant", "content": ANSWER_PREFIX}
    assert one["continue_final_message"] is True and one["add_generation_prompt"] is False
    assert not {"continue_final_message", "add_generation_prompt"} & two.keys()
    assert (one["temperature"], one["top_p"], one["max_tokens"]) == (0.3, 0.9, 10)
    assert (two["temperature"], two["top_p"], two["max_tokens"]) == (0.6, 1.0, 5)
    assert one["seed"] == two["seed"] == (2**40 + 7) % 2**31
    assert opened.text == " B"  # a server that repeats the opening is understood
    assert plain.text == f"{ANSWER_PREFIX} B"


def test_questions_are_under_way_while_others_are_still_to_be_asked() -> None:
    arrived = threading.Event()

    def reply(request) -> Reply:
        arrived.set()
        return Reply(" B")

    with serve(reply) as server, closing(reader(server.url)) as ours:
        first = ours.ask([ask("x")])
        assert arrived.wait(10)
        second = ours.ask([ask("x")])
        ours.finish()
        assert [a.result(10).text for a in first + second] == [" B", " B"]


def test_closing_gives_up_what_is_under_way() -> None:
    with serve(lambda request: Reply(after_s=5)) as server:
        ours = reader(server.url)
        (slow,) = ours.ask([ask("x")])
        while not server.requests:
            time.sleep(0.01)
        began = time.monotonic()
        ours.close()
        ours.close()
        assert time.monotonic() - began < 3
    assert slow.cancelled()
    assert "reader" not in {thread.name for thread in threading.enumerate()}


# --- engine -----------------------------------------------------------------------------------


def test_the_engine_s_answers_depend_on_question_and_seed_alone(tiny_reader: Path) -> None:
    (seen,) = run_ranks("read", 1, tiny_reader)
    assert seen["again"] == seen["first"]  # after other questions, with emptied caches
    assert None not in [text for text, _ in seen["first"]]
    assert len({text for text, _ in seen["seeds"]}) > 1
    (before, _), (long, why), (after, _) = seen["too long"]
    assert long is None and "reward.reader.max_model_len leaves" in why
    assert [before, after] == [seen["first"][0][0], seen["first"][1][0]]
    assert seen["none"] == []
    assert seen["after open questions"] == seen["first"]
    assert seen["all at once"] == seen["bit by bit"]
    assert 0 < seen["left by work"] < seen["at one time"]  # the last few wait for company
    assert seen["answered by work"] == 7 - seen["left by work"]
    assert min(seen["cached"][1:]) > seen["cached"][0] == 0  # a caption is read once
    assert len(seen["chances"]) == 4 and len(seen["chances"][1]) == 4
    for chances, expected in zip(seen["chances"], seen["expected"], strict=True):
        assert chances == pytest.approx(expected, rel=0.1, abs=1e-4)  # of bfloat16 logits
    assert seen["texts beside"] == seen["texts alone"]
