"""The client's side of the protocol: captions to the body of a request, and its reply to scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from caprl_native.data.choices import LETTERS
from caprl_native.messages import cut
from caprl_native.redact import redact
from caprl_native.rewards.base import Caption, Score, missing
from caprl_native.rewards.service.protocol import KEY_SEPARATOR, MAX_SEED, Mode
from caprl_native.rewards.service.question_text import question_text

_REASON = 500  # characters of a server's reason
_HUGE = 10**9  # an integer beyond what a float holds is no reward either


class NotAskable(ValueError):
    """A caption that the protocol cannot say; the text is the reason of its missing score."""


class WrongReply(ValueError):
    """A reply that is not of the protocol."""


@dataclass(frozen=True)
class Exchange:
    """How one client speaks: which protocol, which mode, and what it takes for a reward.

    `scale`: what `rewards` are multiplied by where a server sends no list of the mode's own; 0:
    such a reply is refused, since it may hold other terms and weights. `draws`: questions per
    caption; None: as many as the server draws.
    """

    protocol: Literal["native", "reference"] = "native"
    mode: Mode = "qa"
    scale: float = 0.0
    lowest: float = 0.0
    max_choices: int = 6
    draws: int | None = None

    # --- requests -----------------------------------------------------------------------------

    def check(self, caption: Caption) -> None:
        """Raises NotAskable."""
        sample = caption.sample
        if sample.modality == "text":
            raise NotAskable("the sample has no image or video")
        if self.mode == "vl_judge":
            _media_of(caption, self.protocol)
            return
        if not sample.questions:
            raise NotAskable("the sample has no questions")
        most = max(len(q.choices) for q in sample.questions)
        if self.protocol == "reference" and most > self.max_choices:
            raise NotAskable(
                f"a question has {most} choices; a server of the reference's protocol takes "
                f"{self.max_choices}"
            )

    def body(self, captions: Sequence[Caption]) -> dict[str, Any]:
        """A request for all these captions, each of which `check` has passed."""
        body: dict[str, Any]
        if self.mode == "vl_judge":
            samples = [{"caption": c.text, **_media_of(c, self.protocol)} for c in captions]
            body = {"score_mode": "vl_judge", "samples": samples}
        else:
            body = {"prompts": [[c.text, self._questions(c)] for c in captions]}
        if self.protocol == "reference":
            return body | ({} if self.mode == "vl_judge" else {"query": [], "labels": []})
        body |= {
            "score_mode": self.mode,
            "seed": int(captions[0].key[0]) % MAX_SEED if captions else 0,
            "keys": [KEY_SEPARATOR.join(map(str, c.key[1:])) for c in captions],
            "tasks": [c.sample.modality for c in captions],
            "detail": True,
        }
        return body | ({} if self.draws is None else {"draws": self.draws})

    def _questions(self, caption: Caption) -> list[Any]:
        questions = caption.sample.questions
        if self.protocol == "reference":
            return [[question_text(q), LETTERS[q.answer]] for q in questions]
        return [
            {"question": q.question, "choices": list(q.choices), "answer": q.answer}
            | ({} if q.weight == 1 else {"weight": q.weight})
            for q in questions
        ]

    # --- replies ------------------------------------------------------------------------------

    def scores(self, reply: Any, count: int) -> list[Score]:
        """What a reply to `count` captions says. Raises WrongReply."""
        if not isinstance(reply, dict):
            raise WrongReply("the reply is no object")
        values, scale = self._values(reply, count)
        failures = reply.get("failures")
        failures = failures if isinstance(failures, dict) else {}
        parts, readings = (_list(reply.get(name), count) for name in ("parts", "readings"))
        return [
            self._score(value, scale, failures.get(str(i)), parts[i], readings[i])
            for i, value in enumerate(values)
        ]

    def _values(self, reply: dict[str, Any], count: int) -> tuple[list[Any], float]:
        name, scale = {"qa": "qa_rewards", "vl_judge": "judge_rewards"}[self.mode], 1.0
        if name not in reply:
            if not self.scale and count:
                raise WrongReply(
                    f"the reply has no {name}; a server that sends rewards alone needs scale "
                    "(0.5 for CapRL 1.0)"
                )
            name, scale = "rewards", self.scale
        values = reply.get(name)
        if not isinstance(values, list):
            raise WrongReply(f"{name} is no list")
        if len(values) != count:
            raise WrongReply(f"{len(values)} {name} for {count} captions")
        return values, scale

    def _score(self, value: Any, scale: float, failure: Any, parts: Any, reading: Any) -> Score:
        if value is None or failure is not None:
            return missing(f"the service: {_line(failure) or 'no reward, and no reason'}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            return missing("the service: a reward that is no number")
        value = scale * float(value) if not abs(value) >= _HUGE else math.inf
        if not math.isfinite(value) or not self.lowest <= value <= 1:
            return missing(f"the service: a reward of {value}; valid: {self.lowest:g} to 1")
        return Score(
            value,
            reading=[r for r in reading if isinstance(r, dict)] if reading else [],
            parts=_parts(parts),
        )


def _media_of(caption: Caption, protocol: str) -> dict[str, str]:
    media = caption.sample.media
    whole = len(media) == 1 and media[0].path and media[0].start is media[0].end is None
    if not whole or media[0].fps is not None:
        raise NotAskable("the service judges captions of one whole file, named by its path")
    if protocol == "reference" and media[0].kind != "video":
        raise NotAskable("the reference's protocol names videos alone")
    return {f"{media[0].kind}_path": str(media[0].path)}


def _list(value: Any, count: int) -> list[Any]:
    return value if isinstance(value, list) and len(value) == count else [None] * count


def _parts(parts: Any) -> dict[str, float]:
    """A term's parts by their own names ("accuracy/misled" is `misled` here)."""
    found = parts if isinstance(parts, dict) else {}
    return {
        cut(str(name).rpartition("/")[2], 64): float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def _line(failure: Any) -> str:
    return cut(redact(failure), _REASON) if isinstance(failure, str) else ""
