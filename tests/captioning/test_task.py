"""What the captioner is asked about an entry, and what becomes of its replies."""

from __future__ import annotations

from typing import Any

import pytest

from caprl_native.captioning.config import CaptionConfig
from caprl_native.captioning.quality import is_degenerate
from caprl_native.captioning.task import STAMPED, CaptionTask
from caprl_native.data.listing import Entry
from caprl_native.inference.models import Request
from caprl_native.inference.store import Reply
from caprl_native.types import MediaRef

IMAGE = Entry("a", (MediaRef("image", "a.png"),))
VIDEO = Entry("v", (MediaRef("video", "v.mp4"),))
LOOP = "It is red. " * 40


def task(**tables: dict[str, Any]) -> CaptionTask:
    captioner = {"endpoint": "http://127.0.0.1:1/v1", "model": "m"} | tables.get("captioner", {})
    return CaptionTask(CaptionConfig(**tables | {"captioner": captioner}))


def only(task: CaptionTask, entry: Entry) -> Request:
    (request,) = task.requests(entry)
    return request


def text_of(request: Request) -> str:
    return request.messages[-1]["content"][-1]["text"]


def test_images_and_videos_have_their_own_prompt_and_sampling() -> None:
    image, video = only(task(), IMAGE), only(task(), VIDEO)
    assert text_of(image) == "Please describe this image in detail." and image.drawn is None
    assert text_of(video) == "Please describe this video in detail."
    assert video.drawn and (video.drawn.temperature, video.drawn.top_p) == (0.7, 0.8)
    assert [part["type"] for part in video.messages[-1]["content"]] == ["video", "text"]
    stamped = task(captioner={"time_stamps": True})
    assert text_of(only(stamped, VIDEO)) == STAMPED and "image" in text_of(only(stamped, IMAGE))
    own = task(captioner={"time_stamps": True, "video_prompt": "What happens?", "system": "Short."})
    assert text_of(only(own, VIDEO)) == "What happens?"
    assert only(own, VIDEO).messages[0]["content"][0]["text"] == "Short."


def test_seeds_depend_on_the_id_and_the_runs_seed_alone() -> None:
    assert only(task(), IMAGE).seed == only(task(), Entry("a", VIDEO.media)).seed
    seeds = {only(task(run={"seed": s}), e).seed for s in (0, 1) for e in (IMAGE, VIDEO)}
    assert len(seeds) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"captioner": {"image_prompt": "x"}},
        {"captioner": {"n": 2}},
        {"captioner": {"max_tokens": 5}},
        {"captioner": {"video_top_p": 0.5}},
        {"captioner": {"system": ""}},
        {"run": {"seed": 3}},
        {"media": {"image_max_pixels": 4096}},
        {"output": {"retry_truncated": 1}},
    ],
)
def test_what_captions_depend_on_is_in_the_identity(change: dict[str, Any]) -> None:
    assert task(**change).identity != task().identity


def test_how_the_job_runs_is_not() -> None:
    other = task(run={"replicas": 3, "chunk": 5}, output={"file": "x", "format": "llava"})
    assert other.identity == task().identity


def test_a_caption_with_its_flags() -> None:
    outcome = task().finish(IMAGE, {"0.0": Reply(LOOP, 160, "length")})
    assert outcome.record is not None
    (caption,) = outcome.record["captions"]
    assert (
        caption["truncated"]
        and caption["degenerate"]
        and caption["seed"] == only(task(), IMAGE).seed
    )
    assert outcome.counts == {"tokens": 160, "truncated": 1, "degenerate": 1}


def test_thoughts_are_no_caption() -> None:
    good = task().finish(IMAGE, {"0.0": Reply("<think>hm</think> A cat.", 9, "stop")})
    assert good.record and good.record["captions"][0]["text"] == "A cat."
    cut = task().finish(IMAGE, {"0.0": Reply("<think>hm", 9, "length")})
    assert "thoughts were cut off" in cut.failure
    assert task().finish(IMAGE, {"0.0": Reply(" ", 1, "stop")}).failure.endswith("wrote nothing")


def test_a_failure_is_the_entrys() -> None:
    outcome = task().finish(IMAGE, {"0.0": Reply(failure="media: broken")})
    assert outcome.failure == "media: broken" and outcome.record is None


def test_what_is_cut_off_is_tried_again_with_another_seed_and_then_kept_or_dropped() -> None:
    cut, whole = Reply("A cat", 4, "length"), Reply("A cat.", 5, "stop")
    retrying = task(output={"retry_truncated": 2})
    replies = {"0.0": cut}
    seeds = {only(retrying, IMAGE).seed}
    for attempt in (1, 2):
        (again,) = retrying.finish(IMAGE, replies).again
        assert again.keys == (f"0.{attempt}",) and again.media == IMAGE.media
        seeds.add(again.seed)
        replies[f"0.{attempt}"] = cut
    assert len(seeds) == 3
    kept = retrying.finish(IMAGE, replies)
    assert kept.record and kept.record["captions"][0]["truncated"] and kept.counts["retries"] == 2
    replies["0.2"] = whole
    good = retrying.finish(IMAGE, replies)
    assert good.record and good.record["captions"] == [
        {"text": "A cat.", "tokens": 5, "finish_reason": "stop", "seed": again.seed}
    ]
    dropped = task(output={"drop_truncated": True}).finish(IMAGE, {"0.0": cut})
    assert "captioner.max_tokens = 4096" in dropped.failure


def test_a_loop_that_is_cut_off_is_tried_again_by_either_setting() -> None:
    loop = {"0.0": Reply(LOOP, 160, "length")}
    assert task(output={"retry_truncated": 1}).finish(IMAGE, loop).again
    assert task(output={"retry_degenerate": 1}).finish(IMAGE, loop).again
    assert not task().finish(IMAGE, loop).again


def test_where_no_attempt_is_good_the_least_bad_one_is_taken() -> None:
    trying = task(output={"retry_degenerate": 2})
    loop, cut, empty = Reply(LOOP, 160, "stop"), Reply("A cat", 5, "length"), Reply("", 1, "stop")
    for replies in ([empty, cut, loop], [loop, cut, Reply("A dog", 5, "length")]):
        outcome = trying.finish(IMAGE, {f"0.{i}": reply for i, reply in enumerate(replies)})
        assert outcome.record and outcome.record["captions"][0]["text"] == "A cat"


def test_of_several_captions_the_bad_ones_alone_are_tried_again() -> None:
    several = task(captioner={"n": 3}, output={"retry_degenerate": 1})
    assert only(several, IMAGE).keys == ("0.0", "1.0", "2.0")
    good = Reply("A cat.", 5, "stop")
    replies = {"0.0": good, "1.0": Reply(LOOP, 160, "stop"), "2.0": Reply("", 1, "stop")}
    again = several.finish(IMAGE, replies).again
    assert [request.keys for request in again] == [("1.1",), ("2.1",)]
    outcome = several.finish(IMAGE, replies | {"1.1": good, "2.1": good})
    assert outcome.record and [c["text"] for c in outcome.record["captions"]] == ["A cat."] * 3


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A red square stands on a lake. " * 3, False),
        ("A red square stands on a lake. " * 10, True),
        ("red " * 49, False),
        ("red " * 50, True),
        ("the " * 200 + "end", False),
        (" ".join(f"w{i}" for i in range(70)) * 1, False),
        ((" ".join(f"w{i}" for i in range(70)) + " ") * 3, True),
        ("红色的方块在湖上。" * 3, False),
        ("红色的方块在湖上。" * 8, True),
        ("A list: one, two, three, four, five, six.", False),
        ("", False),
    ],
)
def test_an_end_that_repeats_itself_is_seen(caption: str, expected: bool) -> None:
    assert is_degenerate(caption) == expected


def test_a_long_text_is_looked_at_in_no_time() -> None:
    assert is_degenerate("ab" * 5_000_000) is False
    assert is_degenerate("a b " * 2_000_000) is True
