"""Names of faces: the golden rows; where one records a fault of the reference, what is right."""

import json
from pathlib import Path

import pytest

from caprl_native.text.faces import face_number, has_loose_faces, relabelled, unified

GOLDEN = Path(__file__).parents[1] / "golden" / "rl"


def cases(table: str, kind: str = "") -> list:
    found = json.loads((GOLDEN / f"{table}.json").read_text())["cases"]
    return [pytest.param(c, id=c["id"]) for c in found if not kind or c["kind"] == kind]


@pytest.mark.parametrize("case", cases("m3_face_tag"))
def test_loose_names_are_found(case: dict) -> None:
    """The reference also fires within longer words; `sensible_invalid` says what is right."""
    assert has_loose_faces(case["input"]["text"]) == case["sensible_invalid"]


@pytest.mark.parametrize("case", cases("m3_unify_face_id"))
def test_mentions_become_one_spelling(case: dict) -> None:
    text = case["input"]["text"]
    if text == "interface1":  # the reference rewrites a part of the word
        assert unified(text) == text
    else:
        assert unified(text) == case["output"]["text"]
    assert unified(unified(text)) == unified(text)


def test_a_bracket_around_more_than_the_name_stays() -> None:
    assert unified("(see face_1) (Face 2)") == "(see <face_1>) <face_2>"


# Rows whose reference output is at fault, and what is right.
RIGHT = {
    "hist_unknown_local_id": "<face_2> looks at <face_3>.",  # not at the one who is 7 here
    "hist_surface_word": "A surface 5 metres wide.",
}


@pytest.mark.parametrize("case", cases("m3_history", "history"))
def test_histories_are_told_in_the_names_of_the_current_segment(case: dict) -> None:
    given = case["input"]
    last = given["video_idx"]
    keys = [str(i) for i in range(last - min(given["step"], 4), last)]
    maps, texts = given["face_maps"], given["history"]
    if "raises" in case["output"]:
        assert any(key not in maps or key not in texts for key in keys)
        return
    told = relabelled([texts[k] for k in keys], [maps[k] for k in keys], maps[str(last)])
    want = case["output"]["text_by_first_appearance"]
    if case["id"] in RIGHT:
        want = given["template"].replace("{}", RIGHT[case["id"]])
    assert given["template"].replace("{}", " ".join(told)) == want


def test_new_numbers_are_nobody_else_s() -> None:
    """The reference counts on from the size of the map, whatever numbers are in use."""
    current = {"[face_1]": "<face_2>", "[face_2]": "<face_4>"}
    maps = [{"[face_8]": "<face_1>", "[face_9]": "<face_2>", "[face_1]": "<face_3>"}, {}]
    told = relabelled(
        ["<face_1>, <face_2>, <face_3>, <face_01>", "<face_9>, <face_4>"], maps, current
    )
    assert told == ["<face_3>, <face_5>, <face_2>, <face_3>", "<face_9>, <face_6>"]


def test_what_is_no_name_is_an_error() -> None:
    assert face_number("[face_12]") == 12
    with pytest.raises(ValueError, match=r"expected <face_n> or \[face_n\], found 'face 1'"):
        relabelled(["x"], [{"face 1": "<face_1>"}], {})
