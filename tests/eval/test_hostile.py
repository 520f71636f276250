"""Evaluations of data and stores that are damaged or hostile, and what they write for others."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from caprl_native.config.media import MediaConfig
from caprl_native.config.models import CaptionerConfig
from caprl_native.inference.endpoint_model import EndpointModel
from caprl_native.inference.models import Request as Asked
from caprl_native.testing.chat_server import ChatServer, Reply, Request, serve
from caprl_native.types import MediaRef
from eval.benchmarks import benchmarks
from eval.benchmarks.base import Files
from eval.items import Broken, Item
from eval.plan import media_identity
from eval.prism import INCOMPLETE, main
from tests.eval.test_prism import flags, items
from tests.eval.worlds import answer, write_world

SECRETS = ("hunter2-pass", "sk-very-secret-321", "aHVudGVy")


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    with serve(answer) as running:
        yield running


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return write_world(tmp_path, images=3, videos=1)


# --- paths ------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """A media root with an image, a link out of it, and a secret beside it."""
    root = tmp_path / "data" / "media"
    root.mkdir(parents=True)
    for file in (root / "a.png", tmp_path / "secret.png"):
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(file)
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (root / "link").symlink_to(tmp_path / "far" / "deep")
    shutil.copy(tmp_path / "secret.png", tmp_path / "far" / "deep" / "b.png")
    shutil.copy(tmp_path / "secret.png", tmp_path / "far" / "c.png")
    return root


def named(root: Path, *paths: str, benchmark: str = "mmstar", **settings) -> list[Item | Broken]:
    """What a benchmark makes of records with these media."""
    prompt = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>q? A. x B. y<|im_end|>"
    question = {"question": "q?", "choices": ["x", "y"], "answer": "A"}
    records = {
        "mmstar": [{"image": p, "prompt": prompt, "answer": "A"} for p in paths],
        "qa": [{"image": p, "questions": [question]} for p in paths],
        "videomme": [{"videoID": p, "question": "q", "options": ["x", "y"], "answer": "A"}
                     for p in paths],
    }[benchmark]  # fmt: skip
    file = root.parent / "list.json"
    file.write_text(json.dumps(records))
    return list(benchmarks()[benchmark].read(Files((file,), root, **settings)))


@pytest.mark.parametrize("benchmark", ["mmstar", "qa"])
def test_media_outside_of_the_root_are_refused_unless_allowed(benchmark: str, places: Path) -> None:
    secret = places.parents[1] / "secret.png"
    inside = ["a.png", "./a.png", "link/b.png", str(places / "a.png"), "x/../a.png"]
    outside = [str(secret), "../../secret.png", "link/../c.png", "a.png/../../../secret.png",
               f"file://{secret}", "/etc/passwd", ".."]  # fmt: skip
    for found in named(places, *inside, benchmark=benchmark):
        assert isinstance(found, Item), found
    for found in named(places, *outside, benchmark=benchmark):
        assert isinstance(found, Broken) and "--allow-outside" in found.reason, found
    allowed = named(places, *outside, benchmark=benchmark, allow_outside=True)
    assert all(isinstance(found, Item) for found in allowed)
    assert os.path.samefile(allowed[0].media[0].path, secret)


def test_ids_that_make_paths_are_looked_at_too(places: Path) -> None:
    (found,) = named(places, "../../secret", benchmark="videomme", subtitles=places)
    assert isinstance(found, Broken) and "--allow-outside" in found.reason


def test_without_a_root_the_folder_above_is_one(places: Path) -> None:
    (places / "json").mkdir()
    file = places / "json" / "list.json"
    question = {"question": "q?", "choices": ["x", "y"], "answer": "A"}
    paths = ["../a.png", "../../list.json"]
    file.write_text(json.dumps([{"image": p, "questions": [question]} for p in paths]))
    near, far = benchmarks()["qa"].read(Files((file,), None))
    assert isinstance(near, Item) and isinstance(far, Broken)


def test_the_switch(world: Path, server: ChatServer, tmp_path: Path, capsys) -> None:
    (tmp_path / "elsewhere").mkdir()
    root = f"--benchmarks.qa.media_root={tmp_path / 'elsewhere'}"
    rows = [json.loads(line) for line in world.read_text().splitlines()]
    for row in rows:
        row.update({k: str(tmp_path / row[k]) for k in ("image", "video") if k in row})
    world.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SystemExit):
        main([*flags(world, server.url, tmp_path / "run"), root])
    assert "no items" in (said := capsys.readouterr().err) and "--allow-outside" in said
    assert main([*flags(world, server.url, tmp_path / "run"), root, "--allow-outside"]) == 0


# --- odd records and media --------------------------------------------------------------------


def test_whatever_a_sample_raises_it_is_one_failure(server: ChatServer, tmp_path: Path) -> None:
    """More places than media: a StopIteration, which no future and no generator takes."""
    write_world(tmp_path, images=1, videos=0)
    image = MediaRef("image", str(tmp_path / "image0.png"))

    def asked(name: str, places: int) -> Asked:
        content = [{"type": "image"}] * places + [{"type": "text", "text": name}]
        return Asked((f"{name}-0", f"{name}-1"), ({"role": "user", "content": content},), 0, name,
                     (image,))  # fmt: skip

    config = CaptionerConfig(endpoint=server.url, model="m", concurrency=2)
    requests = [asked(f"r{i}", 2 if i == 3 else 1) for i in range(10)]
    found = {r.key: r.reply for r in EndpointModel(config, MediaConfig()).complete(requests)}
    assert len(found) == 20
    for key, reply in found.items():
        if key.startswith("r3"):
            assert reply.text is None and reply.failure == "prompt: StopIteration: "
        else:
            assert reply.text and not reply.failure


def test_what_is_no_file_has_an_identity_too(tmp_path: Path) -> None:
    """A pipe is not waited for; decoding says what is wrong with it."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "frames").mkdir()
    os.mkfifo(tmp_path / "frames" / "0.png")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    found = []
    names = ("pipe.png", "frames", "deep", "nowhere.png", "a\0b", "x" * 5000)

    def look() -> None:
        found.extend(media_identity(MediaRef("video", str(tmp_path / name))) for name in names)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(20)
    assert [one[-1] for one in found] == [str(tmp_path / name) for name in names]


def test_a_folder_of_frames_is_sent_as_frames(server: ChatServer, tmp_path: Path) -> None:
    for i in range(3):
        Image.fromarray(np.full((64, 64, 3), i, np.uint8)).save(tmp_path / f"{i:03d}.png")
    asked = Asked(("k",), ({"role": "user", "content": [{"type": "video"}]},), 0, "frames",
                  (MediaRef("video", str(tmp_path), fps=2.0),))  # fmt: skip
    config = CaptionerConfig(endpoint=server.url, model="m", video_as="file")
    (found,) = EndpointModel(config, MediaConfig()).complete([asked])
    assert found.reply.text, found.reply


# --- stores -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("store", "line"),
    [
        ("captions.jsonl", b'{"key": "a", "tex\xff'),
        ("captions.jsonl", b"[" * 100_000),
        ("answers.jsonl", b"[]"),
        ("answers.jsonl", b'{"key": "a"}'),
        ("answers.jsonl", b'{"key": "a", "text": 3}'),
        ("judgements.jsonl", b'{"key": "a", "text": "b", "colour": "red"}'),
        ("pictures.jsonl", b'{"key": "a", "pictures": [{"url": ""}]}'),
        ("pictures.jsonl", b"\0\0\0\0"),
    ],
)
def test_a_damaged_line_names_its_file(
    store: str, line: bytes, world: Path, server: ChatServer, tmp_path: Path, capsys
) -> None:
    words = flags(world, server.url, tmp_path / "run", "--limit", "1")
    (tmp_path / "run").mkdir()
    good = {"captions": b'{"key": "x", "text": "y"}', "pictures": b'{"key": "x", "pictures": []}'}
    first = good.get(store.partition(".")[0], good["captions"])
    (tmp_path / "run" / store).write_bytes(first + b"\n" + line + b"\n" + first + b"\n")
    with pytest.raises(SystemExit) as error:
        main(words)
    said = capsys.readouterr().err
    assert error.value.code == 2 and f"{store}:2: a damaged line" in said and len(said) < 600
    assert (tmp_path / "run" / store).read_bytes().count(b"\n") == 3  # nothing was thrown away


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("items.jsonl", b'{"benchmark": "qa"\n', "items.jsonl:1: a damaged line"),
        ("items.jsonl", b'{"benchmark": "qa"}\n', "items.jsonl:1: no item of a run"),
        ("items.jsonl", b"\xff\n", "items.jsonl:1: a damaged line"),
        ("summary.json", b"[]", "no summary of a run"),
        ("summary.json", b"[" * 100_000, "expected the folder of a finished run"),
    ],
)
def test_a_damaged_run_to_compare_with(
    name: str, text: bytes, expected: str, world: Path, server: ChatServer, tmp_path: Path, capsys
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "summary.json").write_text('{"benchmarks": {}}')
    (other / "items.jsonl").write_bytes(b"")
    (other / name).write_bytes(text)
    words = flags(world, server.url, tmp_path / "run", "--limit", "1", "--compare", str(other))
    with pytest.raises(SystemExit) as error:
        main(words)
    assert error.value.code == 2 and expected in capsys.readouterr().err


# --- secrets ----------------------------------------------------------------------------------


def hidden_in(folder: Path) -> None:
    """Fails if a file below this folder holds a secret."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 5
    for file in files:
        for secret in SECRETS:
            assert secret.encode() not in file.read_bytes(), file


def test_no_secret_is_written_or_shown(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog
) -> None:
    """A password in the URL, a key in the wrong field, a server that repeats what it got."""

    def leaky(request: Request) -> Reply:
        if request["seed"] % 2:
            quoted = f"{SECRETS[0]} {SECRETS[1]} Basic {SECRETS[2]} http://u:{SECRETS[0]}@h/"
            return Reply(status=400, raw=json.dumps({"error": {"message": quoted}}).encode())
        return answer(request)

    with serve(leaky) as server:
        url = server.url.replace("http://", f"http://me:{SECRETS[0]}@")
        words = flags(world, url, tmp_path / "run", f"--captioner.revision={SECRETS[1]}")
        assert main([*words, "--dry-run"]) == 0
        assert main(words) == INCOMPLETE
        more = ["--compare", str(tmp_path / "run"), "--reference-layout"]
        assert main([*words, "--out", str(tmp_path / "again"), *more]) == INCOMPLETE
        served = len(server.requests)
        # What a run wrote is no config to start another with: the password is not in it.
        with pytest.raises(SystemExit):
            main(["--config", str(tmp_path / "run" / "config.toml")])
        assert len(server.requests) == served
    assert all(h["authorization"].startswith("Basic ") for h in server.headers)
    hidden_in(tmp_path / "run")
    hidden_in(tmp_path / "again")
    said = capsys.readouterr()
    assert "its password is hidden" in said.err
    assert not any(secret in said.out + said.err + caplog.text for secret in SECRETS)
    # The two captions of a medium have neighbouring seeds, whatever the first one is.
    assert all(any(c["missing"] for c in r["captions"]) for r in items(tmp_path / "run"))


@pytest.mark.parametrize("value", ["sk-proj-abc123def456", "0123456789abcdef", "a b", "ab12cd34ef"])
def test_a_key_for_the_name_of_a_variable_is_refused_unseen(value: str, world, capsys) -> None:
    words = flags(world, "http://127.0.0.1:9/v1", world.parent / "run")
    for dry in ([], ["--dry-run"]):
        with pytest.raises(SystemExit) as error:
            main([*words, f"--reader.api_key_env={value}", *dry])
        said = capsys.readouterr()
        assert error.value.code == 2 and "reader.api_key_env" in said.err
        assert value not in said.out + said.err and "not shown" in said.err
    assert not (world.parent / "run").exists()
