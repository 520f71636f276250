"""Order, resuming, skipping: the laws of the loader, with real files and real worker processes."""

import json
import logging
import os
import signal
import subprocess
import sys
from functools import partial

import pytest

from caprl_native.config.media import MediaConfig
from caprl_native.config.schema import DataConfig
from caprl_native.data.carried import Entry
from caprl_native.data.loader import (
    LoadedSample,
    SampleSkipped,
    SkipLedger,
    SkippedSample,
    TooManySkipped,
    build_loader,
    epoch_order,
    eval_batches,
)
from caprl_native.data.records import DataError, read_records
from caprl_native.testing.media_files import truncate, write_mp4, write_noise, write_png
from tests.data.segments import write_rows

MEDIA = MediaConfig(image_min_pixels=1)
QUESTIONS = [{"question": "Which?", "choices": ["Red", "Blue"], "answer": "A"}]


def records_of(path, n=23, media=None):
    media = media or {"image": str(write_png(path / "a.png", (8, 8)))}
    lines = [json.dumps({"id": f"r{i}", "questions": QUESTIONS} | media) for i in range(n)]
    (path / "d.jsonl").write_text("\n".join(lines))
    return read_records([str(path / "d.jsonl")])


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return records_of(tmp_path_factory.mktemp("data"))


def loader_of(records, *, shard=0, num_shards=1, seed=1, prepare=None, **config):
    settings = DataConfig(**({"batch_size": 6, "workers": 0} | config))
    return build_loader(
        records, settings, MEDIA, seed=seed, shard=shard, num_shards=num_shards, prepare=prepare
    )


def indices(batch):
    return [item.index for item in batch]


def take(loader, count):
    return [indices(next(loader)) for _ in range(count)]


def whole(shards, count):
    """The batches of several shards' loaders, put together."""
    parts = [take(loader, count) for loader in shards]
    return [sorted(i for part in parts for i in part[k]) for k in range(count)]


def summary(sample, decoded, *, factor=1):
    return sample.id, factor * sum(int(d.image.getpixel((0, 0))[0]) for d in decoded)


def refuse_odd(sample, decoded):
    if int(sample.id[1:]) % 2:
        raise SampleSkipped("prompt of 99 tokens is longer than 9")
    return os.getpid()


def fail(sample, decoded):
    raise ZeroDivisionError("a mistake in the program")


# Order


def test_an_epoch_visits_no_record_twice_and_leaves_out_less_than_a_batch(records):
    loader = loader_of(records)
    assert loader.batches_per_epoch == 3
    for epoch in range(3):
        assert (loader.epoch, loader.batch) == (epoch, 0)
        seen = [i for batch in take(loader, 3) for i in batch]
        assert seen == epoch_order(23, seed=1, epoch=epoch)[:18].tolist()
        assert len(set(seen)) == 18


def test_order_is_a_function_of_seed_and_epoch(records):
    first = take(loader_of(records), 6)
    assert first == take(loader_of(records), 6)
    assert first != take(loader_of(records, seed=2), 6)
    assert first[:3] != first[3:]
    straight = take(loader_of(records, shuffle=False), 6)
    assert straight[0] == list(range(6)) and straight[:3] == straight[3:]


@pytest.mark.parametrize("num_shards", [2, 4, 7])
def test_shards_split_each_batch(records, num_shards):
    shards = [loader_of(records, shard=r, num_shards=num_shards) for r in range(num_shards)]
    assert whole(shards, 5) == [sorted(b) for b in take(loader_of(records), 5)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 4), (4, 1), (2, 2)])
def test_resuming_on_other_shards_sees_the_rest_once(records, before, after, workers):
    if workers and (before, after) != (4, 1):
        before = after = 1  # worker processes are slow to start; one change of shards is enough
    wanted = [sorted(b) for b in take(loader_of(records), 7)]
    shards = [
        loader_of(records, shard=r, num_shards=before, workers=workers) for r in range(before)
    ]
    assert whole(shards, 2) == wanted[:2]
    states = [json.dumps(loader.state_dict()) for loader in shards]
    assert len(set(states)) == 1 and json.loads(states[0])["batch"] == 2  # not what was prefetched
    for loader in shards:
        loader.close()
    resumed = [loader_of(records, shard=r, num_shards=after, workers=workers) for r in range(after)]
    for loader in resumed:
        loader.load_state_dict(json.loads(states[0]))
    assert whole(resumed, 5) == wanted[2:]
    for loader in resumed:
        loader.close()


def test_a_closed_loader_goes_on_where_it_was(records):
    loader = loader_of(records, workers=1)
    batches = take(loader, 2)
    loader.close()
    assert batches + take(loader, 2) == take(loader_of(records), 4)
    loader.close()


@pytest.mark.parametrize(
    ("change", "named"), [({"batch_size": 5}, "batch_size"), ({"seed": 9}, "seed"), ({}, "records")]
)
def test_a_state_of_other_data_is_refused(records, tmp_path, change, named):
    state = loader_of(records).state_dict()
    other = records if change else records_of(tmp_path, 22)
    with pytest.raises(DataError, match=f"{named} was"):
        loader_of(other, **change).load_state_dict(state)


def test_fewer_records_than_a_batch_is_an_error(records):
    with pytest.raises(DataError, match="23 records do not fill one batch of 24.*23 or less"):
        loader_of(records, batch_size=24)


@pytest.mark.parametrize(
    ("limit", "size", "num_shards"), [(0, 6, 1), (0, 6, 4), (7, 3, 2), (99, 5, 3)]
)
def test_evaluation_takes_every_sample_once_in_order(records, limit, size, num_shards):
    config = DataConfig(batch_size=size, workers=0)
    parts = [
        [indices(b) for b in eval_batches(
            records, config, MEDIA, shard=r, num_shards=num_shards, limit=limit
        )]
        for r in range(num_shards)
    ]  # fmt: skip
    assert len({len(part) for part in parts}) == 1
    n = min(limit or 23, 23)
    assert sorted(i for part in parts for b in part for i in b) == list(range(n))
    assert [i for part in zip(*parts, strict=True) for b in part for i in b][
        : num_shards and 1
    ] == [0]
    assert all(b == sorted(b) for part in parts for b in part)


# Worker processes


def test_workers_change_nothing(records):
    prepare = partial(summary, factor=2)
    own = loader_of(records, prepare=prepare)
    theirs = loader_of(records, prepare=prepare, workers=2)
    for _ in range(4):
        assert next(own) == next(theirs)
    theirs.close()


def test_workers_are_other_processes_and_leave_the_global_rng_alone(records):
    import torch

    before = torch.get_rng_state()
    loader = loader_of(records, prepare=refuse_odd, workers=2)
    items = [item for _ in range(3) for item in next(loader)]
    assert os.getpid() not in {item.prepared for item in items if isinstance(item, LoadedSample)}
    assert {item.index % 2 for item in items if isinstance(item, SkippedSample)} == {1}
    assert (torch.get_rng_state() == before).all()
    loader.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_in_the_program_is_not_a_skip(records, workers):
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        next(loader_of(records, prepare=fail, workers=workers))


def stop(sample, decoded):
    return next(iter(()))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_iterator_that_ends_does_not_end_the_data(records, workers):
    """`yield from` takes a StopIteration for the end: two of ten samples were evaluated."""
    config = DataConfig(batch_size=6, workers=workers)
    with pytest.raises(RuntimeError, match=r"d.jsonl: line 1: StopIteration"):
        list(eval_batches(records, config, MEDIA, shard=0, num_shards=1, prepare=stop))


PROGRAM = """
import os, signal, sys, time
import caprl_native
from caprl_native.config.media import MediaConfig
from caprl_native.config.schema import DataConfig
from caprl_native.data.loader import build_loader
from caprl_native.data.records import read_records
print("main module", flush=True)
if __name__ == "__main__":
    records = read_records([sys.argv[1]])
    config = DataConfig(batch_size=3, workers=2)
    loader = build_loader(records, config, MediaConfig(), seed=0, shard=0, num_shards=1)
    next(loader)
    signal.signal(signal.SIGINT, lambda *_: print("interrupted", flush=True))
    os.killpg(0, signal.SIGINT)
    time.sleep(0.5)
    for _ in range(20):
        next(loader)
    print("went on", flush=True)
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_workers_survive_ctrl_c_and_do_not_run_the_main_module(records, tmp_path, end):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py"), records.names[0], end]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    # The output ends only when the last of its processes does: none may be left behind.
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,
        env=environment,
    )
    assert done.stdout.split("\n")[:3] == ["main module", "interrupted", "went on"], done.stderr
    assert done.stdout.count("main module") == 1
    assert done.returncode == (0 if end == "exit" else -signal.SIGKILL), done.stderr
    assert "Traceback" not in done.stderr


# What cannot be used


def damaged(tmp_path):
    """Ten records, five of whose media cannot be used."""
    write_png(tmp_path / "good.png", (8, 8))
    write_mp4(tmp_path / "good.mp4", 6)
    truncate(write_noise(tmp_path / "cut.png"))
    truncate(write_mp4(tmp_path / "cut.mp4"))
    media = [{"image": "good.png"}] * 3 + [{"video": "good.mp4"}] * 2
    media += [{"image": "cut.png"}] * 2 + [{"video": "cut.mp4"}, {"image": "absent.png"}]
    media += [{"images": ["good.png", "cut.png"]}]
    lines = [json.dumps({"questions": QUESTIONS} | m) for m in media]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    return read_records([str(tmp_path / "d.jsonl")])


@pytest.mark.parametrize("workers", [0, 2])
def test_unusable_media_are_skipped_with_their_reason(tmp_path, workers):
    loader = loader_of(damaged(tmp_path), batch_size=10, shuffle=False, workers=workers)
    batch = next(loader)
    loader.close()
    assert [isinstance(item, SkippedSample) for item in batch] == [False] * 5 + [True] * 5
    names = [os.path.basename(item.name) for item in batch[5:]]
    assert names == ["cut.png", "cut.png", "cut.mp4", "absent.png", "cut.png"]
    assert all(item.reason for item in batch[5:])


@pytest.mark.parametrize("workers", [0, 1])
def test_media_that_would_never_end_are_skipped(tmp_path, workers):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{ } loop\n")
    write_png(tmp_path / "good.png", (8, 8))
    media = [
        {"image": "pipe.png"},
        {"video": "pipe.png"},
        {"image": "a.png"},
        {"image": "good.png"},
    ]
    lines = [json.dumps({"questions": QUESTIONS} | m) for m in media]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    records = read_records([str(tmp_path / "d.jsonl")])
    loader = loader_of(records, batch_size=4, shuffle=False, workers=workers)
    pipe, clip, postscript, good = next(loader)
    loader.close()
    assert pipe.reason == clip.reason == "is a pipe, not a file"
    assert "cannot identify an image" in postscript.reason and isinstance(good, LoadedSample)


def test_embedded_bytes_do_not_travel(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = write_noise(tmp_path / "a.png").read_bytes()
    cut = data[: len(data) // 2]
    rows = [{"image": {"bytes": d, "path": "a.png"}, "questions": QUESTIONS} for d in (data, cut)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    records = read_records([str(tmp_path / "d.parquet")])
    good, bad = next(loader_of(records, batch_size=2, shuffle=False, workers=1))
    assert good.sample.media[0].data is None and "d.parquet:1#image" in good.sample.media[0].name
    assert good.prepared[0].image.size == (64, 48)
    assert isinstance(bad, SkippedSample) and "d.parquet:2#image" in bad.name


def test_the_ledger_says_each_file_once_and_counts_all(tmp_path, caplog):
    loader = loader_of(damaged(tmp_path), batch_size=10)
    ledger = SkipLedger(0.5)
    with caplog.at_level(logging.WARNING):
        assert [ledger.update(next(loader)) for _ in range(3)] == [5, 5, 5]
    assert len(caplog.messages) == 3 and sum("cut.png: " in m for m in caplog.messages) == 1
    copy = SkipLedger(0.5)
    copy.load_state_dict(json.loads(json.dumps(ledger.state_dict())))
    assert (copy.seen, copy.skipped) == (30, 15)


def test_the_ledger_fails_the_run_above_the_share(tmp_path):
    loader = loader_of(damaged(tmp_path), batch_size=10)
    ledger = SkipLedger(0.4)
    ledger.update(next(loader))  # ten samples are too few to judge
    with pytest.raises(TooManySkipped, match="10 of 20 samples.*share of 0.4.*max_skipped_share"):
        ledger.update(next(loader))
    with pytest.raises(TooManySkipped, match="5 of 10"):
        SkipLedger(0.4).update(next(loader), epoch_ended=True)


def test_the_ledger_counts_over_all_ranks(tmp_path):
    batch = next(loader_of(damaged(tmp_path), batch_size=10))
    ledger = SkipLedger(0.2)
    assert ledger.update(batch, reduce=lambda counts: [counts[0] + 90, counts[1] + 1]) == 6
    assert ledger.state_dict() == {"seen": 100, "skipped": 6}


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda f: f.write_text(f.read_text().replace("Red", "Rot")), "questions"),
        (lambda f: f.write_text(f.read_text().replace('"id": "r3"', '"id": "r33"')), "ids"),
        (lambda f: write_noise(f.parent / "a.png"), "media files"),
        (lambda f: f.write_text(f.read_text().replace('"id"', '"prompt": "So", "id"')), "prompts"),
    ],
)
def test_a_state_of_changed_records_is_refused_and_what_changed_is_named(tmp_path, spoil, named):
    state = json.loads(json.dumps(loader_of(records_of(tmp_path)).state_dict()))
    loader_of(read_records([str(tmp_path / "d.jsonl")])).load_state_dict(state)
    spoil(tmp_path / "d.jsonl")
    with pytest.raises(DataError, match=f"the {named} of data.files are not what they were"):
        loader_of(read_records([str(tmp_path / "d.jsonl")])).load_state_dict(state)


# Prompts made of what earlier samples left


@pytest.mark.parametrize("workers", [0, 2])
def test_worker_processes_stop_where_a_stage_ends(tmp_path, workers):
    """They prepare far ahead; what they tell of earlier stages is all that was left there."""
    file = write_rows(tmp_path, {"film": 3, "show": 3, "talk": 3})
    records = read_records([str(file)], kind="media", curriculum="step")
    loader = loader_of(records, batch_size=1, workers=workers, prefetch=8, curriculum="step")
    seen = {}
    for number in range(9):
        (item,) = next(loader)
        carried = item.sample.carried
        seen[item.sample.id] = item.sample.context
        loader.carry([Entry(carried.series, carried.key, item.sample.id, f"at {number}")])
        left = loader.history.texts(carried.series)
        told = " ".join(left[key] for key in carried.needs)
        assert item.sample.context == told
    loader.close()
    assert sum(text.count("at") for text in seen.values()) == 3 * (0 + 1 + 2)
