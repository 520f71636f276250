"""Data files -> samples: every released format, and what is said about what is wrong."""

import io
import json
import pickle
import shutil
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from caprl_native.data import records
from caprl_native.data.records import DataError, read_records
from caprl_native.testing.media_files import write_png

QUESTION = {
    "question": "Which colour?",
    "choices": ["A. Red", "B. Blue", "C. Green"],
    "answer": "B",
}
RED_OR_BLUE = {"question": "Which colour?", "choices": ["Red", "Blue"], "answer": "Blue"}


def jsonl(path, records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return str(path)


def chat(text):
    return [{"role": "user", "content": text}]


def texts(sample):
    return [p["text"] for m in sample.messages for p in m["content"] if p["type"] == "text"]


def kinds(sample):
    return [p["type"] for m in sample.messages for p in m["content"]]


def caprl_image(**extra):
    truth = {"ground_truth": [QUESTION, RED_OR_BLUE]}
    record = {"images": ["a.png"], "prompt": chat("<image>Describe."), "reward_model": truth}
    return record | extra


def plain(**extra):
    return {"image": "a.png", "prompt": "Describe.", "questions": [RED_OR_BLUE]} | extra


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("choices", [["A. Red", "B. Blue"], {"A": "Red", "B": "Blue"}])
def test_choices_may_be_a_json_text(tmp_path, choices, indent):
    question = QUESTION | {"choices": json.dumps(choices, indent=indent)}
    (sample,) = read_records([jsonl(tmp_path / "d.jsonl", [plain(questions=[question])])])
    assert sample.questions[0].choices == ("Red", "Blue") and sample.questions[0].answer == 1
    lines = QUESTION | {"choices": "[A] Red\n[B] Blue"}
    (sample,) = read_records([jsonl(tmp_path / "d.jsonl", [plain(questions=[lines])])])
    assert sample.questions[0].choices == ("Red", "Blue")
    numbers = QUESTION | {"choices": json.dumps([3, 4], indent=indent)}
    (sample,) = read_records([jsonl(tmp_path / "d.jsonl", [plain(questions=[numbers])])])
    assert sample.questions[0].choices == ("3", "4")
    broken = plain(questions=[QUESTION | {"choices": '["A. Red",\n"B. Blue"'}])
    with pytest.raises(DataError, match=r"questions\[0\].choices: is a text that is not JSON"):
        read_records([jsonl(tmp_path / "d.jsonl", [broken])])


def test_start_and_end_choose_the_clip_that_questions_are_about(tmp_path):
    record = {"video": "v.mp4", "prompt": "Describe.", "questions": [QUESTION]}
    clip = record | {"start": 1, "end": 2.5}
    (sample,) = read_records([jsonl(tmp_path / "d.jsonl", [clip])])
    assert (sample.media[0].start, sample.media[0].end) == (1, 2.5)
    with pytest.raises(DataError, match="end: 1 is not after start, 3"):
        read_records([jsonl(tmp_path / "d.jsonl", [record | {"start": 3, "end": 1}])])


@pytest.mark.parametrize("truth", ["as is", "json reward_model", "json ground_truth"])
def test_caprl_qa_in_jsonl(tmp_path, truth):
    record = caprl_image(id="x1")
    if truth == "json reward_model":
        record["reward_model"] = json.dumps(record["reward_model"])
    elif truth == "json ground_truth":
        record["reward_model"] = {
            "ground_truth": json.dumps(record["reward_model"]["ground_truth"])
        }
    (sample,) = read_records([jsonl(tmp_path / "d.jsonl", [record])], "/media")
    assert sample.id == "x1" and sample.modality == "image"
    assert [m.path for m in sample.media] == ["/media/a.png"]
    assert kinds(sample) == ["image", "text"] and texts(sample) == ["Describe."]
    assert [q.choices for q in sample.questions] == [("Red", "Blue", "Green"), ("Red", "Blue")]
    assert [q.answer for q in sample.questions] == [1, 1]
    assert sample.source.endswith("d.jsonl:1")


def test_caprl_video_qa_in_jsonl(tmp_path):
    record = {
        "prompt": chat("<video>\nYou are a video captioner."),
        "videos": ["clips/a.mp4"],
        "data_source": "video_caption_rl",
        "reward_model": {"ground_truth": [QUESTION]},
    }
    (sample,) = read_records([jsonl(tmp_path / "v.jsonl", [record])])
    assert sample.modality == "video" and sample.id == "v:1"
    assert sample.media[0].path == str(tmp_path / "clips/a.mp4")
    assert texts(sample) == ["\nYou are a video captioner."]


def parquet(path, rows, **options):
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return str(path)


def embedded(tmp_path, n):
    data = [write_png(tmp_path / f"{i}.png", color=(i, 0, 0)).read_bytes() for i in range(n)]
    return data, [{"bytes": d, "path": None if i % 2 else f"{i}.png"} for i, d in enumerate(data)]


@pytest.mark.parametrize("several", [False, True])
def test_caprl_qa_in_parquet_with_embedded_images(tmp_path, several):
    data, files = embedded(tmp_path, 10)
    rows = [caprl_image(prompt=chat("<image> Describe."), id=f"r{i}") for i in range(10)]
    for row, file in zip(rows, files, strict=True):
        del row["images"]
        row |= (
            {"images": [file, file], "prompt": chat("<image><image>")}
            if several
            else {"image": file}
        )
    records = read_records([parquet(tmp_path / "t.parquet", rows, row_group_size=3)])
    for i in [7, 0, 9, 3, 7]:  # over row groups, back and forth
        sample = records[i]
        assert sample.id == f"r{i}"
        assert [m.data for m in sample.media] == [data[i]] * (2 if several else 1)
        assert f"t.parquet:{i + 1}#image" in sample.media[0].name
        assert sample.questions[0].choices == ("Red", "Blue", "Green")


@pytest.mark.parametrize("form", ["binary", "list of binary", "paths"])
def test_parquet_with_other_media_columns(tmp_path, form):
    data, _ = embedded(tmp_path, 4)
    cells = {
        "binary": [{"image": d} for d in data],
        "list of binary": [{"images": [d, d]} for d in data],
        "paths": [{"videos": [f"{i}.mp4"]} for i in range(4)],
    }[form]
    rows = [{"prompt": "Describe.", "questions": [RED_OR_BLUE]} | cell for cell in cells]
    records = read_records([parquet(tmp_path / "t.parquet", rows)], "/m")
    sample = records[2]
    if form == "paths":
        assert sample.media[0].path == "/m/2.mp4"
    else:
        assert {m.data for m in sample.media} == {data[2]}
        assert kinds(sample) == ["image"] * len(sample.media) + ["text"]


def test_parquet_of_images_and_videos_mixed(tmp_path):
    _, (file,) = embedded(tmp_path, 1)
    rows = [
        {"image": file, "video": None, "questions": [RED_OR_BLUE]},
        {"image": None, "video": "a.mp4", "questions": [RED_OR_BLUE]},
    ]
    records = read_records([parquet(tmp_path / "t.parquet", rows)])
    assert [s.modality for s in records] == ["image", "video"]
    assert [texts(s) for s in records] == [
        ["Please describe this image in detail."],
        ["Please describe this video in detail."],
    ]


@pytest.mark.parametrize("field", ["image", "images", "video", "videos"])
def test_the_plain_form(tmp_path, field):
    value = ["m"] if field.endswith("s") else "m"
    record = {field: value, "prompt": "Describe.", "questions": [RED_OR_BLUE]}
    (sample,) = read_records([jsonl(tmp_path / "p.jsonl", [record])])
    kind = field.removesuffix("s")
    assert [m.kind for m in sample.media] == [kind] and kinds(sample) == [kind, "text"]


def test_media_follow_the_order_of_their_placeholders(tmp_path):
    record = plain(
        images=["1.png", "2.png"], image=None, video="v.mp4", prompt="<image>a<video>b<image>"
    )
    (sample,) = read_records([jsonl(tmp_path / "p.jsonl", [record])], "/m")
    assert [m.path for m in sample.media] == ["/m/1.png", "/m/v.mp4", "/m/2.png"]
    assert kinds(sample) == ["image", "text", "video", "text", "image"]


def test_content_may_be_parts_and_system_turns_stay(tmp_path):
    parts = [{"type": "image", "text": None}, {"type": "text", "text": "Describe."}]
    prompt = [{"role": "system", "content": "Be exact."}, {"role": "user", "content": parts}]
    file = jsonl(tmp_path / "p.jsonl", [plain(prompt=prompt)])
    (sample,) = read_records([file])
    assert kinds(sample) == ["text", "image", "text"]
    (sample,) = read_records([file], prompt_override="Say what you see.")
    assert kinds(sample) == ["text", "image", "text"]
    assert texts(sample) == ["Be exact.", "Say what you see."]


def test_supervised_records(tmp_path):
    rows = [
        {"video": "a.mp4", "caption": "A dog runs."},
        {"prompt": "Answer.", "response": "B"},
        {"image": "a.png", "prompt": "<image>Go.", "response": "A cat."},
    ]
    records = read_records([jsonl(tmp_path / "s.jsonl", rows)], kind="response")
    assert [s.response for s in records] == ["A dog runs.", "B", "A cat."]
    assert [s.modality for s in records] == ["video", "text", "image"]
    assert not any(s.questions for s in records)


def test_records_cross_files_and_processes(tmp_path):
    first = jsonl(tmp_path / "a.jsonl", [plain(prompt="äöü " * i + "x") for i in range(5)])
    second = parquet(tmp_path / "b.parquet", [plain(id=f"b{i}") for i in range(5)])
    records = read_records([first, second])
    assert len(records) == 10 and len(set(s.id for s in records)) == 10
    records[3], records[8]  # files are open now
    copy = pickle.loads(pickle.dumps(records))
    assert list(copy) == list(records) and copy.fingerprint == records.fingerprint
    with pytest.raises(IndexError):
        records[10]


def test_ids_are_unique_and_do_not_depend_on_the_place(tmp_path):
    for place in ("here", "there"):
        (tmp_path / place / "x").mkdir(parents=True)
        jsonl(tmp_path / place / "a.jsonl", [plain(id="same"), plain(id="same"), plain()])
        shutil.copy(tmp_path / place / "a.jsonl", tmp_path / place / "x" / "a.jsonl")
    here, there = (
        read_records([str(tmp_path / p / "a.jsonl"), str(tmp_path / p / "x/a.jsonl")])
        for p in ("here", "there")
    )
    ids = [s.id for s in here]
    assert len(set(ids)) == 6 and ids[:3] == ["same", "same@a.jsonl:2", "a:3"]
    assert ids == [s.id for s in there] and here.fingerprint == there.fingerprint
    assert here.fingerprint != read_records([str(tmp_path / "here/a.jsonl")]).fingerprint


def test_names_with_stars_are_expanded(tmp_path):
    for i in range(3):
        jsonl(tmp_path / f"part-{i}.jsonl", [plain(id=str(i))])
    assert [s.id for s in read_records([str(tmp_path / "part-*.jsonl")])] == ["0", "1", "2"]


WRONG = {
    "wrong answer letter": (plain(questions=[QUESTION | {"answer": "F"}]), "questions[0].answer: "),
    "nested field": (
        caprl_image(reward_model={"ground_truth": [QUESTION, QUESTION | {"answer": "Z"}]}),
        "reward_model.ground_truth[1].answer: ",
    ),
    "one choice": (plain(questions=[QUESTION | {"choices": ["A"]}]), "questions[0].choices: "),
    "no choices": (
        plain(questions=[{"question": "x", "answer": "A"}]),
        "questions[0].choices: missing",
    ),
    "no question text": (plain(questions=[QUESTION | {"question": ""}]), "questions[0].question: "),
    "empty question list": (plain(questions=[]), "questions: the list is empty"),
    "no questions": (plain(questions=None), "questions: expected a list"),
    "bad inner json": (caprl_image(reward_model="{"), "reward_model: is a text that is not JSON"),
    "no media": (plain(image=None), "images: no image and no video"),
    "empty prompt": (plain(prompt=""), "prompt: missing or empty"),
    "empty chat": (plain(prompt=[]), "prompt: missing or empty"),
    "role": (plain(prompt=[{"role": "me", "content": "x"}]), "prompt[0].role: 'me'"),
    "assistant last": (
        plain(prompt=[*chat("a"), {"role": "assistant", "content": "b"}]),
        "prompt: the last turn",
    ),
    "placeholders": (
        plain(prompt="<image><image>x"),
        "prompt: 2 <image> placeholder(s) for 1 image(s)",
    ),
    "foreign placeholder": (plain(prompt="<video>x"), "prompt: 0 <image> placeholder(s) for 1"),
    "url": (plain(image="https://example.org/a.png"), "image: 'https://example.org/a.png' is not"),
    "number as image": (plain(images=[3], image=None), "images[0]: expected a path"),
    "not an object": ([1], "record: expected an object"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_with_its_place(tmp_path, name):
    record, expected = WRONG[name]
    file = jsonl(tmp_path / "d.jsonl", [plain(), record])
    with pytest.raises(DataError) as error:
        read_records([file])
    assert f"d.jsonl: line 2: {expected}" in str(error.value)


def test_questions_may_be_missing_where_no_reward_asks_them(tmp_path):
    rows = [plain(), plain(questions=None), plain(questions=[]), caprl_image(reward_model=None)]
    file = jsonl(tmp_path / "d.jsonl", rows)
    assert [len(s.questions) for s in read_records([file], "/m", kind="media")] == [1, 0, 0, 0]
    for wrong in ({"image": None, "questions": None}, {"questions": [QUESTION | {"answer": "F"}]}):
        with pytest.raises(DataError, match=r"line 1: (images: no image|questions\[0\]\.answer)"):
            read_records([jsonl(tmp_path / "w.jsonl", [plain(**wrong)])], kind="media")


def test_malformed_lines_are_counted_by_line(tmp_path):
    good = json.dumps(plain()).encode()
    (tmp_path / "d.jsonl").write_bytes(b"\n" + good + b"\n" + good[:-9] + b"\n\xff\n" + good)
    with pytest.raises(DataError) as error:
        read_records([str(tmp_path / "d.jsonl")])
    text = str(error.value)
    assert "2 problem(s)" in text
    assert "line 3: record: malformed JSON" in text and "line 4: record: not UTF-8" in text


def test_all_problems_are_counted_and_twenty_shown(tmp_path):
    bad = plain(questions=[])
    rows = [plain()] + [bad] * 25
    with pytest.raises(DataError) as error:
        read_records(
            [jsonl(tmp_path / "d.jsonl", rows), parquet(tmp_path / "e.parquet", [plain()])]
        )
    assert str(error.value).count("the list is empty") == 20
    assert "25 problem(s)" in str(error.value) and "and 5 more" in str(error.value)


def test_a_wrong_row_of_parquet_is_named(tmp_path):
    rows = [plain(), plain(questions=[RED_OR_BLUE | {"answer": "Green"}])]
    with pytest.raises(DataError, match=r"d\.parquet: row 2: questions\[0\]\.answer"):
        read_records([parquet(tmp_path / "d.parquet", rows)])


def test_files_that_are_no_data(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "z.jsonl.gz").write_bytes(b"\x1f\x8b00")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    for name, problem in {
        "empty.jsonl": "no records",
        "z.jsonl.gz": "compressed",
        "cut.parquet": "damaged Parquet",
        "absent.jsonl": "cannot be read",
        "absent-*.jsonl": "no file matches",
    }.items():
        with pytest.raises(DataError, match=problem):
            read_records([str(tmp_path / name)])
    with pytest.raises(DataError, match="no data files"):
        read_records([])


def test_a_file_that_changes_under_the_run_is_noticed(tmp_path):
    file = tmp_path / "d.jsonl"
    records = read_records([jsonl(file, [plain(), plain()])])
    file.write_bytes(b"x" * file.stat().st_size)
    with pytest.raises(DataError, match="line 2.*did the file change"):
        records[1]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_a_long_reading_shows_on_a_terminal_how_far_it_is(stream, tmp_path, monkeypatch):
    path = jsonl(tmp_path / "many.jsonl", [plain() for _ in range(50)])
    monkeypatch.setattr(records, "BAR_AFTER_S", 0.0)
    monkeypatch.setattr(sys, "stderr", stream())
    assert len(read_records([path], progress=True)) == 50
    shown = sys.stderr.getvalue()
    expected = ("many.jsonl", "50/50", " lines/s") if sys.stderr.isatty() else ()
    assert all(part in shown for part in expected) and bool(shown) == bool(expected)
