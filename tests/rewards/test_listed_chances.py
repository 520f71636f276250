"""Probabilities of choices from an endpoint that lists its likeliest first tokens."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

from caprl_native.config.models import ReaderConfig
from caprl_native.rewards.prompts import ANSWER_PREFIX
from caprl_native.rewards.readers.base import Answer, Ask, answers_to
from caprl_native.rewards.readers.endpoint import EndpointReader
from caprl_native.testing.chat_server import Reply, Request, serve
from tests.rewards.asking import ask
from tests.rewards.listing import listing

CHOICES = ("the left", "the right", "up")


def answer(asks: list[Ask], url: str, **settings) -> list[Answer]:
    config = ReaderConfig(endpoint=url, model="reader", timeout_s=10.0, retries=0, **settings)
    with closing(EndpointReader(config)) as ours:
        return answers_to(ours, asks)


def test_the_reader_s_own_temperature_is_applied_to_what_is_listed() -> None:
    chances = {" A": 0.6, " B": 0.3, " C": 0.05, "?": 0.05}
    with serve(lambda request: listing(chances)) as server:
        (found,) = answer([ask("x", choices=CHOICES)], server.url, temperature=0.5)
        (greedy,) = answer([ask("x", choices=CHOICES)], server.url, temperature=0.0)
    total = sum(p**2 for p in chances.values())
    assert found.text is None and found.failure is None
    assert found.probabilities == pytest.approx([0.36 / total, 0.09 / total, 0.0025 / total])
    assert greedy.probabilities == (1.0, 0.0, 0.0)
    request = server.requests[0]
    assert (request["logprobs"], request["top_logprobs"], request["max_tokens"]) == (True, 20, 1)
    assert (request["temperature"], request["top_p"]) == (1.0, 1.0)  # at which log-probs are meant
    assert request["messages"][-1]["content"] == ANSWER_PREFIX


def test_what_is_not_listed_counts_as_no_answer() -> None:
    with serve(lambda request: listing({" B": 0.5, " A": 0.2})) as server:
        (found,) = answer([ask("x", choices=CHOICES)], server.url, temperature=1.0)
    assert found.probabilities == pytest.approx([0.2, 0.5, 0.0])


def test_texts_that_begin_alike_are_told_apart_by_an_answer() -> None:
    def reply(request: Request) -> Reply:
        return listing({" the": 0.7, " A": 0.3}) if "logprobs" in request else Reply(" the right.")

    with serve(reply) as server:
        (found,) = answer([ask("x", seed=3, choices=CHOICES)], server.url, temperature=0.6)
        (hot,) = answer([ask("x", choices=CHOICES)], server.url, temperature=1.5)
    assert found.probabilities is None and found.text == " the right."
    assert server.requests[1]["temperature"] == 0.6 and server.requests[1]["seed"] == 3
    assert hot.text == " the right." and len(server.requests) == 3  # above 1 nothing is listed


@pytest.mark.parametrize("mark", [" (", " **", '"', " [", " $\\"])
def test_a_mark_may_open_the_label_of_any_choice(mark: str) -> None:
    """Counted as no answer, it would take a reward's size from all captions alike."""
    with serve(
        lambda r: listing({mark: 0.7, " A": 0.3}) if "logprobs" in r else Reply(f"{mark}B")
    ) as s:
        (found,) = answer([ask("x", choices=CHOICES)], s.url, temperature=1.0)
    assert found.probabilities is None and found.text == f"{mark}B"


def test_words_that_open_an_answer_are_no_choice_where_the_turn_was_not_opened() -> None:
    """ "The answer is C" does not choose "the left" by its first word."""

    def reply(request: Request) -> Reply:
        return listing({"The": 0.9, "C": 0.1}) if "logprobs" in request else Reply("It is C.")

    choices = ("the left", "right", "up")
    with serve(reply) as server:
        (found,) = answer([ask("x", choices=choices)], server.url, prefill=False)
        (opened,) = answer([ask("x", choices=choices)], server.url, temperature=1.0)
    assert found.probabilities is None and found.text == "It is C."
    assert opened.probabilities == pytest.approx([0.9, 0.0, 0.1])
    with serve(lambda request: listing({"B": 0.8, "The": 0.2})) as server:
        settings = {"prefill": False, "temperature": 1.0}
        (short,) = answer([ask("x", choices=choices)], server.url, **settings)
    assert short.probabilities == pytest.approx([0.0, 0.8, 0.0])


def _listed(entry: bytes) -> bytes:
    listed = b'{"content": [{"top_logprobs": [' + entry + b"]}]}"
    return b'{"choices": [{"logprobs": ' + listed + b"}]}"


@pytest.mark.parametrize(
    "raw",
    [
        b"{}",
        b"[1]",
        b"<html>",
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": " A"}, "logprobs": null}]}',
        b'{"choices": [{"logprobs": {"content": []}}]}',
        b'{"choices": [{"logprobs": {"content": [{"top_logprobs": []}]}}]}',
        _listed(b'{"token": 3, "logprob": 0}'),
        _listed(b'{"token": "A", "logprob": NaN}'),
        _listed(b'{"token": "A", "logprob": 2}'),
        _listed(b'{"token": "A", "logprob": -Infinity}'),
        _listed(b'{"token": "A"}'),
        b"[" * 100_000,
    ],
)
def test_a_reply_without_log_probs_is_missing_and_says_what_to_do(raw: bytes) -> None:
    with serve(lambda request: Reply(raw=raw)) as server:
        (found,) = answer([ask("x", choices=CHOICES)], server.url)
    assert found.text is None and found.probabilities is None
    assert found.failure.startswith(server.url) and "no log-probs" in found.failure
    assert 'answers = "sampled"' in found.failure


def test_a_server_that_refuses_log_probs_is_quoted() -> None:
    refusal = json.dumps({"error": {"message": "logprobs are not supported"}}).encode()
    with serve(lambda request: Reply(status=400, raw=refusal)) as server:
        (found,) = answer([ask("x", choices=CHOICES)], server.url)
    assert "logprobs are not supported" in found.failure
