"""Loader processes that are killed: noticed, started again once, and the same batches."""

import logging
import os
import signal
import struct
import threading
import time

import psutil
import pytest

from caprl_native.data.supervise import WorkersDied
from tests.data.test_loader import indices, loader_of, records_of, take


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return records_of(tmp_path_factory.mktemp("data"))


def slow_pid(sample, decoded):
    return os.getpid(), sample.id


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"


def test_a_killed_worker_is_noticed_and_started_again_once(records, caplog):
    wanted = take(loader_of(records), 10)
    loader = loader_of(records, prepare=slow_pid, workers=2)
    first = [next(loader) for _ in range(2)]
    killed = {item.prepared[0] for item in first[0]}
    began = time.monotonic()
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    with caplog.at_level(logging.WARNING):
        batches = first + [next(loader) for _ in range(8)]  # more than was prefetched
    assert [indices(b) for b in batches] == wanted  # as if nothing had happened
    (said,) = [m for m in caplog.messages if "killed by signal 9 (SIGKILL): out of memory?" in m]
    assert f"loader process {killed.pop()} " in said and "started again" in said
    pids = {item.prepared[0] for item in batches[-1]}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkersDied, match="signal 9"):
        for _ in range(12):
            next(loader)
    assert time.monotonic() - began < 20
    assert not any(alive(pid) for pid in pids)
    loader.close()


def test_a_worker_that_dies_while_it_starts(records, caplog):
    """The fork server's next two children are killed as soon as they are there."""
    first = loader_of(records, workers=1)
    next(first)
    server = psutil.Process(first._batches._pumps[0]._workers[0].pid).parent()
    first.close()
    loader, killed = loader_of(records, workers=1), []

    def kill() -> None:
        while len(killed) < 2:
            for child in server.children():
                if child.pid not in killed and child.status() != "zombie":
                    os.kill(child.pid, signal.SIGKILL)
                    killed.append(child.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    with caplog.at_level(logging.WARNING), pytest.raises(WorkersDied, match="out of memory"):
        for _ in range(9):
            next(loader)
    killer.join()
    assert sum("started again (once)" in m for m in caplog.messages) == 1
    loader.close()


def test_half_a_batch_in_the_pipe_does_not_hang(records):
    """What a worker that dies while it sends leaves behind: a message that never ends."""
    loader = loader_of(records, prepare=slow_pid, workers=1)
    batches = [next(loader)]
    (pid,) = {item.prepared[0] for item in batches[0]}
    pipe = loader._batches._pumps[0]._batches._worker_result_queue._writer
    os.kill(pid, signal.SIGSTOP)
    while loader._batches._pumps[0]._batches._worker_result_queue._reader.poll():
        batches.append(next(loader))
    os.write(pipe.fileno(), struct.pack("!i", 1 << 20) + b"half")
    os.kill(pid, signal.SIGKILL)
    batches += [next(loader) for _ in range(3)]
    assert [indices(b) for b in batches] == take(loader_of(records), len(batches))
    loader.close()


def test_workers_go_on_when_the_whole_group_is_told_to_stop(records):
    loader = loader_of(records, prepare=slow_pid, workers=2)
    batches = [next(loader)]
    pids = {item.prepared[0] for item in batches[0]}
    server = psutil.Process(min(pids)).ppid()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT):
        for pid in (*pids, server):
            os.kill(pid, number)
    batches += [next(loader) for _ in range(6)]
    assert [indices(b) for b in batches] == take(loader_of(records), 7)
    assert all(alive(pid) for pid in (*pids, server))
    loader.close()
    assert not any(alive(pid) for pid in pids)
