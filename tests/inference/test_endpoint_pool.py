"""Several servers of one model: the least busy is asked, and what one does not answer another does.

The servers are real; one that is killed is a process of its own.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from caprl_native.config.cli import ConfigError, load
from caprl_native.config.media import MediaConfig
from caprl_native.config.models import CaptionerConfig, ReaderConfig
from caprl_native.config.schema import Config
from caprl_native.inference import endpoint_pool
from caprl_native.inference.endpoint import settings_problem
from caprl_native.inference.endpoint_model import EndpointModel
from caprl_native.inference.endpoint_pool import Connections, servers_of
from caprl_native.inference.endpoint_reply import Said
from caprl_native.inference.models import Request
from caprl_native.rewards.readers.base import Answer, Ask
from caprl_native.rewards.readers.endpoint import EndpointReader
from caprl_native.testing.chat_server import ChatServer, Reply, serve
from tests.ranks import ROOT

CHAT = [{"role": "user", "content": "Which colour?"}]

# Answers with its name; each request's seed is appended to a file as it comes in.
SERVER = """
import sys, time
from caprl_native.testing.chat_server import Reply, serve
def answer(request):
    with open(sys.argv[1], "a") as file:
        file.write(f"{request['seed']}\\n")
    return Reply(" own process", after_s=0.1)
with serve(answer) as server:
    print(server.url, flush=True)
    time.sleep(600)
"""


@contextmanager
def process(seen: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server that can be killed, and its URL."""
    seen.touch()
    command = [sys.executable, "-c", SERVER, str(seen)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout
            yield started, started.stdout.readline().strip()
        finally:
            started.kill()


def config(*servers: ChatServer | str, **settings) -> ReaderConfig:
    urls = [server if isinstance(server, str) else server.url for server in servers]
    given = {"timeout_s": 5.0, "retries": 1, "concurrency": 16, **settings}
    return ReaderConfig(endpoint=urls, model="reader", **given)


def nothing(pool: Connections) -> None:
    """Nothing happens between the rounds."""


def asked(settings: ReaderConfig, *rounds: int, between: Callable = nothing) -> list[Said]:
    """What is said to so many requests at a time, `concurrency` of them in flight."""

    async def ask() -> list[Said]:
        pool, gate = Connections(servers_of(settings)), asyncio.Semaphore(settings.concurrency)

        async def one(seed: int) -> Said:
            async with gate:
                return await pool.ask(CHAT, seed)

        try:
            said: list[Said] = []
            for count in rounds:
                said += await asyncio.gather(*(one(len(said) + i) for i in range(count)))
                between(pool)
            return said
        finally:
            await pool.close()

    return asyncio.run(ask())


def seeds(server: ChatServer) -> list[int]:
    return [request["seed"] for request in server.requests]


def test_a_server_that_is_killed_costs_no_answer_and_no_question_too_many(tmp_path: Path) -> None:
    file = tmp_path / "seen"
    with process(file) as (dies, url), serve(lambda _: Reply(" B", after_s=0.1)) as lives:
        reader = EndpointReader(config(url, lives))
        answers = reader.ask([Ask(CHAT, seed) for seed in range(200)])
        while len(file.read_text().splitlines()) < 40:
            time.sleep(0.01)
        dies.kill()
        said: list[Answer] = [answer.result(60) for answer in answers]
        reader.close()
        before = [int(line) for line in file.read_text().splitlines()]
    assert {a.text for a in said} == {" own process", " B"} and not any(a.failure for a in said)
    assert len(set(before)) == len(before) and len(set(seeds(lives))) == len(seeds(lives))
    twice = set(before) & set(seeds(lives))
    assert set(before) | set(seeds(lives)) == set(range(200))
    assert twice == {i for i in before if said[i].text == " B"}  # those that were in flight
    assert 0 < len(twice) <= 16


def test_the_server_with_the_fewest_requests_in_flight_is_asked() -> None:
    with serve(lambda _: Reply(after_s=0.4)) as slow, serve(lambda _: Reply(after_s=0.05)) as fast:
        said = asked(config(slow, fast, concurrency=8), 80)
    assert all(s.text == " A" for s in said)
    assert slow.most_at_once <= 5 and fast.most_at_once <= 5  # four each
    assert len(slow.requests) * 2 < len(fast.requests)
    assert len(slow.requests) + len(fast.requests) == 80


def test_a_server_that_fails_is_left_out_and_tried_again(monkeypatch, caplog) -> None:
    monkeypatch.setattr(endpoint_pool, "FIRST_PAUSE_S", 0.3)
    monkeypatch.setattr(endpoint_pool, "LONGEST_PAUSE_S", 0.3)
    ill = True

    def heal(pool: Connections) -> None:
        nonlocal ill
        ill = False
        time.sleep(0.5)

    def moody(_: object) -> Reply:
        return Reply(status=503) if ill else Reply(" C", after_s=0.02)

    with serve(moody) as first, serve(lambda _: Reply(" B", after_s=0.02)) as second:
        said = asked(config(first, second, concurrency=4), 40, 40, between=heal)
    assert not any(s.failure for s in said)
    assert {s.text for s in said[:40]} == {" B"} and {s.text for s in said[40:]} == {" B", " C"}
    tried = [seed for seed in seeds(first) if seed < 40]
    failed = caplog.text.count("left out for")  # each time but the first by one request alone
    assert failed and 0 < len(tried) <= 4 + failed - 1 and len(set(tried)) == len(tried)
    assert caplog.text.count("answers again") == 1


def test_a_request_that_no_server_answers_has_failed_and_others_have_not() -> None:
    """Each server is asked it once, and as often again as `retries` says; the rest is not lost."""

    def answer(request: dict) -> Reply:
        return Reply(status=500) if request["seed"] == 7 else Reply(" A", after_s=0.02)

    with serve(answer) as one, serve(answer) as two:
        said = asked(config(one, two), 60)
    assert [i for i, s in enumerate(said) if s.failure] == [7]
    assert "500" in said[7].failure
    assert seeds(one).count(7) == seeds(two).count(7) == 2
    assert len(one.requests) + len(two.requests) == 59 + 4


def test_a_request_that_is_refused_goes_to_no_other_server() -> None:
    with serve(lambda _: Reply(status=404)) as one, serve(lambda _: Reply()) as two:
        (said,) = asked(config(one, two), 1)
    assert said.failure and len(one.requests) == 1 and not two.requests


def test_servers_that_all_hang_are_given_up_until_there_is_hope() -> None:
    def hang(_: object) -> Reply:
        return Reply(after_s=1.0)

    def hope(pool: Connections) -> None:
        pool.hope()

    with serve(hang) as one, serve(hang) as two:
        settings = config(one, two, concurrency=3, timeout_s=0.2, retries=3)
        began = time.monotonic()
        said = asked(settings, 50, 2, between=hope)
        seconds = time.monotonic() - began
    assert all(s.failure for s in said)
    assert seconds < 10  # not 50 / 3 rounds of 8 attempts, a fifth of a second and more each
    assert "given up after" in said[49].failure


def test_captioners_and_judges_take_several_servers_too() -> None:
    def requests() -> Iterator[Request]:
        for i in range(20):
            yield Request(keys=(f"k{i}",), messages=CHAT_PARTS, media=(), seed=i)

    with serve(lambda _: Reply(" A", after_s=0.05)) as one, serve(lambda _: Reply(" A")) as two:
        model = EndpointModel(
            CaptionerConfig(endpoint=[one.url, two.url], model="m", concurrency=4), MediaConfig()
        )
        results = list(model.complete(requests()))
    assert sorted(r.key for r in results) == sorted(f"k{i}" for i in range(20))
    assert one.requests and two.requests and len(one.requests) + len(two.requests) == 20


CHAT_PARTS = ({"role": "user", "content": [{"type": "text", "text": "Which colour?"}]},)


# --- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("urls", "problem"),
    [
        (["http://a/v1", "b:8000"], "expected a URL"),
        (["http://a/v1", ""], "expected a URL"),
        (["http://a/v1", "http://a/v1"], "expected each server once"),
        (["http://a/v1", "http://me:***@b/v1"], "its password is hidden"),
        (["http://a/v1", "http:///v1"], "it has no host"),
    ],
)
def test_every_server_of_a_list_is_checked(urls: list[str], problem: str) -> None:
    field, said = settings_problem(ReaderConfig(endpoint=urls, model="m"))
    assert field == "endpoint" and problem in said


@pytest.mark.parametrize("value", ['"http://a/v1"', '["http://a/v1", "http://b/v1"]'])
def test_a_setting_is_a_text_or_a_list(value: str, tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text(f"[reward.reader]\nendpoint = {value}\n")
    assert load(Config, [file]).reward.reader.endpoint == eval(value)
    file.write_text("[reward.reader]\nendpoint = 3\n")
    with pytest.raises(ConfigError, match="expected a text in quotes or a list of texts, found 3"):
        load(Config, [file])
