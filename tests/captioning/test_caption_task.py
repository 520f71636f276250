"""What a captioner is asked about an entry, and what becomes of its replies."""

from __future__ import annotations

import random
from typing import Any

import pytest

from caprl_native.captioning.config import CaptionConfig
from caprl_native.captioning.quality import is_degenerate
from caprl_native.captioning.task import STAMPED, CaptionTask
from caprl_native.data.listing import Entry
from caprl_native.inference.models import Drawn
from caprl_native.inference.store import Reply
from caprl_native.types import MediaRef

IMAGE = Entry("a", (MediaRef("image", "a.png"),))
VIDEO = Entry("v", (MediaRef("video", "v.mp4"),))
LOOP = "a red car passes by, " * 40


def task(captioner: dict[str, Any] | None = None, **output: Any) -> CaptionTask:
    settings = {"captioner": {"endpoint": "http://x", "model": "m", **(captioner or {})}}
    return CaptionTask(CaptionConfig.model_validate(settings | {"output": output}))


def said(*texts: str, finish: str = "stop") -> dict[str, Reply]:
    return {f"{i}.0": Reply(text, 5, finish) for i, text in enumerate(texts)}


def test_images_and_videos_have_prompts_and_sampling_of_their_own() -> None:
    (image,), (video,) = task().requests(IMAGE), task().requests(VIDEO)
    assert image.messages[0]["content"] == [
        {"type": "image"},
        {"type": "text", "text": "Please describe this image in detail."},
    ]
    assert image.drawn is None and video.drawn == Drawn(0.7, 0.8)
    assert video.messages[0]["content"][-1]["text"] == "Please describe this video in detail."
    (stamped,) = task({"time_stamps": True}).requests(VIDEO)
    assert stamped.messages[0]["content"][-1]["text"] == STAMPED
    (own,) = task({"time_stamps": True, "video_prompt": "What?"}).requests(VIDEO)
    assert own.messages[0]["content"][-1]["text"] == "What?"


@pytest.mark.parametrize("system", ["", "template", "Be brief."])
def test_only_a_text_is_a_system_turn(system: str) -> None:
    (request,) = task({"system": system}).requests(IMAGE)
    roles = [turn["role"] for turn in request.messages]
    assert roles == (["system", "user"] if system == "Be brief." else ["user"])


def test_seeds_depend_on_the_id_and_the_jobs_seed_alone() -> None:
    moved = Entry("a", (MediaRef("image", "elsewhere/a.png"),), {"x": 1}, "list:7")
    (one,), (two,) = task().requests(IMAGE), task().requests(moved)
    assert one.seed == two.seed != task().requests(VIDEO)[0].seed
    other = CaptionTask(CaptionConfig.model_validate({"run": {"seed": 1}}))
    assert other.requests(IMAGE)[0].seed != one.seed


def test_several_captions_are_one_request_with_a_seed_each() -> None:
    several = task({"n": 3})
    (request,) = several.requests(IMAGE)
    assert request.keys == ("0.0", "1.0", "2.0")
    record = several.finish(IMAGE, said("x", "y", "z")).record
    assert record is not None
    assert [c["seed"] - request.seed for c in record["captions"]] == [0, 1, 2]


def test_flags_and_counts() -> None:
    outcome = task({"n": 2}).finish(IMAGE, said("A cat.", LOOP, finish="length"))
    assert outcome.record is not None
    fine, looped = outcome.record["captions"]
    assert fine["truncated"] and "degenerate" not in fine and looped["degenerate"]
    assert outcome.counts == {"tokens": 10, "truncated": 2, "degenerate": 1}


def test_thoughts_are_no_caption() -> None:
    outcome = task().finish(IMAGE, said("<think>hm</think> A cat."))
    assert outcome.record is not None and outcome.record["captions"][0]["text"] == "A cat."
    cut = task().finish(IMAGE, said("<think>hm, a cat", finish="length"))
    assert "cut off before" in cut.failure
    assert task().finish(IMAGE, said("  ")).failure == "caption: the model wrote nothing"


def test_a_truncated_caption_is_tried_again_and_the_first_kept_where_none_is_whole() -> None:
    trying = task(retry_truncated=2)
    replies = said("cut", finish="length")
    for number in (1, 2):
        (request,) = trying.finish(IMAGE, replies).again
        assert request.keys == (f"0.{number}",)
        assert request.seed != trying.requests(IMAGE)[0].seed
        replies[f"0.{number}"] = Reply(f"cut {number}", 5, "length")
    record = trying.finish(IMAGE, replies).record
    assert record is not None and record["captions"][0]["text"] == "cut"
    whole = trying.finish(IMAGE, replies | {"0.2": Reply("whole", 5, "stop")})
    assert whole.record is not None and whole.record["captions"][0]["text"] == "whole"
    assert whole.counts["retries"] == 2 and "truncated" not in whole.counts


def test_of_several_captions_the_bad_one_alone_is_tried_again() -> None:
    trying = task({"n": 3}, retry_degenerate=1)
    replies = said("fine", LOOP, "fine too")
    (request,) = trying.finish(IMAGE, replies).again
    assert request.keys == ("1.1",) and len(request.media) == 1
    record = trying.finish(IMAGE, replies | {"1.1": Reply("better", 5, "stop")}).record
    assert record is not None
    assert [c["text"] for c in record["captions"]] == ["fine", "better", "fine too"]


def test_truncated_captions_are_failures_where_asked_for() -> None:
    dropping = task({"max_tokens": 7}, drop_truncated=True)
    assert "max_tokens = 7" in dropping.finish(IMAGE, said("cut", finish="length")).failure
    assert dropping.finish(IMAGE, said("whole")).record


def test_a_failed_request_is_the_entrys_failure() -> None:
    failed = {"0.0": Reply(failure="media: a.png: damaged")}
    assert task(retry_degenerate=3).finish(IMAGE, failed).failure == "media: a.png: damaged"


CHANGES: list[dict[str, dict[str, Any]]] = [
    {"captioner": {"model": "other"}},
    {"captioner": {"image_prompt": "What?"}},
    {"captioner": {"time_stamps": True}},
    {"captioner": {"system": "Be brief."}},
    {"captioner": {"temperature": 0.5}},
    {"captioner": {"video_temperature": 0.5}},
    {"captioner": {"video_top_p": 0.5}},
    {"captioner": {"max_tokens": 9}},
    {"captioner": {"n": 2}},
    {"media": {"video_max_frames": 8}},
    {"output": {"retry_truncated": 1}},
    {"run": {"seed": 1}},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_results_of_other_settings_are_not_taken(change: dict[str, dict[str, Any]]) -> None:
    base = {"captioner": {"endpoint": "http://x", "model": "m"}}
    changed = {**base, **change}
    if "captioner" in change:
        changed["captioner"] = base["captioner"] | change["captioner"]
    one, two = (CaptionTask(CaptionConfig.model_validate(c)) for c in (base, changed))
    assert one.identity != two.identity


@pytest.mark.parametrize(
    "text",
    [
        "The picture shows a street. " + LOOP,
        "A long list: " + "no, " * 60,
        "街道上有一辆红色的汽车。" * 8,
        " ".join(f"w{i}" for i in range(90)) + (" " + " ".join(f"x{i}" for i in range(90))) * 3,
        "!" * 400,
    ],
)
def test_ends_that_repeat_themselves_are_seen(text: str) -> None:
    assert is_degenerate(text)


def test_ordinary_texts_are_not() -> None:
    rng = random.Random(0)
    words = [f"w{i}" for i in range(300)]
    assert not is_degenerate(" ".join(rng.choices(words, k=3000)))
    assert not is_degenerate("")
    assert not is_degenerate("A cat. A cat. A cat.")
    rows = "".join(
        f"[{i:02d}:00 - {i:02d}:30] The man walks on and looks at shop {i}. " for i in range(9)
    )
    assert not is_degenerate(rows)
    assert not is_degenerate(LOOP + "Then the street is empty and the lamps go out one by one.")
