"""What the policy is asked: every known layout of a chat, and fields that are none."""

import json

import pytest

from caprl_native.data.records import DataError, read_records

QUESTIONS = [{"question": "Which colour?", "choices": ["Red", "Blue"], "answer": "Blue"}]


def read(tmp_path, *records, **options):
    file = tmp_path / "d.jsonl"
    file.write_text("".join(json.dumps({"questions": QUESTIONS} | r) + "\n" for r in records))
    return list(read_records([str(file)], "/m", **options))


def shape(sample):
    """Roles and contents, media as their kind."""
    return [
        (m["role"], [p.get("text", "") or f"<{p['type']}>" for p in m["content"]])
        for m in sample.messages
    ]


def paths(sample):
    return [m.path for m in sample.media]


PARTS = {
    "openai": {"type": "image_url", "image_url": {"url": "file:///m/a.png", "detail": "high"}},
    "openai, a text": {"type": "image_url", "image_url": "a.png"},
    "responses": {"type": "input_image", "image_url": "a.png"},
    "qwen": {"type": "image", "image": "a.png", "text": None, "video": None},
    "path": {"type": "image", "path": "a.png"},
    "url": {"type": "image", "url": "a.png"},
}


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("field", ["prompt", "messages"])
def test_parts_may_name_their_files(tmp_path, name, field):
    content = [{"type": "text", "text": "Look:"}, PARTS[name], {"type": "text", "text": "What?"}]
    (sample,) = read(tmp_path, {field: [{"role": "user", "content": content}]})
    assert paths(sample) == ["/m/a.png"] and sample.modality == "image"
    assert shape(sample) == [("user", ["Look:", "<image>", "What?"])]


def test_parts_name_videos_and_images_in_their_order(tmp_path):
    content = [
        {"type": "video_url", "video_url": {"url": "b.mp4"}},
        {"type": "text", "text": "and"},
        {"type": "image_url", "image_url": {"url": "a.png"}},
    ]
    (sample,) = read(tmp_path, {"messages": [{"role": "user", "content": content}]})
    assert paths(sample) == ["/m/b.mp4", "/m/a.png"]
    assert shape(sample) == [("user", ["<video>", "and", "<image>"])]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [{"role": "user", "content": "<image>\nGo."}], "images": ["a.png"]},
        {"conversations": [{"from": "human", "value": "<image>\nGo."}], "image": "a.png"},
        {"conversations": [{"role": "user", "content": "<image>\nGo."}], "image": "a.png"},
        {"problem": "<image>\nGo.", "image": "a.png"},
        {"prompt": "<image>\nGo.", "image": "a.png"},
        {"messages": json.dumps([{"role": "user", "content": "<image>\nGo."}]), "image": "a.png"},
        {
            "prompt": json.dumps([{"role": "user", "content": "<image>\nGo."}], indent=2),
            "image": "a.png",
        },
        {
            "prompt": json.dumps([{"from": "human", "value": "<image>\nGo."}], indent=2),
            "image": "a.png",
        },
    ],
)
def test_the_layouts_say_the_same(tmp_path, record):
    (sample,) = read(tmp_path, record)
    assert shape(sample) == [("user", ["<image>", "\nGo."])] and paths(sample) == ["/m/a.png"]


def test_llava_turns(tmp_path):
    turns = [
        {"from": "system", "value": "Be exact."},
        {"from": "human", "value": "<video>What?"},
        {"from": "gpt", "value": "A dog."},
        {"from": "human", "value": "And then?"},
    ]
    (sample,) = read(tmp_path, {"conversations": turns, "video": "b.mp4"})
    assert shape(sample) == [
        ("system", ["Be exact."]),
        ("user", ["<video>", "What?"]),
        ("assistant", ["A dog."]),
        ("user", ["And then?"]),
    ]


@pytest.mark.parametrize("field", ["conversations", "messages"])
def test_in_supervised_data_the_last_turn_is_the_response(tmp_path, field):
    pairs = [("human", "user", "<image>Go."), ("gpt", "assistant", "A cat.")]
    turns = [
        {"from": a, "value": text} if field == "conversations" else {"role": b, "content": text}
        for a, b, text in pairs
    ]
    record = {field: turns, "image": "a.png"}
    (sample,) = read(tmp_path, record, kind="response")
    assert sample.response == "A cat." and shape(sample) == [("user", ["<image>", "Go."])]
    with pytest.raises(DataError, match=f"line 1: {field}: the last turn is not the user's"):
        read(tmp_path, record)


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"instruction": "Count."}, "instruction: looks like a prompt and would not be used; rena"),
        ({"query": "Count."}, 'query: .*rename it to "prompt", remove it, or set data.prompt'),
        ({"text": "Count."}, "text: looks like a prompt"),
        ({"question": "Count?"}, "question: looks like a prompt"),
        ({"Input": [1]}, "Input: looks like a prompt"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, "messages: .*has prompt"),
        ({"problem": "a", "conversations": [{}]}, "problem: the record has conversations, too"),
        ({"problem": ""}, "problem: missing or empty"),
        (
            {"conversations": [{"from": "bot", "value": "x"}]},
            r"conversations\[0\].from: 'bot' is no role",
        ),
        ({"conversations": [{"from": "human"}]}, r"conversations\[0\].value: missing or empty"),
        ({"conversations": ["x"]}, r"conversations\[0\]: expected a message, got a text"),
        ({"conversations": "Count."}, "conversations: missing or empty"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "unknown part"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "image": "b.png"}]}]},
            "messages: the parts name files, and the record has media fields, too",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "min_pixels": 4}]}]},
            r"messages\[0\].content\[0\].min_pixels: is not known",
        ),
    ],
)
def test_what_would_be_dropped_is_an_error(tmp_path, record, problem):
    with pytest.raises(DataError, match=f"d.jsonl: line 1: .*{problem}"):
        read(tmp_path, {"image": "a.png"} | record)


def test_a_prompt_of_the_config_stands_above_them(tmp_path):
    (sample,) = read(
        tmp_path, {"image": "a.png", "instruction": "Count."}, prompt_override="Describe."
    )
    assert shape(sample) == [("user", ["<image>", "Describe."])]


def test_more_media_than_a_prompt_may_have(tmp_path):
    nine = {"images": [f"{i}.png" for i in range(9)], "prompt": "Describe."}
    assert len(read(tmp_path, nine, max_media=9)[0].media) == 9
    with pytest.raises(DataError) as error:
        read(tmp_path, {"image": "a.png"}, nine, max_media=8)
    assert "line 2: images: 9 media in one prompt, more than media.max_per_prompt = 8" in str(
        error.value
    )


# Lists, and texts that no tokenizer takes


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_list_is_read(tmp_path, indent):
    records = [
        {"id": f"r{i}", "image": "ü[{.png", "prompt": 'a "quoted]" \\ text, {', "questions": q}
        for i, q in enumerate([QUESTIONS, QUESTIONS * 2, QUESTIONS])
    ]
    file = tmp_path / "d.json"
    file.write_text("\ufeff\n" + json.dumps(records, indent=indent, ensure_ascii=False) + "\n")
    found = read_records([str(file)], "/m")
    assert [s.id for s in found] == ["r0", "r1", "r2"] and len(found[1].questions) == 2
    assert found[2].source == f"{file}:3" and paths(found[0]) == ["/m/ü[{.png"]
    assert shape(found[0]) == [("user", ["<image>", 'a "quoted]" \\ text, {'])]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "no records"),
        ('[{"image": "a"}', "malformed JSON: the list has no end"),
        ('[{"image": "a"}] x', "something follows after the list"),
        ('[{"image": "a"},]', "record 2: record: malformed JSON"),
        ('[{"image": "a"} {}]', "record 1: record: malformed JSON"),
        ("[1, 2]", "record 2: record: expected an object, got 2"),
        ("[" * 100_000 + "]" * 100_000, "record 1: record: nested too deeply"),
        ('["' + "x" * 10, "the list has no end"),
        ('[{"image": "a"}, {"image: "b"}]', "record 2, which begins at byte 18, has no end"),
    ],
)
def test_lists_that_are_wrong(tmp_path, text, problem):
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(DataError, match=problem):
        read_records([str(tmp_path / "d.json")])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"image": "a\\u0000.png"}', "image: the text holds a NUL character"),
        ('{"id": "\\ud83d", "image": "a.png"}', "id: the text holds half of a surrogate pair"),
        ('{"image": "a.png", "x": [{"y\\udc00": 1}]}', r"x\[0\]: .* surrogate pair"),
        ('{"image": "a.png", "n": ' + "9" * 5000 + "}", "record: a number has thousands of digits"),
        ('{"image": "a.png", "n": ' + "[" * 99_999 + "}", "record: nested too deeply"),
        ('{"image": "a.png", "n": ' + "[" * 200 + "]" * 200 + "}", "n: nested too deeply"),
        ('{"image": "a.png", "id": [1]}', r"id: expected a text or a number, got a list"),
    ],
)
def test_texts_and_values_that_nothing_can_use(tmp_path, line, problem):
    (tmp_path / "d.jsonl").write_text("\n" + line + "\n")
    with pytest.raises(DataError, match=f"d.jsonl: line 2: {problem}"):
        read_records([str(tmp_path / "d.jsonl")])


def test_whole_surrogate_pairs_are_characters(tmp_path):
    (sample,) = read(tmp_path, {"image": "a.png", "prompt": "\U0001f600"})
    assert shape(sample) == [("user", ["<image>", "\U0001f600"])]


def test_a_pointer_of_git_lfs_is_named_as_such(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
    (tmp_path / "d.parquet").write_text(pointer)
    with pytest.raises(DataError, match="d.parquet: is a Git LFS pointer.*git lfs pull"):
        read_records([str(tmp_path / "d.parquet")])


def test_only_files_are_opened(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.jsonl")
    for name in ("pipe.jsonl", ""):
        with pytest.raises(DataError, match="is not a file"):
            read_records([str(tmp_path / name)])
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(DataError, match="cannot be read"):
            read_records([name])


def test_home_and_patterns_are_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in "ab":
        record = {"image": "i.png", "questions": QUESTIONS, "id": name}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(record))
    found = read_records(["~/*.jsonl"], "~/media")
    assert [s.id for s in found] == ["a", "b"]
    assert paths(found[0]) == [str(tmp_path / "media/i.png")]
