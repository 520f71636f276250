"""The server as a process: protocol, refusals, slow and vanishing clients, signals."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path

import pytest

from caprl_native.testing.reward_server import ROOT, RewardServer, reward_server

RULES = Path(__file__).parent / "rules.py"
TERM = f"""
[reward.terms.accuracy]
type = "custom"
import_path = "{RULES}:words"
timeout_s = 30
"""
PAIR = ["What colour?\n   - A) red\n   - B) blue", "B"]
READER = "[reward.reader]\nendpoint = 'http://127.0.0.1:9/v1'\nmodel = 'm'\n"
TOKEN = "a-token-for-tests-only"


def prompts(*captions: str) -> list:
    return [[caption, [PAIR]] for caption in captions]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    media = folder / "media"
    media.mkdir()
    (media / "clip.mp4").write_bytes(b"x" * 40)
    (media / "leak.mp4").symlink_to("/etc/passwd")
    config = f"""
[server]
media_roots = ["{media}"]
body_s = 1.0
max_body_mib = 1
max_captions = 64
{TERM}
[reward.terms.timestamps]
rule = "release"
weight = 0.2
[reward.terms.judge]
type = "custom"
import_path = "{RULES}:size"
"""
    with reward_server(config, folder) as running:
        yield running


# --- the protocol -----------------------------------------------------------------------------


def test_a_client_of_the_reference_alone_is_served(server):
    """What the reference's client sends, and all that it reads of the reply."""
    body = {"prompts": prompts("w10 [00:01]", "w20"), "query": [], "labels": []}
    status, reply = server.post(body)
    assert status == 200
    assert reply["qa_rewards"] == [0.1, 0.2]
    assert reply["format_rewards"] == [1.0, 0.0]
    assert reply["rewards"] == pytest.approx([0.3, 0.2])
    assert server.post({"prompts": [], "query": [], "labels": []}) == (200, {"rewards": []})


def test_a_caption_without_a_score_is_null_with_a_reason_and_strict_is_an_error(server):
    body = {"prompts": prompts("w10", "none"), "tasks": ["image", "image"]}
    status, reply = server.post(body)
    assert (status, reply["rewards"], reply["qa_rewards"]) == (200, [0.1, None], [0.1, None])
    assert "returned None" in reply["failures"]["1"] and "format_rewards" not in reply
    status, reply = server.post(body | {"strict": True})
    assert status == 502 and "rewards" not in reply and "1 caption(s)" in reply["error"]


def test_questions_without_choices_are_no_reason_for_a_zero(server):
    status, reply = server.post({"prompts": [["w10", [["Is it red?", "A"]]]]})
    assert (status, reply["rewards"], reply["unshuffled"]) == (200, [None], 1)
    assert "the term asks no reader" in reply["failures"]["0"]


def test_a_judge_gets_files_of_the_roots_alone(server):
    def judged(*paths: str):
        samples = [{"caption": "x", "video_path": path} for path in paths]
        return server.post({"score_mode": "vl_judge", "samples": samples})

    assert judged("clip.mp4") == (200, {"rewards": [0.4], "judge_rewards": [0.4]})
    status, reply = judged("clip.mp4", "nothing.mp4")
    assert (status, reply["judge_rewards"]) == (200, [0.4, None])
    assert reply["failures"] == {"1": "no such file under the server's media roots"}
    for path in ("../x", "/etc/passwd", "leak.mp4", "http://127.0.0.1/x"):
        status, reply = judged("clip.mp4", path)
        assert status == 400 and reply["error"].startswith("samples[1].video_path: ")


def test_health_metrics_and_description(server):
    status, text = server.get("/health")
    assert status == 200
    assert json.loads(text) == {
        "ready": True,
        "model": "",
        "mode": "qa",
        "in_flight": 0,
        "protocol": 1,
    }
    assert "caprl_workers 1\n" in server.get("/metrics")[1]
    described = json.loads(server.get("/openapi.json")[1])
    body = described["paths"]["/get_reward"]["post"]["requestBody"]
    names = {ref["$ref"].split("/")[-1] for ref in _refs(described)}
    assert body and names <= described["components"]["schemas"].keys()
    assert server.get("/nothing")[0] == 404 and server.get("/get_reward")[0] == 405


def _refs(value):
    if isinstance(value, dict):
        if "$ref" in value:
            yield value
        value = list(value.values())
    for part in value if isinstance(value, list) else []:
        yield from _refs(part)


# --- what is refused --------------------------------------------------------------------------


def test_bodies_that_are_refused(server):
    whole = json.dumps({"prompts": prompts("w1")}).encode()
    assert server.post(whole)[0] == 200
    for body, status in (
        (b"", 400),
        (b"[" * 100_000, 400),
        (whole[:-3], 400),
        (b'{"prompts": [], "seed": NaN}', 400),
        (b'{"prompts": [], "seed": ' + b"9" * 10_000 + b"}", 400),
        (b'{"prompts": [], "prompts": []}', 400),
        (json.dumps({"prompts": prompts(*["w1"] * 65)}).encode(), 400),
        (b'{"prompts": "' + b"x" * (1 << 20) + b'"}', 413),
    ):
        found, reply = server.post(body)
        assert found == status and reply["error"], body[:50]
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        assert server.post(whole, Content_Type=kind)[0] == 415
    assert server.post(whole, Content_Encoding="gzip")[0] == 415
    assert server.post(whole, Content_Type="application/json; charset=utf-8")[0] == 200
    assert server.get("/health")[0] == 200


def test_slow_clients_are_sent_away(server):
    head = b"POST /get_reward HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as slow:
        slow.sendall(head + b"Content-Length: 100\r\n\r\n{")
        began = time.monotonic()
        assert b" 408 " in slow.recv(4096).split(b"\r\n")[0]
        assert 0.5 < time.monotonic() - began < 5
    assert server.post({"prompts": prompts("w3")})[1]["rewards"] == [0.03]


@pytest.mark.parametrize("body", ["", "Transfer-Encoding: chunked\r\n\r\n0\r\n"])
def test_headers_without_end_are_not_held(server, body):
    """Before a body and, as trailers, behind it; the parser keeps all of them."""
    head = "POST /get_reward HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    lines = b"".join(b"X-%d: %s\r\n" % (i, b"x" * 1000) for i in range(64))
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as endless:
        endless.sendall((head + body).encode())
        with pytest.raises(ConnectionError):
            for _ in range(500):  # 32 MB, with room for what sockets hold
                endless.sendall(lines)
    assert server.post({"prompts": prompts("w3")})[1]["rewards"] == [0.03]


def test_a_client_that_hangs_up_takes_its_captions_with_it(server):
    body = json.dumps({"prompts": prompts(*["slow"] * 32)}).encode()
    head = b"POST /get_reward HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as leaving:
        leaving.sendall(head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        _until(lambda: _in_flight(server) == 32)
    _until(lambda: _in_flight(server) == 0)
    assert server.post({"prompts": prompts("w3")})[1]["rewards"] == [0.03]


def _in_flight(server: RewardServer) -> int:
    return json.loads(server.get("/health")[1])["in_flight"]


def _until(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_deadline_leaves_captions_missing(server):
    status, reply = server.post({"prompts": prompts("slow"), "deadline_s": 0.2})
    assert status == 200 and reply["rewards"] == [None]
    assert reply["failures"]["0"] == "no score within 0.2 s"


def test_two_clients_at_once_get_their_own_answers(server):
    def ask(number: int) -> None:
        captions = [f"w{number}", f"w{number + 1}"]
        answers[number] = server.post({"prompts": prompts(*captions)})[1]["qa_rewards"]

    answers: dict[int, list[float]] = {}
    threads = [threading.Thread(target=ask, args=(i,)) for i in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {i: [i / 100, (i + 1) / 100] for i in range(40)}


# --- token, load, end -------------------------------------------------------------------------


def test_a_token_is_needed_and_never_shown_and_load_is_turned_away(tmp_path):
    (tmp_path / "token").write_text(TOKEN + "\n")
    config = f"""
[server]
token_file = "{tmp_path}/token"
max_waiting = 2
max_captions = 2
drain_s = 20
{TERM}"""
    with reward_server(config, tmp_path) as server:
        body = {"prompts": prompts("w1")}
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": TOKEN}):
            assert server.post(body, **headers)[0] == 401
        assert server.get("/metrics")[0] == 401 and server.get("/openapi.json")[0] == 401
        key = {"Authorization": f"Bearer {TOKEN}"}
        assert server.post(body, **key) == (200, {"rewards": [0.01], "qa_rewards": [0.01]})

        slow: list = []
        asking = threading.Thread(
            target=lambda: slow.append(server.post({"prompts": prompts("slow", "slow")}, **key))
        )
        asking.start()
        _until(lambda: _in_flight(server) == 2)
        status, reply = server.post(body, **key)
        assert status == 429 and reply == {"error": "too many captions are waiting"}
        assert server.stop() == 0  # what is in flight is finished first
        asking.join()
        assert slow == [(200, {"rewards": [0.5, 0.5], "qa_rewards": [0.5, 0.5]})]
        assert server.post(body, **key)[0] == 0
        assert TOKEN not in server.log.read_text()


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ("[server]\ntoken_env = 'CAPRL_NO_SUCH_TOKEN'\n" + TERM, "server.token_env"),
        ("[server]\ntoken_file = '/no/such/file'\n" + TERM, "server.token_file"),
        ("[server]\nmedia_roots = ['/no/such/folder']\n" + TERM, "server.media_roots"),
        ("[server]\nmode = 'vl_judge'\n" + TERM, "server.mode"),
        ("[server]\nmax_waiting = 10\n" + TERM, "server.max_captions"),
        ("[reward.terms.length]\n" + TERM, "reward.terms.length"),
        ("[server]\nhost = '192.0.2.1'\n" + TERM, "server.port: cannot listen"),
        ("", "reward.reader.path"),
        ("[reward.terms.timestamps]\n" + TERM, "reward.terms.timestamps.rule"),
        ("[reward.terms.accuracy]\nquestions = 'own'\n" + READER, "reward.terms.accuracy.draws"),
        ("[reward.held_out_reader]\npath = '/m'\n" + TERM, "reward.held_out_reader.path"),
        ("[[reward.readers]]\n" + READER, "reward.readers.0.path"),
        ("[reward.reader]\nendpoint = 'http://127.0.0.1:9/v1'\n", "reward.reader.model"),
        (READER + "api_key_env = 'CAPRL_NO_SUCH_KEY'\n", "reward.reader.api_key_env"),
        ("[reward.reader]\npath = '/no/such/model'\n", "reward.reader.path"),
        ("[reward.terms.judge]\n" + TERM, "reward.terms.judge.path"),
    ],
)
def test_settings_that_cannot_be_meant_end_it_at_once(config, error, tmp_path, capsys):
    from caprl_native.rewards.service.server import main

    file = tmp_path / "server.toml"
    file.write_text(config)
    with pytest.raises(SystemExit) as end:
        main(["--config", str(file)])
    assert end.value.code == 2
    assert error in capsys.readouterr().err


def test_large_bodies_that_arrive_slowly_are_not_held_without_end(server):
    head = b"POST /get_reward HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: 1000000\r\n\r\n"
    slow = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(6)]
    for connection in slow:
        connection.sendall(head + b"[" * 900_000)
    statuses = [connection.recv(4096).split()[1] for connection in slow]
    assert statuses.count(b"503") == 2 and statuses.count(b"408") == 4
    for connection in slow:
        connection.close()
    assert server.post({"prompts": prompts("w3")})[1]["rewards"] == [0.03]


def test_the_example_is_a_config_that_starts(capsys):
    from caprl_native.rewards.service.server import main

    assert main(["--config", str(ROOT / "examples/reward_server.toml"), "--dry-run"]) == 0
    assert 'path = "demo_models/reader"' in capsys.readouterr().out
