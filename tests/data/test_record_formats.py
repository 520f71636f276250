"""Supervised records as LLaVA, ShareGPT and OpenAI write them; and what hostile ones come to."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from caprl_native.config.media import MediaConfig
from caprl_native.config.schema import DataConfig
from caprl_native.data.invalid import Invalid
from caprl_native.data.loader import LoadedSample, SkippedSample, build_loader
from caprl_native.data.record_formats import FORMATS
from caprl_native.data.records import DataError, read_records
from caprl_native.testing.media_files import write_png
from caprl_native.types import Sample

HUMAN, GPT = {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}
ASKED = {"role": "user", "content": "<image>\nWhat?"}
ANSWERED = {"role": "assistant", "content": "A cat."}


def written(folder: Path, *records: Any, as_list: bool = False) -> str:
    file = folder / ("d.json" if as_list else "d.jsonl")
    lines = [json.dumps(record) for record in records]
    file.write_text("[" + ",\n".join(lines) + "]" if as_list else "\n".join(lines))
    return str(file)


def read(folder: Path, *records: Any, as_list: bool = False) -> list[Sample]:
    return list(read_records([written(folder, *records, as_list=as_list)], "/m", kind="response"))


def problem(folder: Path, record: Any) -> str:
    with pytest.raises(DataError) as raised:
        read(folder, record)
    return str(raised.value)


def said(sample: Sample) -> list[tuple[str, str]]:
    return [
        (m["role"], "".join(p.get("text") or f"<{p['type']}>" for p in m["content"]))
        for m in sample.messages
    ]


def url(data: bytes, mime: str = "image/png") -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def test_the_formats_are_registered() -> None:
    assert {"llava", "openai", "plain"} <= set(FORMATS)


@pytest.mark.parametrize("as_list", [False, True])
def test_llava_and_sharegpt(tmp_path: Path, as_list: bool) -> None:
    later = [{"from": "human", "value": "And?"}, {"from": "gpt", "value": "A dog."}]
    records = [
        {"id": 7, "image": "a.png", "conversations": [HUMAN, GPT, *later]},
        {"id": "v", "video": "b.mp4", "conversations": [{**HUMAN, "value": "<video>Go."}, GPT]},
        {"image": ["a.png", "b.png"], "conversations": [{**HUMAN, "value": "<image><image>"}, GPT]},
        {"id": "t", "conversations": [{"from": "system", "value": "Be kind."}, *later]},
        {"image": "a.png", "conversations": json.dumps([HUMAN, GPT])},
    ]
    first, video, two, text, packed = read(tmp_path, *records, as_list=as_list)
    assert first.id == "7" and first.response == "A dog."
    turns = [("user", "<image>\nWhat?"), ("assistant", "A cat."), ("user", "And?")]
    assert said(first) == turns
    assert video.modality == "video" and video.media[0].path == "/m/b.mp4"
    assert [m.path for m in two.media] == ["/m/a.png", "/m/b.png"]
    assert text.modality == "text" and said(text)[0] == ("system", "Be kind.")
    assert packed.response == "A cat." and said(packed) == turns[:1]


def test_openai_messages(tmp_path: Path) -> None:
    png = write_png(tmp_path / "a.png", (40, 32)).read_bytes()
    parts = [
        {"type": "image_url", "image_url": {"url": url(png), "detail": "high"}},
        {"type": "text", "text": "and"},
        {"type": "image_url", "image_url": {"url": f"file://{tmp_path}/a.png"}},
    ]
    records = [
        {"messages": [{"role": "user", "content": parts}, ANSWERED]},
        {"messages": [ASKED, ANSWERED], "images": ["c.png"]},
        {"messages": [{"role": "developer", "content": "Be kind."}, ASKED, ANSWERED],
         "images": [url(png)]},
        {"messages": [{**ASKED, "content": "Hi."},
                      {**ANSWERED, "content": [{"type": "text", "text": "Hello."}]}]},
    ]  # fmt: skip
    own, named, embedded, text = read(tmp_path, *records)
    assert [m.data for m in own.media] == [png, None] and own.response == "A cat."
    assert own.media[1].path == f"{tmp_path}/a.png"
    assert said(own) == [("user", "<image>and<image>")]
    assert own.media[0].name.startswith(f"{tmp_path}/d.jsonl:1#messages[0].content[0].image_url")
    assert named.media[0].path == "/m/c.png" and embedded.media[0].data == png
    assert said(embedded)[0] == ("system", "Be kind.") and text.response == "Hello."


@pytest.mark.parametrize(
    "record",
    [
        {"image": "a.png", "conversations": [HUMAN, GPT]},
        {"images": ["a.png"], "messages": [ASKED, ANSWERED], "tools": "[]"},
        {"image": "a.png", "prompt": "<image>\nWhat?", "response": "A cat."},
    ],
)
def test_a_field_for_the_system_stands_before_the_chat(tmp_path: Path, record: Any) -> None:
    """As LLaMA-Factory's ShareGPT sets have it."""
    kind, plain = read(tmp_path, record | {"system": "Be kind."}, record | {"system": ""})
    assert said(plain) == [("user", "<image>\nWhat?")]
    assert said(kind) == [("system", "Be kind."), *said(plain)] and kind.response == "A cat."


def test_captions_with_the_path_of_an_image(tmp_path: Path) -> None:
    record = {"image_path": "a.png", "caption": "A cat."}
    (sample,) = read(tmp_path, record)
    assert sample.media[0].path == "/m/a.png" and sample.response == "A cat."
    (sample,) = read(tmp_path, record | {"image": "b.png"})
    assert [m.path for m in sample.media] == ["/m/b.png"]


def test_a_file_in_a_data_url_is_decoded_or_skipped(tmp_path: Path) -> None:
    png = write_png(tmp_path / "a.png", (40, 32)).read_bytes()
    records = [
        {"messages": [ASKED, ANSWERED], "images": [url(data)]} for data in (png, b"no image")
    ]
    found = read_records([written(tmp_path, *records)], kind="response")
    config = DataConfig(batch_size=2, workers=0, shuffle=False)
    media = MediaConfig(image_min_pixels=1)
    loader = build_loader(found, config, media, seed=0, shard=0, num_shards=1)
    good, bad = next(loader)
    assert isinstance(good, LoadedSample) and good.prepared[0].image.size == (40, 32)
    assert isinstance(bad, SkippedSample) and "cannot identify" in bad.reason


def chat(*turns: Any, **fields: Any) -> dict[str, Any]:
    return {"image": "a.png", "conversations": list(turns)} | fields


def messages(*turns: Any, **fields: Any) -> dict[str, Any]:
    return {"images": ["a.png"], "messages": list(turns)} | fields


HOSTILE = {
    "gpt first": (chat(GPT, HUMAN, GPT), "conversations[0].from: the assistant speaks first"),
    "gpt after the system": (
        chat({"from": "system", "value": "x"}, GPT),
        "conversations[1].from: the assistant speaks first",
    ),
    "empty answer": (chat(HUMAN, {**GPT, "value": ""}), "conversations[1].value: missing or empty"),
    "blank answer": (chat(HUMAN, {**GPT, "value": " \n"}), "conversations[1].value: missing or"),
    "blank on the way": (
        chat(HUMAN, {**GPT, "value": "\t"}, HUMAN, GPT),
        "conversations[1].value: missing or empty",
    ),
    "no value": (chat(HUMAN, {"from": "gpt"}), "conversations[1].value: missing or empty"),
    "number": (chat(HUMAN, {**GPT, "value": 3}), "conversations[1].value: missing or empty"),
    "role": (chat({**HUMAN, "from": "tool"}, GPT), "conversations[0].from: 'tool' is no role; one"),
    "role of a list": (chat({**HUMAN, "from": ["human"]}, GPT), "conversations[0].from: a list is"),
    "turn": (chat(HUMAN, "A cat."), "conversations[1]: expected a message, got a text"),
    "no turn": (chat(), "conversations: missing or empty"),
    "no answer": (chat(HUMAN), "response: missing or empty"),
    "two images": (chat({**HUMAN, "value": "<image><image>"}, GPT), "2 <image> placeholder(s) for"),
    "no image": (chat(HUMAN, GPT, image=None), "1 <image> placeholder(s) for 0 image(s)"),
    "empty image": (chat(HUMAN, GPT, image=""), "image: expected a path"),
    "image of an answer": (
        chat({**HUMAN, "value": "x"}, {**GPT, "value": "<image>"}),
        "conversations: the last answer has a placeholder <image>, where nothing can be learnt",
    ),
    "half a JSON text": (chat(conversations='[{"from": "human"'), "conversations: is a text that"),
    "deep": (chat(HUMAN, {**GPT, "value": json.loads("[" * 200 + "]" * 200)}), "nested too deeply"),
    "two chats": (chat(HUMAN, GPT, messages=[ASKED]), "conversations: the record has messages"),
    "assistant first": (messages(ANSWERED), "messages[0].role: the assistant speaks first"),
    "blank message": (
        messages(ASKED, {**ANSWERED, "content": "  "}),
        "messages[1].content: missing or empty",
    ),
    "blank parts": (
        messages(ASKED, {**ANSWERED, "content": [{"type": "text", "text": ""}]}),
        "messages[1].content: missing or empty",
    ),
    "null": (messages(ASKED, {**ANSWERED, "content": None}), "messages[1].content: missing or"),
    "calls": (
        messages(ASKED, ANSWERED | {"tool_calls": [{"id": 1}]}),
        "messages[1].tool_calls: a list, which is not learnt",
    ),
    "weight": (messages(ASKED, ANSWERED | {"weight": 0}), "messages[1].weight: all answers of a"),
    "weight of llava": (
        chat(HUMAN, GPT | {"weight": 0}),
        "conversations[1].weight: all answers of a",
    ),
    "loss": (chat(ASKED, ANSWERED | {"loss": False}), "conversations[1].loss: all answers of a"),
    "thoughts": (
        chat(ASKED, ANSWERED | {"reasoning_content": "Well."}),
        "conversations[1].reasoning_content: a text, which is not learnt",
    ),
    "assistant first in conversations": (
        chat(ANSWERED, ASKED, ANSWERED),
        "conversations[0].role: the assistant speaks first",
    ),
    "tools": (chat(HUMAN, GPT, tools='[{"name": "f"}]'), "tools: is no part of the prompt"),
    "sounds": (messages(ASKED, ANSWERED, audios=["a.wav"]), "audios: is no part of the prompt"),
    "system_prompt": (chat(HUMAN, GPT, system_prompt="x"), 'rename it to "system"'),
    "two systems": (
        chat({"from": "system", "value": "x"}, HUMAN, GPT, system="y"),
        "system: the chat has a system turn, too",
    ),
    "system of turns": (chat(HUMAN, GPT, system=["x"]), "system: expected a text, got a list"),
    "image and images": (chat(HUMAN, GPT, images=["a.png"]), "images: the record has image, too"),
    "tool": (messages(ASKED, {"role": "tool", "content": "x"}), "messages[1].role: 'tool' is no"),
    "not a list": (messages(messages={"role": "user"}), "messages: missing or empty"),
    "a web address": (
        messages(ASKED, ANSWERED, images=["https://example.org/a.png"]),
        "images[0]: 'https://example.org/a.png' is not a local file",
    ),
    "base64": (messages(ASKED, ANSWERED, images=["data:image/png;base64,@@"]), "broken base64"),
    "cut": (messages(ASKED, ANSWERED, images=["data:image/png;base64,iVBOR"]), "broken base64"),
    "letters": (messages(ASKED, ANSWERED, images=["data:image/png;base64,\xe9"]), "broken base64"),
    "empty data": (messages(ASKED, ANSWERED, images=["data:image/png;base64,"]), "without data"),
    "text": (messages(ASKED, ANSWERED, images=["data:image/svg+xml,<svg/>"]), "no data URL in bas"),
    "no comma": (messages(ASKED, ANSWERED, images=["data:" + "x" * 10**6]), "no data URL in base"),
    "html": (messages(ASKED, ANSWERED, images=[url(b"x", "text/html")]), "'text/html' in a data"),
    "video": (messages(ASKED, ANSWERED, images=[url(b"x", "video/mp4")]), "URL is no image; give"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, name: str) -> None:
    record, expected = HOSTILE[name]
    said = problem(tmp_path, record)
    assert "1 problem(s)" in said and "d.jsonl: line 1: " in said and expected in said
    assert len(said) < 1000


def test_wrong_records_are_left_out_where_that_is_wished(tmp_path: Path) -> None:
    wrong = [record for record, _ in HOSTILE.values()]
    file = written(tmp_path, chat(HUMAN, GPT), *wrong, messages(ASKED, ANSWERED))
    found = read_records([file], kind="response", invalid=Invalid(records="drop", max_share=1))
    assert len(found) == 2 and found.dropped.dropped_records == len(wrong)
    reasons = found.dropped.reasons
    assert reasons["records: first turn the assistant's"] == 4
    assert reasons["records: empty answer"] >= 5
