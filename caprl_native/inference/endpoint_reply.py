"""What an endpoint's reply says: its text, or one line on why it has none."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

NO_TEXT = "the reply has no text"
NO_LOGPROBS = (
    "the reply has no log-probs of its first token; a reader behind such a server answers with "
    'answers = "sampled"'
)
_MOST_TOKENS = 2**53  # of a count that is one
_LONGEST_FINISH = 32  # characters


@dataclass(frozen=True)
class Said:
    """What came of a request: the model's text, or the `failure`.

    `unanswered`: it is the server's failure (no connection, no reply in time, too busy, an error of
    its own): another server may do better. `refused`: it is the request's, or the model's: the
    server takes no such request, or the reply has no text.
    """

    text: str | None = None
    tokens: int | None = None
    finish: str | None = None  # "stop", "length", or what else the server calls it
    top: tuple[tuple[str, float], ...] = ()  # the likeliest first tokens, and their log-probs
    opened: bool = False  # the model went on with a turn that was opened for it
    failure: str | None = None
    unanswered: bool = False
    refused: bool = False
    prompt_tokens: int | None = None
    requests: int = 0  # that were sent for it, further attempts included
    server: int = 0  # whose answer it is, among several


def read_reply(body: bytes, opening: str = "") -> Said:
    """Reads a chat completion; whatever the bytes are, nothing is raised.

    The text is what comes after `opening`, which some servers repeat. An empty text is the model's
    own if the model stopped there, and missing if it was cut off.
    """
    try:
        reply = json.loads(body)
    except RecursionError:
        return _failed("its JSON is nested too deeply")
    except ValueError as error:
        return _failed(f"it is not JSON ({error})")
    choice, lacking = _found(reply)
    if choice is None:
        return _failed(lacking)
    finish = choice.get("finish_reason")
    if not isinstance(finish, str) or len(finish) > _LONGEST_FINISH:
        finish = None
    text = choice["message"]["content"].removeprefix(opening)
    if not _is_unicode(text):
        return _failed("its text is not Unicode: it holds half of a surrogate pair")
    if not text.strip() and finish not in (None, "stop"):
        return _failed(f"it was cut off before any (finish_reason {finish!r})")
    return Said(text, _tokens(reply), finish, prompt_tokens=_tokens(reply, "prompt_tokens"))


def read_top_tokens(body: bytes) -> Said:
    """Reads the likeliest first tokens of a chat completion; whatever the bytes are, nothing is
    raised."""
    try:
        listed = json.loads(body)["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        top = tuple((entry["token"], float(entry["logprob"])) for entry in listed)
    except (ValueError, LookupError, TypeError, RecursionError, OverflowError):
        return Said(failure=NO_LOGPROBS)
    usual = all(isinstance(token, str) and -math.inf < value <= 0.01 for token, value in top)
    if not top or not usual:
        return Said(failure=NO_LOGPROBS)
    return Said("", top=top)


def _failed(why: str) -> Said:
    return Said(failure=f"{NO_TEXT}: {why}")


def _found(reply: Any) -> tuple[dict[str, Any] | None, str]:
    """The first choice, if it holds a message with a text; else what is not as it should be."""
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(choices, list) or not choices:
        return None, "it has no list of choices"
    if not isinstance(choices[0], dict):
        return None, "choices[0] is no object"
    message = choices[0].get("message")
    if not isinstance(message, dict):
        return None, "choices[0].message is no object"
    if not isinstance(message.get("content"), str):
        return None, "choices[0].message.content is no text"
    return choices[0], ""


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _tokens(reply: dict[str, Any], kind: str = "completion_tokens") -> int | None:
    usage = reply.get("usage")
    count = usage.get(kind) if isinstance(usage, dict) else None
    return count if type(count) is int and 0 <= count < _MOST_TOKENS else None
