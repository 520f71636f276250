"""Whatever is sent, the server answers with what it means, and never with an error of its own."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caprl_native.rewards.service.protocol import JudgeBody, QaBody
from caprl_native.testing.reward_server import RewardServer, reward_server

RULES = Path(__file__).parent / "rules.py"
ANSWERS = {200, 400, 413, 415, 502}

# --- bodies -----------------------------------------------------------------------------------

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(10**25), 10**25)
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from(["A", "qa", "vl_judge", "w7", "image", "a\n   - A) x\n   - B) y", "../x"])
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
names = st.sampled_from(["caption", "query", *QaBody.model_fields, *JudgeBody.model_fields])
pairs = st.lists(st.text(max_size=20) | st.sampled_from("AB"), min_size=2, max_size=2)
objects = st.fixed_dictionaries(
    {"question": st.text(max_size=9), "choices": st.lists(st.text(max_size=5)), "answer": leaves}
)
prompts = st.lists(
    st.tuples(st.text(max_size=20), st.lists(pairs | objects | values, max_size=3)) | values,
    max_size=4,
)
samples = st.lists(
    st.fixed_dictionaries({"caption": st.text()}, optional={"video_path": st.text() | leaves}),
    max_size=3,
)
bodies: st.SearchStrategy[Any] = st.one_of(
    st.fixed_dictionaries(
        {"prompts": prompts},
        optional={
            "seed": st.integers() | leaves,
            "keys": st.lists(st.text(max_size=5)) | leaves,
            "draws": st.integers(-1, 3) | leaves,
            "strict": st.booleans() | leaves,
            "detail": st.booleans() | leaves,
            "deadline_s": st.floats(0.5, 2) | leaves,
            "tasks": st.lists(st.sampled_from(["image", "video", "x"])) | leaves,
            "query": values,
        },
    ),
    st.fixed_dictionaries({"score_mode": st.just("vl_judge"), "samples": samples}),
    st.dictionaries(names, values, max_size=5),
    values,
)
raw = st.one_of(
    bodies.map(lambda body: json.dumps(body).encode()),
    st.binary(max_size=200),
    bodies.flatmap(
        lambda body: st.builds(
            lambda text, at, piece: text[: at % (len(text) + 1)] + piece + text[at % len(text) :],
            st.just(json.dumps(body)),
            st.integers(0, 10_000),
            st.sampled_from(["", "{", "[[[[", '"', "NaN", "\\ud800", "9" * 400, "1e999", "\0"]),
        )
    ).map(str.encode),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[RewardServer]:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "media").mkdir()
    config = f"""
[server]
media_roots = ["{folder}/media"]
body_s = 2.0
[reward.terms.accuracy]
type = "custom"
import_path = "{RULES}:words"
[reward.terms.timestamps]
rule = "release"
weight = 0.2
[reward.terms.judge]
type = "custom"
import_path = "{RULES}:size"
"""
    with reward_server(config, folder) as running:
        yield running


@pytest.fixture(scope="module")
def connection(server) -> Iterator[http.client.HTTPConnection]:
    connected = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    yield connected
    connected.close()


def send(connection: http.client.HTTPConnection, body: bytes) -> tuple[int, Any]:
    connection.request("POST", "/get_reward", body, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    return reply.status, json.loads(reply.read())


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(body=raw)
def test_any_body_is_answered_or_refused(connection, body):
    status, reply = send(connection, body)
    assert status in ANSWERS, reply
    assert ("rewards" in reply) == (status == 200) and ("error" in reply) == (status != 200)
    if status == 200:
        for i, reward in enumerate(reply["rewards"]):
            assert (reward is None) == (str(i) in reply.get("failures", {}))


@settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(captions=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_every_caption_of_a_well_formed_body_has_a_reward_or_a_reason(connection, captions):
    pair = ["What?\n   - A) red\n   - B) blue", "A"]
    status, reply = send(
        connection, json.dumps({"prompts": [[c, [pair]] for c in captions]}).encode()
    )
    assert status == 200 and len(reply["rewards"]) == len(captions)
    for reward, caption in zip(reply["rewards"], captions, strict=True):
        assert (reward is None) == (caption.split()[:1] == ["none"])


def test_schemathesis_finds_no_error_of_the_servers_own(server):
    """Its own idea of hostile requests, from the server's description of itself."""
    schemathesis = pytest.importorskip("schemathesis")
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
    checked = 0
    for operation in schema.get_all_operations():

        @settings(
            max_examples=60,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.ok().as_strategy())
        def answered(case):
            assert case.call(timeout=30).status_code != 500

        answered()
        checked += 1
    assert checked == 3


def test_it_still_works_afterwards(server):
    pair = ["What?\n   - A) red\n   - B) blue", "A"]
    assert server.post({"prompts": [["w7", [pair]]]})[1]["rewards"] == [0.07]
    assert "internal error" not in server.log.read_text()
