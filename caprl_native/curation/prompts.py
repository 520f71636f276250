"""What writers and solvers are asked, word for word.

Raise `VERSION` with every change: results of one version are not taken for those of another.
"""

from __future__ import annotations

from typing import Any, Literal

from caprl_native.rewards.prompts import lettered
from caprl_native.types import MediaRef

VERSION = 1
Kind = Literal["media", "text"]

NONE_OF_THE_ABOVE = "None of the above"
NONE_OF_THE_ABOVE_CHINESE = "\u4ee5\u4e0a\u90fd\u4e0d\u662f"

_WRITER = """\
You set multiple-choice questions that find out how closely somebody has looked at {what}.

Write {questions} questions about {what} that you are shown. For each:
- {choices} options, of which exactly one is right. The wrong ones are of the same kind and about \
the same length as the right one, and look just as likely to somebody who has not seen {what}.
- The right option can be told from {what} alone, beyond doubt, and neither from general knowledge \
nor from the question's own words.
- It asks for something specific: what things are, their number, colour, place, size, material or \
state, what people do, written words and figures, how things are related. Each question asks for \
something else.
- No option says "all of the above", "none of the above" or that it cannot be told. No question \
speaks of a caption or a description.
- The right option stands now under one letter, now under another.
{times}
Write in this form and add nothing:

#### 1. **The question?**
   - A) an option
   - B) an option
{more}\
**Answer:** B) that option's text
------
"""
_TIMES = """\
- At least {ordered} of the {questions} questions can only be answered by somebody who knows the \
order or the time of events: what comes before, after or during what, what changes, how often and \
how long something happens, when it begins or ends.
- Times are written as mm:ss from the beginning of the video, and none lies beyond its end.
"""
_WRITE = "Write the {questions} questions about {this}."

_CHOOSE = "Answer with the letter of the right option, and with nothing else."
_NOT_SHOWN = (
    "{This} that this question is about is not given. Choose the option that is most likely to be "
    "right."
)
_THINGS = {"image": "an image", "images": "several images", "video": "a video", "videos": "videos"}


def subject(media: tuple[MediaRef, ...]) -> str:
    """What is asked about: "image", "images", "video" or "videos"."""
    kind = "video" if any(m.kind == "video" for m in media) else "image"
    return kind if len(media) == 1 else f"{kind}s"


def writer_messages(
    media: tuple[MediaRef, ...], questions: int, choices: int, time_share: float
) -> tuple[dict[str, Any], ...]:
    """The chat that asks for questions on media. `time_share`: of those on videos that need the
    order or the time of events."""
    what = subject(media)
    ordered = round(questions * time_share)
    times = ""
    if what.startswith("video"):
        times = _TIMES.format(ordered=ordered, questions=questions)
    letters = "".join(f"   - {chr(ord('A') + i)}) an option\n" for i in range(2, choices))
    system = _WRITER.format(
        what=_THINGS[what], questions=questions, choices=choices, times=times, more=letters
    )
    this = f"this {what}" if len(media) == 1 else f"these {what}"
    return (_turn("system", system), _asked(media, _WRITE.format(questions=questions, this=this)))


def solver_messages(
    kind: Kind, media: tuple[MediaRef, ...], question: str, choices: list[str]
) -> tuple[dict[str, Any], ...]:
    """The chat that asks a question, with the media or without them; the same words otherwise."""
    text = f"Question: {question}\n{lettered(choices)}\n\n{_CHOOSE}"
    if kind == "media":
        return (_asked(media, text),)
    text = f"{_NOT_SHOWN.format(This=f'The {subject(media)}')}\n\n{text}"
    return ({"role": "user", "content": text},)


def _turn(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def _asked(media: tuple[MediaRef, ...], text: str) -> dict[str, Any]:
    turn = _turn("user", text)
    turn["content"] = [{"type": m.kind} for m in media] + turn["content"]
    return turn
