"""Endpoints that misbehave: real servers on 127.0.0.1, and what is made of their replies."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import random
import re
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator

import pytest

from caprl_native.inference.endpoint import Connection, Endpoint
from caprl_native.inference.endpoint_http import MAX_BODY, is_this_machine
from caprl_native.inference.endpoint_reply import Said, read_reply
from caprl_native.testing.chat_server import Reply, Request, serve
from tests.endpoint_replies import CHAT, asked, endpoint, malformed

KEY = "sk-very-secret-789"
REPLIES = int(os.environ.get("CAPRL_FUZZ_REPLIES", "400"))  # 10,000 take four minutes


def reply_to(reply: Reply | Callable[[Request], Reply], **settings) -> Said:
    answer = reply if callable(reply) else lambda request: reply
    with serve(answer) as server:
        (said,) = asked(endpoint(server.url, **settings))
    return said


# --- replies that cannot be understood --------------------------------------------------------


def body(**changed) -> bytes:
    choice = {"message": {"content": " A"}, "finish_reason": "stop", **changed}
    return json.dumps({"choices": [choice]}).encode()


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (body(message=None), "message is no object"),
        (body(message=["A"]), "message is no object"),
        (body(message={"content": None}), "content is no text"),
        (body(message={"content": [{"type": "text", "text": "A"}]}), "content is no text"),
        (body(message={"content": 3}), "content is no text"),
        (body(message={"content": "a \ud800 b"}), "half of a surrogate pair"),
        (b'{"choices": null}', "no list of choices"),
        (b'{"choices": {"0": 1}}', "no list of choices"),
        (b'{"choices": []}', "no list of choices"),
        (b'{"choices": [null]}', "choices[0] is no object"),
        (b'{"choices": "ab"}', "no list of choices"),
        (b"[]", "no list of choices"),
        (b"null", "no list of choices"),
        (b"", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"choices": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"data: {}\n\n", "not JSON"),
    ],
)
def test_a_reply_that_cannot_be_understood_is_a_failed_answer(raw: bytes, why: str) -> None:
    said = reply_to(Reply(raw=raw))
    assert said.text is None and "the reply has no text" in said.failure and why in said.failure


@pytest.mark.parametrize(
    ("text", "finish", "expected"),
    [
        ("", "length", None),
        (" \n", "length", None),
        ("", "content_filter", None),
        ("", "abort", None),
        ("", "stop", ""),  # the model chose to say nothing
        ("", None, ""),
        (" A", "length", " A"),
        ("a\0b", "stop", "a\0b"),
        ("\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"), "stop", "😀"),
    ],
)
def test_an_empty_text_is_missing_where_it_was_cut_off(
    text: str, finish: str | None, expected: str | None
) -> None:
    said = reply_to(Reply(text, finish=finish))
    assert said.text == expected and (said.failure is None) == (expected is not None)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"completion_tokens": 3}, 3),
        ({"completion_tokens": -1}, None),
        ({"completion_tokens": 1e400}, None),
        ({"completion_tokens": True}, None),
        ({"completion_tokens": 10**30}, None),
        ({"completion_tokens": "3"}, None),
        ([3], None),
        (None, None),
    ],
)
def test_a_count_of_tokens_is_a_number_or_missing(usage, tokens: int | None) -> None:
    given = {"choices": [{"message": {"content": "A"}, "finish_reason": 7}], "usage": usage}
    said = read_reply(json.dumps(given).encode())
    assert (said.text, said.tokens, said.finish) == ("A", tokens, None)


def test_a_good_reply_is_read_whatever_its_label_says() -> None:
    for kind in ("text/html", "application/json; charset=zlib", "image/png", ""):
        assert reply_to(Reply(" B", kind=kind)).text == " B"


def test_malformed_replies_raise_nothing() -> None:
    """Each is a text or a reason; all of them at one server, the way a run meets them."""
    with serve(lambda request: malformed(random.Random(request["seed"]))) as server:
        for first in range(0, REPLIES, 200):
            for said in asked(endpoint(server.url, timeout_s=2.0), 200, first=first):
                assert (said.text is None) != (said.failure is None)
                assert said.failure is None or "\n" not in said.failure
                json.dumps([said.text, said.failure], ensure_ascii=False).encode()


# --- time and size ----------------------------------------------------------------------------


def drops(pause: float) -> Iterator[bytes]:
    while True:
        yield b" "
        time.sleep(pause)


def flood() -> Iterator[bytes]:
    while True:
        yield b" " * (1 << 20)


def test_a_byte_now_and_then_does_not_go_on_for_ever() -> None:
    began = time.monotonic()
    said = reply_to(lambda request: Reply(stream=drops(0.05)), timeout_s=0.6)
    assert "no whole reply within 0.6 s" in said.failure and time.monotonic() - began < 3


def test_headers_that_trickle_do_not_either() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def trickle() -> None:
        client, _ = listener.accept()
        client.sendall(b"HTTP/1.1 200 OK\r\n")
        for i in range(200):
            try:
                client.sendall(b"X-A: %d\r\n" % i)
            except OSError:
                return
            time.sleep(0.05)

    threading.Thread(target=trickle, daemon=True).start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    began = time.monotonic()
    (said,) = asked(endpoint(url, timeout_s=0.6))
    listener.close()
    assert "Timeout" in said.failure and time.monotonic() - began < 3


def test_an_endless_body_is_given_up() -> None:
    said = reply_to(lambda request: Reply(stream=flood()))
    assert f"longer than {MAX_BODY >> 20} MiB" in said.failure


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_bomb_is_given_up(encoding: str) -> None:
    """256 MiB of zeros in 256 KiB: no more of it is unpacked than a reply may have."""
    import tracemalloc

    packer = zlib.compressobj(9, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
    tracemalloc.start()
    said = reply_to(Reply(raw=bomb, headers={"Content-Encoding": encoding}))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert f"longer than {MAX_BODY >> 20} MiB" in said.failure
    assert peak < 8 * MAX_BODY, f"{peak >> 20} MiB"


def test_a_packed_reply_is_read_though_none_is_asked_for() -> None:
    packed = gzip.compress(body())
    with serve(lambda r: Reply(raw=packed, headers={"Content-Encoding": "gzip"})) as server:
        (said,) = asked(endpoint(server.url))
    assert said.text == " A" and server.headers[0]["accept-encoding"] == "identity"
    said = reply_to(Reply(raw=packed, headers={"Content-Encoding": "br"}))
    assert "packed as 'br'" in said.failure


def test_a_server_that_hangs_costs_two_rounds_at_most(caplog: pytest.LogCaptureFixture) -> None:
    """80 questions, 8 at one time, a second each: not ten seconds but two."""
    hangs = [True]

    async def rounds(server: Endpoint) -> tuple[list[Said], float, list[Said], list[Said]]:
        connection, gate = Connection(server), asyncio.Semaphore(8)

        async def one(seed: int) -> Said:
            async with gate:
                return await connection.ask(CHAT, seed)

        began = time.monotonic()
        lost = await asyncio.gather(*map(one, range(80)))
        took = time.monotonic() - began
        connection.hope()  # the next step
        still = await asyncio.gather(*map(one, range(20)))
        hangs[0] = False
        connection.hope()
        back = await asyncio.gather(*map(one, range(20)))
        await connection.close()
        return lost, took, still, back

    with serve(lambda request: Reply(after_s=30 if hangs[0] else 0)) as server:
        lost, took, still, back = asyncio.run(rounds(endpoint(server.url, timeout_s=1.0)))
    assert took < 5 and all(said.text is None for said in lost + still)
    assert "given up after 8 requests in a row without an answer" in lost[-1].failure
    assert "no whole reply within 1 s" in lost[-1].failure
    assert [said.text for said in back] == [" A"] * 20, [s.failure for s in back]
    assert len(server.requests) <= 2 * 8 + 1 + 20


def test_refusals_and_errors_of_single_requests_give_nobody_up() -> None:
    def moody(request: Request) -> Reply:
        return Reply(status=500) if request["seed"] < 40 else Reply()

    with serve(moody) as server:
        said = asked(endpoint(server.url, concurrency=3), 50)
    assert [s.text for s in said[40:]] == [" A"] * 10


# --- redirects, proxies, credentials ----------------------------------------------------------


def test_redirects_are_followed_on_the_same_host_alone(monkeypatch) -> None:
    monkeypatch.setenv("CAPRL_TEST_KEY", KEY)
    with serve(lambda request: Reply(" B")) as other:

        def moved(request: Request) -> Reply:
            to = {"/v1/chat/completions": "/v2/there", "/v2/there": None}.get(request["path"])
            return Reply(status=307, headers={"Location": to}) if to else Reply(" C")

        with serve(moved) as server:
            (here,) = asked(endpoint(server.url, api_key_env="CAPRL_TEST_KEY"))
        assert here.text == " C" and server.headers[1]["authorization"] == f"Bearer {KEY}"

        away = {"Location": f"{other.url}/chat/completions"}
        for status in (301, 302, 303, 307, 308):
            said = reply_to(Reply(status=status, headers=away), api_key_env="CAPRL_TEST_KEY")
            assert said.text is None and "redirects are not followed" in said.failure
        assert "more than" in reply_to(Reply(status=307, headers={"Location": "x"})).failure
    assert other.requests == []


def test_hosts_that_are_this_machine() -> None:
    own = ["localhost", "a.localhost", "127.0.0.1", "127.1", "::1", "[::1]", "0.0.0.0", "::"]
    for host in [*own, socket.gethostname(), socket.gethostname().upper()]:
        assert is_this_machine(host), host
    for host in ("example.com", "8.8.8.8", "2001:db8::1", "", "127.0.0.1.example.com", "0x"):
        assert not is_this_machine(host), host


def test_no_proxy_is_asked_for_a_server_of_this_machine(monkeypatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with serve(lambda request: Reply()) as server:
        for host in ("127.0.0.1", "0.0.0.0", "localhost"):
            (said,) = asked(endpoint(server.url.replace("127.0.0.1", host)))
            assert said.text == " A", said.failure


def test_a_proxy_is_asked_for_others(monkeypatch) -> None:
    with serve(lambda request: Reply(" P")) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", "")
        (said,) = asked(endpoint("http://models.example/v1"))
    assert said.text == " P" and proxy.headers[0]["host"] == "models.example"


def test_a_password_in_the_url_is_used_and_never_shown(caplog) -> None:
    with caplog.at_level(logging.DEBUG), serve(lambda r: Reply(status=400, raw=quoted(r))) as bad:
        (failed,) = asked(endpoint(bad.url.replace("http://", "http://me:p%40ss-word@")))
    assert bad.headers[0]["authorization"] == "Basic bWU6cEBzcy13b3Jk"  # me:p@ss-word
    for shown in (failed.failure, caplog.text):
        assert not re.search("p@ss-word|p%40ss-word|bWU6cEBzcy13b3Jk", shown)
    assert failed.failure.startswith("http://127.0.0.1:")


def quoted(request: Request) -> bytes:
    said = "no: Basic bWU6cEBzcy13b3Jk is me:p@ss-word, http://me:p%40ss-word@here/"
    return json.dumps({"error": {"message": said}}).encode()


def test_a_key_with_a_line_end_is_sent_without_it(monkeypatch) -> None:
    monkeypatch.setenv("CAPRL_TEST_KEY", f" {KEY}\n")
    with serve(lambda request: Reply()) as server:
        (said,) = asked(endpoint(server.url, api_key_env="CAPRL_TEST_KEY"))
    assert said.text == " A" and server.headers[0]["authorization"] == f"Bearer {KEY}"
