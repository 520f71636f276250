"""The captions of an entry: what the captioner is asked, again where a reply is no good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from caprl_native.captioning.config import CaptionConfig
from caprl_native.captioning.quality import is_degenerate
from caprl_native.config.models import TEMPLATE
from caprl_native.data.chats import DEFAULT_PROMPTS
from caprl_native.data.listing import Entry
from caprl_native.inference.identity import media_settings, model_identity, penalty_identity
from caprl_native.inference.jobs.task import Outcome, Task
from caprl_native.inference.models import Drawn, Request
from caprl_native.inference.store import Reply
from caprl_native.seeds import seed_of
from caprl_native.text.thoughts import CUT_OFF, said

VERSION = 1
STAMPED = (
    "Please describe this video in detail and in strictly chronological order. Begin each part of "
    "the description with the time that it is about, as [mm:ss] or [mm:ss - mm:ss]."
)
_ATTEMPTS = 1000  # seeds of an attempt are so far from those of the next one


class CaptionTask(Task):
    """n captions of an entry's media.

    A record: {"prompt", "captions": [{"text", "tokens", "finish_reason", "seed", and the flags
    that are true: "truncated", "degenerate", "empty"}]}.
    """

    def __init__(self, config: CaptionConfig) -> None:
        self.config = config

    @cached_property
    def identity(self) -> list[Any]:
        model, output = self.config.captioner, self.config.output
        drawn = [model.n, model.video_temperature, model.video_top_p]
        asked = [model.system, self._prompt("image"), self._prompt("video"), model.video_as]
        tries = [output.drop_truncated, output.retry_truncated, output.retry_degenerate]
        media = sorted(media_settings(self.config.media).items())
        return [
            VERSION,
            *model_identity(model, servers=False),
            *drawn,
            *asked,
            *tries,
            self.config.run.seed,
            media,
            *penalty_identity(model),
        ]

    def _prompt(self, modality: str) -> str:
        model = self.config.captioner
        if modality == "image":
            return model.image_prompt or DEFAULT_PROMPTS["image"]
        return model.video_prompt or (STAMPED if model.time_stamps else DEFAULT_PROMPTS["video"])

    def requests(self, entry: Entry) -> Sequence[Request]:
        numbers = range(self.config.captioner.n)
        return [self._request(entry, tuple(_key(i, 0) for i in numbers), self._seed(entry, 0, 0))]

    def _request(self, entry: Entry, keys: tuple[str, ...], seed: int) -> Request:
        model, modality = self.config.captioner, _modality(entry)
        content = [{"type": m.kind} for m in entry.media]
        text = {"type": "text", "text": self._prompt(modality)}
        messages: list[dict[str, Any]] = [{"role": "user", "content": [*content, text]}]
        if model.system and model.system != TEMPLATE:
            system = {"type": "text", "text": model.system}
            messages.insert(0, {"role": "system", "content": [system]})
        of_videos = Drawn(model.video_temperature, model.video_top_p)
        drawn = of_videos if modality == "video" else None
        return Request(keys, tuple(messages), seed, entry.id, entry.media, drawn=drawn)

    def _seed(self, entry: Entry, number: int, attempt: int) -> int:
        first = seed_of("bulk caption", self.config.run.seed, entry.id)
        return (first + attempt * _ATTEMPTS + number) % 2**31

    def finish(self, entry: Entry, replies: Mapping[str, Reply]) -> Outcome:
        if failure := next((r.failure for r in replies.values() if r.failure), None):
            return Outcome(failure=failure)
        captions, again, counts = [], [], Counter[str]()
        for number in range(self.config.captioner.n):
            tries = list(_attempts(replies, number))
            made = [self._caption(entry, number, i, reply) for i, reply in enumerate(tries)]
            best = min(made, key=_badness)  # the first of equally good ones
            if _flags(best) and self._worth_another(made):
                keys, seed = (_key(number, len(made)),), self._seed(entry, number, len(made))
                again.append(self._request(entry, keys, seed))
            captions.append(best)
            counts["retries"] += len(made) - 1
        if again:
            return Outcome(again=again)
        if failure := self._failure(captions):
            return Outcome(failure=failure)
        for caption in captions:
            counts["tokens"] += caption["tokens"] or 0
            counts.update(_flags(caption))
        given = {name: count for name, count in counts.items() if count}
        return Outcome(
            {"prompt": self._prompt(_modality(entry)), "captions": captions}, counts=given
        )

    def _caption(self, entry: Entry, number: int, attempt: int, reply: Reply) -> dict[str, Any]:
        spoken = said(reply.text or "")
        text = "" if spoken.cut_off else spoken.text.strip()
        caption = {
            "text": text,
            "tokens": reply.tokens,
            "finish_reason": reply.finish,
            "seed": self._seed(entry, number, attempt),
        }
        flags = {
            "truncated": reply.finish == "length",
            "degenerate": is_degenerate(text),
            "empty": not text,
        }
        return caption | {name: True for name, value in flags.items() if value}

    def _worth_another(self, made: Sequence[dict[str, Any]]) -> bool:
        """Whether the settings allow one more attempt, after these that are no good."""
        output = self.config.output
        allowed = {
            "truncated": output.retry_truncated,
            "degenerate": output.retry_degenerate,
            "empty": output.retry_degenerate,
        }
        # A caption in a loop is cut off as well, as a rule: either setting asks for another.
        return len(made) <= max(allowed[flag] for flag in _flags(made[-1]))

    def _failure(self, captions: Sequence[dict[str, Any]]) -> str:
        if any(c.get("empty") for c in captions):
            thought = any(c.get("truncated") for c in captions)
            return f"caption: {CUT_OFF if thought else 'the model wrote nothing'}"
        if self.config.output.drop_truncated and any(c.get("truncated") for c in captions):
            most = self.config.captioner.max_tokens
            return f"caption: has no end within captioner.max_tokens = {most}"
        return ""


def _modality(entry: Entry) -> str:
    return "video" if any(m.kind == "video" for m in entry.media) else "image"


def _key(number: int, attempt: int) -> str:
    return f"{number}.{attempt}"


def _attempts(replies: Mapping[str, Reply], number: int) -> Sequence[Reply]:
    """The replies of a caption, first to last."""
    found: list[Reply] = []
    while (key := _key(number, len(found))) in replies:
        found.append(replies[key])
    return found


def _badness(caption: Mapping[str, Any]) -> tuple[bool, ...]:
    """Orders captions: fine ones, those cut off, those that repeat themselves, empty ones."""
    return tuple(bool(caption.get(name)) for name in ("empty", "degenerate", "truncated"))


def _flags(caption: Mapping[str, Any]) -> list[str]:
    return [name for name in ("truncated", "degenerate", "empty") if caption.get(name)]
