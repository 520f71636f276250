"""Parquet files that are large, have holes, or are damaged somewhere behind a sound footer."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from caprl_native.config.media import MediaConfig
from caprl_native.config.schema import DataConfig
from caprl_native.data import media_cache, parquet
from caprl_native.data.invalid import Invalid
from caprl_native.data.loader import LoadedSample, SkippedSample, build_loader, epoch_order
from caprl_native.data.records import DataError, read_records
from caprl_native.testing.media_files import write_noise

QUESTIONS = [{"question": "Which?", "choices": ["Red", "Blue"], "answer": "A"}]
FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
QUESTION = pa.struct(
    [("question", pa.string()), ("choices", pa.list_(pa.string())), ("answer", pa.string())]
)


def write(path, column, kind, **options):
    schema = pa.schema([("images", kind), ("questions", pa.list_(QUESTION))])
    rows = [{"images": cell, "questions": QUESTIONS} for cell in column]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, **options)
    return str(path)


# A row group of gigabytes


PROGRAM = """
import os, sys
import pyarrow as pa
from caprl_native.data import parquet
from caprl_native.data.records import read_records

parquet.CACHE_BYTES, parquet.BATCH_BYTES = 8 * 2**20, 2**20
records = read_records([sys.argv[1]])
n = len(records)
for i in (0, n // 2, n - 1, 3, *range(n)):
    first, second = (m.data for m in records[i].media)
    assert first[:4] == second[:4] == i.to_bytes(4, "big") and first[4] == 0 and second[4] == 1
print(pa.default_memory_pool().max_memory())
"""


def test_a_large_row_group_is_never_in_memory_whole(tmp_path):
    size, each = 64 * 2**20, 2**17
    noise = os.urandom(each)
    schema = pa.schema([("images", pa.list_(FILE)), ("questions", pa.list_(QUESTION))])
    tables = []
    for start in range(0, size // each // 2, 8):
        rows = [
            {
                "images": [
                    {"bytes": i.to_bytes(4, "big") + bytes([j]) + noise, "path": None}
                    for j in range(2)
                ],
                "questions": QUESTIONS,
            }
            for i in range(start, start + 8)
        ]
        tables.append(pa.Table.from_pylist(rows, schema=schema))
    file = tmp_path / "large.parquet"
    pq.write_table(pa.concat_tables(tables), file, row_group_size=10**6)
    assert pq.ParquetFile(file).num_row_groups == 1
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(file)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 20 * 2**20  # of 64 MiB
    assert "a row group has 0.1 GiB of embedded files" in done.stderr


# Holes


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("hole", [None, {"bytes": None, "path": None}])
def test_a_missing_image_is_named_at_the_start(tmp_path, several, hole):
    good = {"bytes": b"1", "path": None}
    named = {"bytes": None, "path": "a.png"}
    cells = [good, named, hole, good] if not several else [[good, named], [named], [good, hole]]
    kind = pa.list_(FILE) if several else FILE
    with pytest.raises(DataError) as error:
        read_records([write(tmp_path / "d.parquet", cells, kind)])
    assert "1 problem(s)" in str(error.value)
    if several or hole:
        where = "images[1]" if several else "images"
        assert f"row 3: {where}: expected a path or an embedded file" in str(error.value)
    else:
        assert "row 3: images: no image and no video" in str(error.value)


def test_missing_bytes_are_found_among_paths_and_bytes(tmp_path):
    cells = [{"bytes": b"1", "path": None}, {"bytes": None, "path": "a.png"}]
    records = read_records([write(tmp_path / "d.parquet", cells * 300, FILE, row_group_size=70)])
    assert [r.media[0].data for r in records] == [b"1", None] * 300
    cells = cells * 300
    cells[500] = {"bytes": None, "path": None}
    with pytest.raises(DataError, match=r"1 problem.*\n.*row 501: images"):
        read_records([write(tmp_path / "d.parquet", cells, FILE, row_group_size=70)])


# Damage


def spoil(file, column, group):
    """Overwrites the start of a column's data page; the footer stays as it is."""
    chunks = pq.ParquetFile(file).metadata.row_group(group)
    (chunk,) = [
        chunks.column(i)
        for i in range(chunks.num_columns)
        if chunks.column(i).path_in_schema == column
    ]
    with open(file, "r+b") as opened:
        opened.seek(chunk.data_page_offset)
        opened.write(b"\xff" * 40)


@pytest.fixture
def images(tmp_path):
    data = [write_noise(tmp_path / f"{i}.png").read_bytes() for i in range(8)]
    cells = [{"bytes": d, "path": f"{i}.png"} for i, d in enumerate(data)]
    return write(tmp_path / "d.parquet", cells, FILE, row_group_size=4, use_dictionary=False)


def test_a_damaged_page_of_images_costs_its_samples_alone(images):
    spoil(images, "images.bytes", 1)
    records = read_records([images])
    config = DataConfig(batch_size=8, shuffle=False, workers=0)
    batch = next(build_loader(records, config, MediaConfig(), seed=0, shard=0, num_shards=1))
    assert [type(item) for item in batch] == [LoadedSample] * 4 + [SkippedSample] * 4
    for i, item in enumerate(batch[4:], 5):
        assert item.name == f"{images}: row {i}"
        assert item.reason.startswith("record: damaged Parquet data: ")


@pytest.mark.parametrize("column", ["images.path", "questions.list.element.question"])
def test_a_damaged_page_of_texts_is_named_at_the_start(images, column):
    spoil(images, column, 1)
    with pytest.raises(DataError) as error:
        read_records([images])
    assert f"{images}: row 5: record: damaged Parquet data: " in str(error.value)


def test_a_file_that_vanished_is_a_named_skip(tmp_path):
    file = tmp_path / "d.jsonl"
    record = {"image": "a.png", "questions": QUESTIONS}
    file.write_text((json.dumps(record) + "\n") * 2)
    records = pickle.loads(pickle.dumps(read_records([str(file)])))  # as a worker has it
    file.unlink()
    config = DataConfig(batch_size=2, shuffle=False, workers=0)
    loader = build_loader(records, config, MediaConfig(), seed=0, shard=0, num_shards=1)
    for i, item in enumerate(next(loader), 1):
        assert isinstance(item, SkippedSample) and item.name == f"{file}: line {i}"
        assert "No such file" in item.reason


def test_damaged_files_are_errors_also_where_records_may_be_left_out(images):
    spoil(images, "images.path", 1)
    with pytest.raises(DataError, match="row 5: record: damaged Parquet data"):
        read_records([images], invalid=Invalid("drop", "drop", 1))


# What is kept on disk once it is decoded


@pytest.fixture
def groups(tmp_path):
    """Six row groups of four images each."""
    cells = [[{"bytes": os.urandom(5000), "path": None}, {"bytes": b"x", "path": f"{i}"}]
             for i in range(23)] + [[]]  # fmt: skip
    cells[-1] = [{"bytes": None, "path": "b.png"}]
    return write(tmp_path / "d.parquet", cells, pa.list_(FILE), row_group_size=4)


def test_rows_at_random_are_the_rows_and_each_group_is_decoded_once(groups, tmp_path, monkeypatch):
    plain, kept = read_records([groups]), read_records([groups])
    kept.keep_decoded(tmp_path / "cache")
    decoded = []
    batches = parquet._batches
    count = lambda file, group, names: decoded.append((group, names)) or batches(file, group, names)  # noqa: E731
    monkeypatch.setattr(parquet, "_batches", count)
    order = epoch_order(len(kept), seed=0, epoch=0).tolist()
    found = {i: kept[i] for i in order * 2}
    assert sorted(g for g, names in decoded if names == ["images"]) == list(range(6))
    again = pickle.loads(pickle.dumps(kept))  # a worker; and a run that goes on
    assert [again[i] for i in range(len(again))] == [found[i] for i in range(len(found))]
    assert sorted(g for g, names in decoded if names == ["images"]) == list(range(6))
    assert list(plain) == [found[i] for i in range(len(plain))]
    assert kept.contents == plain.contents and kept.fingerprint == plain.fingerprint
    (folder,) = (tmp_path / "cache").iterdir()
    assert len(list(folder.glob("*.arrow"))) == 6 and not list(folder.glob("*.tmp"))


MEETING = """
import sys
from pathlib import Path
from caprl_native.data.records import read_records

records = read_records([sys.argv[1]])
records.keep_decoded(Path(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
for i in range(len(records)):
    records[i]
"""


def test_processes_that_meet_at_a_row_group_leave_it_whole(groups, tmp_path):
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", MEETING, groups, str(cache)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": env}
    processes = [subprocess.Popen(command, **pipes) for _ in range(3)]
    assert [p.stdout.readline() for p in processes] == ["ready\n"] * 3
    for p in processes:
        p.stdin.write("go\n")
        p.stdin.flush()
    assert [(p.communicate(timeout=60), p.returncode)[1] for p in processes] == [0, 0, 0]
    (folder,) = cache.iterdir()
    assert len(list(folder.glob("*.arrow"))) == 6 and not list(folder.glob("*.tmp"))
    kept, plain = read_records([groups]), read_records([groups])
    kept.keep_decoded(cache)
    assert list(kept) == list(plain)


def test_a_changed_file_has_another_folder_and_a_cut_one_is_written_again(groups, tmp_path):
    records = read_records([groups])
    records.keep_decoded(tmp_path / "cache")
    first = [records[i] for i in range(24)]
    (folder,) = (tmp_path / "cache").iterdir()
    for file in folder.glob("*.arrow"):
        file.write_bytes(file.read_bytes()[:100])
    again = read_records([groups])
    again.keep_decoded(tmp_path / "cache")
    assert [again[i] for i in range(24)] == first
    os.utime(groups, (1, 1))
    changed = read_records([groups])
    changed.keep_decoded(tmp_path / "cache")
    assert changed[0] == first[0] and len(list((tmp_path / "cache").iterdir())) == 2


def test_a_folder_that_is_removed_changes_no_row(groups, tmp_path):
    """While a run uses it, and before one goes on."""
    plain = [read_records([groups])[i] for i in range(24)]
    records = read_records([groups])
    records.keep_decoded(tmp_path / "cache")
    assert [records[i] for i in (0, 9, 1)] == [plain[i] for i in (0, 9, 1)]
    shutil.rmtree(tmp_path / "cache")
    assert [records[i] for i in range(24)] == plain
    shutil.rmtree(tmp_path / "cache")
    again = read_records([groups])
    again.keep_decoded(tmp_path / "cache")
    assert again.fingerprint == records.fingerprint
    assert [again[i] for i in range(24)] == plain


@pytest.mark.parametrize("trouble", ["no room", "a file in its place"])
def test_without_room_rows_are_decoded_as_before(groups, tmp_path, monkeypatch, caplog, trouble):
    if trouble == "no room":
        monkeypatch.setattr(media_cache, "RESERVE", 2**60)
    else:
        (tmp_path / "cache").write_text("")
    records = read_records([groups])
    records.keep_decoded(tmp_path / "cache")
    plain = read_records([groups])
    assert [records[i] for i in (9, 1, 23, 9)] == [plain[i] for i in (9, 1, 23, 9)]
    assert len([m for m in caplog.messages if "data.cache_dir names another folder" in m]) == 1


def test_damage_is_told_as_without_a_folder(images, tmp_path):
    spoil(images, "images.bytes", 1)
    records = read_records([images])
    records.keep_decoded(tmp_path / "cache")
    assert records[2].media[0].data
    with pytest.raises(DataError, match=r"row 6: record: damaged Parquet data"):
        records[5]


def test_a_file_of_one_small_row_group_needs_no_folder(tmp_path):
    cells = [{"bytes": b"1", "path": None}] * 8
    records = read_records([write(tmp_path / "d.parquet", cells, FILE)])
    records.keep_decoded(tmp_path / "cache")
    assert records[3].media[0].data == b"1" and not (tmp_path / "cache").exists()
