"""The inputs of a job: whatever form they have, every entry once and in a fixed order."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from caprl_native.data.fields import DataError
from caprl_native.data.inputs import Inputs
from caprl_native.data.listing import Entry
from caprl_native.testing.media_files import write_mp4, write_png


def listed(*names: str | Path, **options: Any) -> list[Entry]:
    return list(Inputs([str(name) for name in names], **options))


def ids(entries: list[Entry]) -> list[str]:
    return [entry.id for entry in entries]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "media"
    for name in ("9.png", "10.png", "sub/b.JPG", "sub/deep/c.webp", ".hidden.png", "notes.txt"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (root / "sub/v.mp4").write_bytes(b"x")
    return root


def test_a_folder_is_read_in_natural_order_and_by_its_media_alone(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "sub/README").write_bytes(b"x")
    entries = listed(folder)
    assert "2 files are neither images nor videos" in caplog.text
    assert ".txt (1)" in caplog.text and "without an end (1)" in caplog.text
    assert ids(entries) == ["9.png", "10.png", "sub/b.JPG", "sub/v.mp4", "sub/deep/c.webp"]
    assert [e.media[0].kind for e in entries] == ["image"] * 3 + ["video", "image"]
    assert entries[2].media[0].path == str(folder / "sub/b.JPG")


def test_a_folder_that_cannot_be_read_is_a_failure_and_not_forgotten(folder: Path) -> None:
    coming = iter(Inputs([str(folder)]))
    first = next(coming)
    shutil.rmtree(folder / "sub")  # in the meantime
    *_, lost = coming
    assert first.id == "9.png" and lost.id == "sub"
    assert "the folder cannot be read: No such file" in lost.problem


def test_of_several_folders_ids_hold_the_folder(folder: Path) -> None:
    other = folder.parent / "other"
    other.mkdir()
    (other / "9.png").write_bytes(b"x")
    found = ids(listed(folder, other))
    assert found[0] == str(folder / "9.png") and found[-1] == str(other / "9.png")
    assert len(set(found)) == len(found)


def test_patterns_and_single_files(folder: Path) -> None:
    found = listed(folder / "*.png", folder / "sub/v.mp4")
    assert [e.media[0].path for e in found] == [
        str(folder / n) for n in ("10.png", "9.png", "sub/v.mp4")
    ]


@pytest.mark.parametrize("name", ["nothing*.png", "missing.png", "notes.doc"])
def test_a_name_that_means_nothing_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.doc").write_text("x")
    with pytest.raises(DataError, match=re.escape(name)):
        listed(tmp_path / name)


ROWS: list[Any] = [
    "a.png",
    {"image": "b.png", "score": 3},
    {"id": 7, "images": ["a.png", "b.png"]},
    {"video": "v.mp4", "start": 1, "end": 2.5},
    {"image_path": "c.png", "qa": {"deep": [1, None]}},
]


def check_rows(entries: list[Entry], root: str) -> None:
    assert ids(entries) == ["a.png", "b.png", "7", "v.mp4#1-2.5", "c.png"]
    assert entries[1].columns == {"score": 3} and entries[4].columns == {"qa": {"deep": [1, None]}}
    assert [m.path for m in entries[2].media] == [f"{root}/a.png", f"{root}/b.png"]
    (clip,) = entries[3].media
    assert (clip.kind, clip.start, clip.end) == ("video", 1.0, 2.5)


@pytest.mark.parametrize("form", ["jsonl", "json", "bom", "txt"])
def test_lists_of_rows(tmp_path: Path, form: str) -> None:
    lines = [json.dumps(row) for row in ROWS]
    path = tmp_path / f"list.{'jsonl' if form == 'bom' else form}"
    if form == "json":
        path.write_text(json.dumps(ROWS, indent=2))
    elif form == "txt":
        path.write_text("\r\n".join(["a.png", "", *lines[1:]]))
    else:
        path.write_text("\n".join(lines), encoding="utf-8-sig" if form == "bom" else "utf-8")
    check_rows(listed(path), str(tmp_path))
    check_rows(listed(path, media_root="/data"), "/data")


def test_media_of_both_kinds_in_one_column(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    rows = ['{"media": "v.mp4", "end": 2}', '{"media": ["v.mp4", "a.png"], "x": NaN, "y": 1e999}']
    rows += ['{"media": ["a"]}', '{"media": {}}', '{"image": "a.png", "media": {"kept": 1}}']
    path.write_text("\n".join(rows))
    clip, both, unknown, wrong, kept = listed(path)
    assert clip.id == "v.mp4#-2" and clip.media[0].end == 2 and clip.columns == {}
    assert [m.kind for m in both.media] == ["video", "image"]
    assert both.columns == {"x": None, "y": "inf"}
    assert "media[0]: 'a' is the name of no image" in unknown.problem
    assert "media: expected a path, got an object" in wrong.problem
    assert kept.columns == {"media": {"kept": 1}}


def test_a_list_on_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n".join(["a.png", *(json.dumps(row) for row in ROWS[1:])])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    check_rows(listed("-", media_root="/data"), "/data")


def test_parquet_with_embedded_files_and_further_columns(tmp_path: Path) -> None:
    png = write_png(tmp_path / "a.png").read_bytes()
    rows = [
        {"image": {"bytes": png, "path": "a.png"}, "n": 1, "other": b"bytes"},
        {"image": {"bytes": None, "path": "b.png"}, "n": None, "other": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "list.parquet")
    one, two = listed(tmp_path / "list.parquet")
    assert one.media[0].data == png and one.id == "list.parquet: row 1" and one.columns == {"n": 1}
    assert two.media[0].path == str(tmp_path / "b.png") and two.columns == {}


def test_bad_rows_are_entries_that_say_what_is_wrong(tmp_path: Path) -> None:
    lines = [
        '{"image": "a.png"',
        "just words",
        '{"text": "no media"}',
        '{"image": 3, "id": "x"}',
        '{"video": "v.mp4", "start": 3, "end": 1}',
        '{"image": "https://example.org/a.png"}',
        "[1]",
        b"\xff.png".decode("latin-1"),
        '{"video": "v.mp4", "start": Infinity}',
    ]
    path = tmp_path / "list.jsonl"
    path.write_bytes("\n".join(lines).encode("latin-1"))
    entries = listed(path)
    assert len(entries) == len(lines) and all(e.problem.startswith(f"{path}:") for e in entries)
    expected = [
        "malformed JSON", "is the name of no image or video", "has no media", "expected a path",
        "end: 1 is not after start, 3", "is not a local file", "expected a path or an object",
        "not UTF-8", "start: expected seconds, got inf",
    ]  # fmt: skip
    for number, (entry, text) in enumerate(zip(entries, expected, strict=True), 1):
        assert entry.problem.startswith(f"{path}:{number}: ") and text in entry.problem
    assert entries[3].id == "x" and len(set(ids(entries))) == len(entries)


def test_a_json_list_without_end_gives_what_it_has_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text('["a.png", {"image": "b.png"}, "c.p')
    *good, last = listed(path)
    assert ids(good) == ["a.png", "b.png"] and "the list has no end" in last.problem


@pytest.mark.parametrize("text", ["[]", "", "\n\n"])
def test_an_empty_list_has_no_entries(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.json").write_text(text)
    assert listed(tmp_path / "list.json") == []


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    mode = "w:gz" if path.name.endswith("gz") else "w"
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))
    return path


@pytest.mark.parametrize("name", ["shard.tar", "shard.tar.gz"])
def test_tar_shards(tmp_path: Path, name: str) -> None:
    png = write_png(tmp_path / "a.png").read_bytes()
    mp4 = write_mp4(tmp_path / "v.mp4", 4).read_bytes()
    members = {
        "d/1.png": png,
        "d/1.json": b'{"alt": "red"}',
        "d/2.mp4": mp4,
        "d/2.txt": b" some words ",
        "d/3.left.png": png,
        "d/3.right.png": png,
        "d/4.json": b"{}",
        "d/5.png": png,
        "d/5.json": b"{",
    }
    found = listed(write_tar(tmp_path / name, members))
    assert ids(found)[:3] == ["d/1", "d/2", "d/3"]
    assert found[0].columns == {"alt": "red"} and found[0].media[0].data == png
    assert found[1].media[0].kind == "video" and found[1].columns == {"txt": "some words"}
    assert len(found[2].media) == 2
    assert "no image and no video" in found[3].problem and "5.json: malformed" in found[4].problem


def test_shards_that_share_keys_have_ids_of_their_own(tmp_path: Path) -> None:
    shards = [write_tar(tmp_path / name, {"0.png": b"x"}) for name in ("a.tar", "b.tar")]
    assert ids(listed(*shards)) == [f"{shard}#0" for shard in shards]


def test_a_tar_that_is_cut_short_gives_what_it_has_and_says_so(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {f"{i}.png": bytes(5000) for i in range(10)})
    path.write_bytes(path.read_bytes()[:20000])
    *good, last = listed(path)
    assert ids(good)[:3] == ["0", "1", "2"] and "is damaged after this" in last.problem


MEMBER = 512 + 512  # a header, and up to 512 bytes

DAMAGED: dict[str, tuple[Callable[[bytes], bytes], int, str]] = {
    "a header": (lambda tar: tar[:4096] + b"?" + tar[4097:], 1, "bad checksum"),
    "cut in a header": (lambda tar: tar[: 4 * MEMBER + 100], 1, "truncated header"),
    "cut between members": (lambda tar: tar[: 4 * MEMBER], 1, "empty header"),
    "cut within a sample": (lambda tar: tar[: 3 * MEMBER], 1, "1, which may lack members"),
    "another archive behind it": (lambda tar: tar + tar, 4, "something follows after its end"),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_no_member_of_a_damaged_tar_is_lost_without_a_word(tmp_path: Path, how: str) -> None:
    ends = (("png", b"x"), ("json", b'{"n": 1}'))
    members = {f"{i}.{end}": data for i in range(4) for end, data in ends}
    path = write_tar(tmp_path / "a.tar", members)
    damage, whole, said = DAMAGED[how]
    path.write_bytes(damage(path.read_bytes()))
    *good, last = listed(path)
    assert ids(good) == [str(i) for i in range(whole)]
    assert all(entry.columns == {"n": 1} for entry in good)
    assert "is damaged after this" in last.problem and said in last.problem


def test_shards_share_the_entries_out(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("\n".join(f"{i}.png" for i in range(200)))
    parts = [ids(listed(path, shard=(k, 3))) for k in range(3)]
    assert sorted(sum(parts, [])) == sorted(ids(listed(path))) and min(map(len, parts)) > 40
    assert listed(path, shard=(1, 3), limit=5) == listed(path, shard=(1, 3))[:5]


def test_a_long_list_begins_at_once_and_is_not_held(tmp_path: Path) -> None:
    line = json.dumps({"image": "a.png", "text": "x" * 100}) + "\n"
    path = tmp_path / "list.jsonl"
    path.write_text(line * 300_000)
    tracemalloc.start()
    inputs = Inputs([str(path)])
    coming = iter(inputs)
    for _ in range(3000):
        next(coming)
    assert 0.009 < inputs.fraction() < 0.011
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()
