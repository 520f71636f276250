"""Long jobs: every entry once, whatever dies, changes or fills up. The servers are real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from caprl_native.config.cli import ConfigError
from caprl_native.config.media import MediaConfig
from caprl_native.config.models import ModelConfig
from caprl_native.data.fields import DataError
from caprl_native.data.listing import Entry
from caprl_native.inference.endpoint_model import EndpointModel
from caprl_native.inference.jobs.chunk import JobResult
from caprl_native.inference.jobs.ledger import Ledger, entry_key, read_manifest
from caprl_native.inference.jobs.runner import MOST_LOST, Ended, run_job
from caprl_native.inference.jobs.status import describe
from caprl_native.inference.jobs.task import Outcome, Task
from caprl_native.inference.models import Model, Request
from caprl_native.inference.store import Reply
from caprl_native.testing.chat_server import ChatServer, serve
from caprl_native.testing.chat_server import Reply as Served
from caprl_native.types import MediaRef
from tests.ranks import ROOT

SIZE = 8


class Echo(Task):
    """Asks what an entry says, as often as its column `times`; equal texts once."""

    def __init__(self, share: bool = False) -> None:
        self.share, self.asked = share, 0

    @property
    def identity(self) -> list[Any]:
        return ["echo", self.share]

    def content(self, entry: Entry) -> str:
        return str(entry.columns["text"]) if self.share else ""

    def requests(self, entry: Entry) -> Sequence[Request]:
        return [self._request(entry, i) for i in range(entry.columns.get("times", 1))]

    def _request(self, entry: Entry, number: int) -> Request:
        self.asked += 1
        return Request(
            (str(number),), ({"role": "user", "content": entry.columns["text"]},), number
        )

    def finish(self, entry: Entry, replies: Mapping[str, Reply]) -> Outcome:
        if failure := next((r.failure for r in replies.values() if r.failure), ""):
            return Outcome(failure=failure)
        texts = [replies[key].text for key in sorted(replies)]
        if texts and texts[-1] == "more":
            return Outcome(again=[self._request(entry, len(replies))])
        return Outcome({"said": texts}, counts={"replies": len(texts)})


def entries(texts: Sequence[str], **columns: Any) -> list[Entry]:
    return [
        Entry(f"e{i}", columns={"text": text, **columns}, source=f"list:{i + 1}")
        for i, text in enumerate(texts)
    ]


def echo(request: Mapping[str, Any]) -> Served:
    return Served(text=f"said {request['messages'][-1]['content']}")


@contextmanager
def model_at(answer: Callable[[Any], Served]) -> Iterator[tuple[Callable[[], Model], ChatServer]]:
    with serve(answer) as server:
        config = ModelConfig(endpoint=server.url, model="m", concurrency=4, retries=0)
        yield lambda: EndpointModel(config, MediaConfig()), server


def run(
    folder: Path,
    task: Task,
    given: Sequence[Entry],
    answer: Callable[[Any], Served],
    **options: Any,
) -> tuple[Ended, list[JobResult], ChatServer]:
    with (
        model_at(answer) as (model, server),
        closing(Ledger(folder, task.identity, SIZE)) as ledger,
    ):
        ended = run_job(task, given, model, ledger, progress=False, **options)
        return ended, list(ledger.results()), server


def never(request: Any) -> Served:
    raise AssertionError(f"nothing should be asked: {request}")


def test_every_entry_has_a_result_in_the_inputs_order(tmp_path: Path) -> None:
    given = entries([f"t{i}" for i in range(2 * SIZE + 3)])
    ended, results, _ = run(tmp_path, Echo(), given, echo)
    assert ended == Ended("finished")
    assert [r.entry for r in results] == given
    assert [r.record for r in results] == [{"said": [f"said t{i}"]} for i in range(len(given))]
    again, results, _ = run(tmp_path, Echo(), given, never)
    assert again.state == "finished" and len(results) == len(given)
    assert "19 done, 0 failed, 0 missing" in describe(tmp_path) and "19 replies" in describe(
        tmp_path
    )


def test_an_entry_may_need_several_replies_and_retries(tmp_path: Path) -> None:
    def answer(request: Any) -> Served:
        return Served(text="more" if request["seed"] < 3 else "enough")

    ended, results, server = run(tmp_path, Echo(), entries(["a"] * 3, times=2), answer)
    assert ended.state == "finished" and len(server.requests) == 3 * 4
    assert [r.record for r in results] == [{"said": ["more", "more", "more", "enough"]}] * 3


def test_bad_lines_and_refused_requests_fail_with_their_reason_and_may_be_retried(
    tmp_path: Path,
) -> None:
    given = entries([f"t{i}" for i in range(SIZE + 2)])
    given[2] = replace(given[2], problem="list:3: no JSON")

    def refuse(request: Any) -> Served:
        return Served(status=400) if request["messages"][-1]["content"] == "t5" else echo(request)

    ended, results, _ = run(tmp_path, Echo(), given, refuse)
    assert ended.state == "finished"
    assert [i for i, r in enumerate(results) if r.failure] == [2, 5]
    assert results[2].failure == "list:3: no JSON" and results[5].failure.startswith("refused: ")
    *_, server = run(tmp_path, Echo(), given, echo)
    assert not server.requests
    _, results, server = run(tmp_path, Echo(), given, echo, retry_failed=True)
    assert len(server.requests) == 1 and [i for i, r in enumerate(results) if r.failure] == [2]
    assert "failed, 1: no JSON" in describe(tmp_path)


def test_what_the_server_does_not_answer_is_missing_and_left_to_the_next_run(
    tmp_path: Path,
) -> None:
    given = entries([f"t{i}" for i in range(3 * SIZE)])

    def busy(request: Any) -> Served:
        odd = int(request["messages"][-1]["content"][1:]) % 2
        return Served(status=429) if odd else echo(request)

    ended, results, _ = run(tmp_path, Echo(), given, busy)
    assert ended == Ended("incomplete", missing=12) and not results
    ended, results, server = run(tmp_path, Echo(), given, echo)
    assert ended.state == "finished" and len(server.requests) == 12
    assert [r.entry.id for r in results] == [e.id for e in given]


def test_a_lost_endpoint_ends_the_job_and_nothing_is_noted_as_failed(tmp_path: Path) -> None:
    given = entries([f"t{i}" for i in range(3 * MOST_LOST)])
    ended, _, _ = run(tmp_path, Echo(), given, lambda request: Served(status=503))
    assert ended.state == "gave up" and "503" in ended.lost
    ended, results, _ = run(tmp_path, Echo(), given, echo)
    assert ended.state == "finished" and not any(r.failure for r in results)


def test_equal_contents_are_asked_about_once(tmp_path: Path) -> None:
    texts = ["a", "b", "a"] + ["c"] * SIZE + ["a", "b"]
    given = entries(texts)
    ended, results, server = run(tmp_path, Echo(share=True), given, echo)
    assert ended.state == "finished" and len(server.requests) == 3
    assert [r.entry for r in results] == given
    assert [r.record for r in results] == [{"said": [f"said {text}"]} for text in texts]


def test_a_changed_input_keeps_what_it_still_holds(tmp_path: Path) -> None:
    texts = [f"t{i}" for i in range(3 * SIZE + 1)]
    given = entries(texts)
    run(tmp_path, Echo(), given, echo)
    changed = [*given[: SIZE + 2], Entry("new", columns={"text": "new"}), *given[SIZE + 2 : -2]]
    ended, results, server = run(tmp_path, Echo(), changed, echo)
    assert ended.state == "finished" and len(server.requests) == 1
    assert [r.entry for r in results] == changed
    assert [r.record for r in results] == [{"said": [f"said {e.columns['text']}"]} for e in changed]
    ended, results, server = run(tmp_path, Echo(), given[:3], echo)  # shorter: one chunk, redone
    assert not server.requests and [r.entry for r in results] == given[:3]


def test_a_chunk_of_large_embedded_media_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caprl_native.inference.jobs.runner.MOST_HELD", 2500)
    given = [
        replace(entry, media=(MediaRef("image", data=bytes(1000), label="x"),))
        for entry in entries(["a", "b", "a", "d", "e"])
    ]
    ended, results, server = run(tmp_path, Echo(share=True), given, echo)
    assert ended.state == "finished" and len(server.requests) == 4
    closed = sorted(read_manifest(tmp_path), key=lambda closed: closed.chunk)
    assert [c.entries for c in closed] == [3, 2]  # which is complete first is chance
    assert [r.entry.id for r in results] == [e.id for e in given]
    assert all(r.entry.media[0].data is None and r.record for r in results)


def test_a_changed_file_is_another_entry(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"one")
    entry = Entry("a", (MediaRef("image", str(file)),))
    before = entry_key(entry)
    assert entry_key(entry) == before
    file.write_bytes(b"other")
    assert entry_key(entry) != before


def test_other_settings_are_refused(tmp_path: Path) -> None:
    run(tmp_path, Echo(), entries(["a"]), echo)
    with pytest.raises(ConfigError, match=r"job.json: was begun with other settings \(False then"):
        run(tmp_path, Echo(share=True), entries(["a"]), echo)


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        closing(Ledger(tmp_path, [], SIZE)),
        pytest.raises(ConfigError, match="another process works in"),
    ):
        Ledger(tmp_path, [], SIZE)


def test_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    run(tmp_path, Echo(), entries(["a"]), echo)
    chunk = tmp_path / "chunks/000/00000000.jsonl"
    chunk.write_bytes(chunk.read_bytes().replace(b"said a", b"said b"))
    with (
        closing(Ledger(tmp_path, Echo().identity, SIZE)) as ledger,
        pytest.raises(DataError, match="00000000.jsonl: is not as it was written"),
    ):
        list(ledger.results())


def test_a_task_that_cannot_deal_with_an_entry_fails_that_entry(tmp_path: Path) -> None:
    given = [*entries(["a", "b"]), Entry("odd")]
    ended, results, _ = run(tmp_path, Echo(), given, echo)
    assert ended.state == "finished" and results[2].failure == "task: KeyError: 'text'"


PROGRAM = """
import sys
from contextlib import closing
from pathlib import Path
from tests.inference.test_jobs import Echo, EndpointModel, Ledger, MediaConfig, ModelConfig
from tests.inference.test_jobs import entries, run_job, SIZE
folder, url, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
model = lambda: EndpointModel(ModelConfig(endpoint=url, model="m", concurrency=4), MediaConfig())
with closing(Ledger(folder, Echo().identity, SIZE)) as ledger:
    ended = run_job(Echo(), entries([f"t{i}" for i in range(count)]), model, ledger, progress=False)
print(ended.state)
"""


def start(folder: Path, url: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(folder), url, str(count)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


def slowly(request: Any) -> Served:
    return replace(echo(request), after_s=0.02)


def asked(server: ChatServer) -> list[str]:
    return [request["messages"][-1]["content"] for request in server.requests]


def wait_for(server: ChatServer, count: int) -> None:
    while len(server.requests) < count:
        time.sleep(0.01)


def test_killed_at_any_moment_it_goes_on_and_asks_again_for_what_was_in_flight(
    tmp_path: Path,
) -> None:
    with serve(slowly) as server:
        for reached in (11, 30, 47):
            process = start(tmp_path, server.url, 60)
            wait_for(server, reached)
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert "was killed" in describe(tmp_path)
        process = start(tmp_path, server.url, 60)
        out, err = process.communicate(timeout=60)
    assert out.strip() == "finished", err
    twice = len(asked(server)) - 60
    assert set(asked(server)) == {f"t{i}" for i in range(60)} and twice <= 3 * 2 * 4
    with closing(Ledger(tmp_path, Echo().identity, SIZE)) as ledger:
        assert [r.record for r in ledger.results()] == [{"said": [f"said t{i}"]} for i in range(60)]
    assert [c.entries for c in read_manifest(tmp_path)].count(SIZE) == 60 // SIZE


def test_one_signal_ends_it_when_what_is_in_flight_is_done(tmp_path: Path) -> None:
    with serve(slowly) as server:
        process = start(tmp_path, server.url, 100)
        wait_for(server, 20)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert out.strip() == "interrupted" and "SIGINT" in err
        before = len(asked(server))
        assert before < 100
        out, _ = start(tmp_path, server.url, 100).communicate(timeout=60)
    assert out.strip() == "finished" and sorted(asked(server)) == sorted(
        f"t{i}" for i in range(100)
    )


def test_a_line_that_was_cut_short_is_made_again(tmp_path: Path) -> None:
    def busy(request: Any) -> Served:
        return Served(status=429) if request["messages"][-1]["content"] == "t3" else echo(request)

    given = entries([f"t{i}" for i in range(SIZE)])
    run(tmp_path, Echo(), given, busy)
    (file,) = (tmp_path / "open").glob("*.jsonl")
    os.truncate(file, file.stat().st_size - 5)
    lost = json.loads(file.read_bytes().splitlines()[-2])  # the last one that is whole
    _, results, server = run(tmp_path, Echo(), given, echo)
    assert len(server.requests) == 2 and lost["entry"]["columns"]["text"] not in asked(server)
    assert [r.entry for r in results] == given


def test_a_long_input_is_neither_read_ahead_nor_held(tmp_path: Path) -> None:
    read = 0

    def endless() -> Iterator[Entry]:
        nonlocal read
        while True:
            read += 1
            yield Entry(f"e{read}", columns={"text": "t"})

    with model_at(echo) as (model, server), closing(Ledger(tmp_path, ["echo"], SIZE)) as ledger:

        class Stops(Echo):
            def finish(self, entry: Entry, replies: Mapping[str, Reply]) -> Outcome:
                if entry.id == "e50":
                    signal.raise_signal(signal.SIGTERM)
                return super().finish(entry, replies)

        ended = run_job(Stops(), endless(), model, ledger, progress=False)
        assert ended.state == "interrupted" and read <= 50 + 2 * SIZE
        assert ledger.totals.done == len(server.requests)


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[Path]:
    """A file system of so many KiB; skips the test where none can be had."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_loses_nothing_that_was_written(tmp_path: Path) -> None:
    given = entries([f"t{i}" * 100 for i in range(30 * SIZE)])
    with small_disk(tmp_path / "disk", 96) as disk:
        with pytest.raises(OSError, match="No space left"):
            run(disk / "job", Echo(), given, echo)
        subprocess.run(
            ["mount", "-o", "remount,size=4m", str(disk)], check=True, capture_output=True
        )
        ended, results, server = run(disk / "job", Echo(), given, echo)
        assert ended.state == "finished" and [r.entry for r in results] == given
        assert 0 < len(server.requests) < len(given)
