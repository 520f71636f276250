"""TaskMem's records: their fields, and what their prompts tell of earlier segments."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from caprl_native.data.formats import FieldError, parse_record
from caprl_native.data.record_formats.memory import preceding, put_in, split_id
from caprl_native.data.records import DataError, read_records
from caprl_native.text.described import description_in
from caprl_native.types import Sample
from tests.data.segments import ASKED, write_rows

GOLDEN = Path(__file__).parents[1] / "golden" / "rl"


def row_of(folder: Path, index: int, **changes: object) -> dict:
    rows = write_rows(folder, {"film": 7}).read_text().splitlines()
    return json.loads(rows[index]) | changes


def parsed(folder: Path, row: dict) -> Sample:
    return parse_record(
        row, kind="media", source="d.jsonl:1", default_id="d", media_root=str(folder)
    )


def text(sample: Sample) -> str:
    return sample.messages[-1]["content"][-1]["text"]


def cases(table: str, kind: str) -> list:
    found = json.loads((GOLDEN / f"{table}.json").read_text())["cases"]
    return [pytest.param(c["input"], c["output"], id=c["id"]) for c in found if c["kind"] == kind]


OWN = {  # where the reference is at fault
    "hist_unknown_local_id": "<face_2> looks at <face_3>.",
    "hist_surface_word": "A surface 5 metres wide.",
}


@pytest.mark.parametrize(("given", "output"), cases("m3_history", "history"))
def test_golden_histories(given, output, tmp_path, request) -> None:
    place = tmp_path / "maps" / "film"
    place.mkdir(parents=True)
    (place / "film_map.json").write_text(json.dumps(given["face_maps"]))
    parts = row_of(tmp_path / "other", 0)["input"]
    parts[-1]["text"] = given["template"]
    index = given["video_idx"]
    row = {"id": f"film*{index}", "type": "episodic_on_policy", "step": given["step"]}
    row |= {"video_idx": index, "episodic_folder": "maps", "input": parts}
    own = next((v for k, v in OWN.items() if k in request.node.callspec.id), None)
    if "raises" in output:
        if "0" not in given["face_maps"]:
            with pytest.raises(FieldError, match=r"film_map\.json: .*'0'"):
                parsed(tmp_path, row)
        else:
            assert set(parsed(tmp_path, row).carried.needs) - given["history"].keys()
        return
    sample = parsed(tmp_path, row)
    assert list(sample.carried.needs) == output["history_keys"]
    filled = sample.carried.filled(sample, given["history"])
    want = given["template"].replace("{}", own) if own else output["text_by_first_appearance"]
    assert text(filled) == want
    assert filled.context in text(filled)


@pytest.mark.parametrize(("given", "output"), cases("m3_picked_memory", "split_id"))
def test_ids(given, output) -> None:
    identity = given["raw_id"]
    if isinstance(identity, str) and output["file_stem"] and output["key"] and "*" in identity:
        assert split_id(identity) == (output["file_stem"], output["key"])
    else:  # the reference makes a nameless file, or key "0", of it
        with pytest.raises(FieldError, match=r"id: expected VIDEO\*KEY"):
            split_id(identity)


def test_the_last_four_segments_are_told_and_media_stay(tmp_path: Path) -> None:
    sample = parsed(tmp_path, row_of(tmp_path, 6))
    assert sample.carried.series == "film" and sample.carried.key == "6"
    assert sample.carried.needs == ("2", "3", "4", "5") and sample.kind == "episodic_on_policy"
    texts = {str(i): f"{{{i}}} <face_1> and face 2" for i in range(6)}
    filled = sample.carried.filled(sample, texts)
    # Face 0 of the video is 1 here; the others that are shown no more get new numbers.
    told = "{2} <face_1> and <face_3> {3} <face_4> and <face_1> {4} <face_1> and <face_5> "
    assert filled.context == told + "{5} <face_6> and <face_1>"
    assert text(filled) == ASKED.replace("{}", filled.context)
    assert filled.media == sample.media and filled.messages[0]["content"][:-1]


def test_the_first_segment_is_told_nothing(tmp_path: Path) -> None:
    sample = parsed(tmp_path, row_of(tmp_path, 0))
    filled = sample.carried.filled(sample, {})
    assert text(filled) == ASKED.replace("{}", "") and filled.context == ""


def test_semantic_records_have_two_places(tmp_path: Path) -> None:
    row = row_of(tmp_path, 2, type="semantic", memory_tag="a", id="film*2")
    row["input"][-1]["text"] = "So far: {}. Known: {} Answer as {{json}}."
    known = {"0": ["<face_1> {is} kind"], "1": "Face 1 is late", "2": "not yet"}
    (tmp_path / "maps/film/episodic_a.json").write_text(json.dumps(known))
    sample = parsed(tmp_path, row)
    assert sample.carried.key == "" and sample.carried.wants == ("2",)
    texts = {"0": "a <face_1>", "1": "b", "2": "c"}
    filled = sample.carried.filled(sample, texts)
    known = '["<face_1> {is} kind", "<face_3> is late"]'
    assert text(filled) == f"So far: a <face_1> b c. Known: {known} Answer as {{json}}."
    assert filled.context == "a <face_1> b c"
    del texts["2"]
    assert sample.carried.filled(sample, texts).context == "a <face_1> b"


def test_places_are_filled_by_position() -> None:
    assert put_in("{{a}} {} }} {}", ["{}", "{0}"]) == "{a} {} } {0}"
    assert put_in('{"a": {"b": 1}} {}', ["x"]) == '{"a": {"b": 1}} x'  # no template


def test_prompts_that_others_filled_in(tmp_path: Path) -> None:
    row = row_of(tmp_path, 0)
    row["input"][-1]["text"] = ASKED.replace("{}", "A man waits.")
    sample = parsed(tmp_path, row)
    assert sample.carried is None and sample.context == "A man waits."
    assert preceding("no marker") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "episodic"}, 'type: expected "episodic_on_policy" or "semantic"'),
        ({"step": "3"}, "step: got '3'"),
        ({"step": None}, "step: missing"),
        ({"video_idx": -1}, "video_idx: got -1"),
        ({"video_idx": 1}, "step: 3 earlier segments, but this is number 1"),
        ({"id": "film"}, r"id: expected VIDEO\*KEY"),
        ({"id": "../x*3"}, r"id: expected VIDEO\*KEY"),
        ({"episodic_folder": 3}, "episodic_folder: got 3"),
        ({"episodic_folder": "nowhere"}, "episodic_folder: .*film_map.json cannot be read"),
        ({"input": "text"}, "input: expected a list"),
        ({"input": [{"type": "text", "text": "{}"}]}, "images: no image"),
        ({"input": [{"type": "image"}]}, "input: 1 <image>"),
        ({"type": "semantic"}, r"input: the last text has 1 place.*expected 2"),
    ],
)
def test_wrong_fields_are_named(changes, message, tmp_path) -> None:
    with pytest.raises(FieldError, match=message):
        parsed(tmp_path, row_of(tmp_path, 3, **changes))


@pytest.mark.parametrize("asked", ["no place", "two {} {}"])
def test_a_place_must_be_there_once(asked, tmp_path) -> None:
    row = row_of(tmp_path, 3)
    row["input"][-1]["text"] = asked
    with pytest.raises(FieldError, match="expected 1"):
        parsed(tmp_path, row)


def test_what_prompts_need_is_part_of_the_datas_identity(tmp_path: Path) -> None:
    file = write_rows(tmp_path, {"film": 3})
    before = read_records([str(file)], kind="media", curriculum="step").contents
    maps = tmp_path / "maps/film/film_map.json"
    maps.write_text(maps.read_text().replace("[face_0]", "[face_9]"))
    after = read_records([str(file)], kind="media", curriculum="step").contents
    assert {k for k in before if before[k] != after[k]} == {"prompts"}


def test_errors_name_file_and_line(tmp_path: Path) -> None:
    file = write_rows(tmp_path, {"film": 3})
    file.write_text(file.read_text().replace('"step": 2', '"step": "2"'))
    with pytest.raises(DataError, match=r"segments\.jsonl: line 3: step: got '2'"):
        read_records([str(file)], kind="media")


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ('hm</think>{"description": " A cat. "}', "A cat."),
        ('hm</think>\n\n```json\n{"description": "A {cat}."}\n```\n', "A {cat}."),
        ('{"description": "A cat."}', None),
        ('a</think>b</think>{"description": "A cat."}', None),
        ('</think>{"description": ""}', None),
        ('</think>{"description": 3}', None),
        ('</think>{"description": "a", "description": "b"}', None),
        ('</think>{"description": "a", "more": "b"}', None),
        ('</think>Here: {"description": "a"}', None),
        ('</think>[["description", "a"]]', None),
        ("</think>" + "[" * 100_000, None),
    ],
)
def test_descriptions(written, found) -> None:
    assert description_in(written) == found
