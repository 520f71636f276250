"""What the reader is asked, word for word; the one place where its prompt stands.

Raise `PROMPT_VERSION` with every change: readers trained on one version answer that version.
"""

from __future__ import annotations

import re
from typing import Any

from caprl_native.data.choices import LETTERS
from caprl_native.types import Modality

PROMPT_VERSION = 2

SYSTEM = (
    "You answer multiple-choice questions about a picture or a video that you cannot see. "
    "All you know is its caption."
)
CAPTION_OF = {"image": "Caption of an image:", "video": "Caption of a video:"}
INSTRUCTION = "Answer with the letter of one choice, from the caption alone."
CANNOT_ANSWER = "It cannot be answered from the caption."
ANSWER_PREFIX = "The answer is"  # opens the reader's turn; it goes on with " B"

# A line of a caption that opens as the request does that follows the caption.
_BREAKS = r"\n\r\v\f\x1c-\x1e\x85\u2028\u2029"
_OPENS = re.compile(
    rf"(?:\A|(?<=[{_BREAKS}]))(?=(?:[^\S{_BREAKS}]|[#*_>-])*"
    r"(?:(?:question|answer)\s*\d*\**\s*[:\uff1a]|caption of an? (?:image|video)\b"
    r"|answer with the letter\b|the answer is\b))",
    re.IGNORECASE,
)


def shielded(caption: str) -> str:
    """A caption that cannot pass for the end of itself: what it spells of the request is quoted.

    "Question: ..." at the start of a line becomes "| Question: ..."; other captions stay as they
    are. Control tokens are the reader's business (`text/control_tokens.py`).
    """
    return _OPENS.sub("| ", caption.strip())


def chat(modality: Modality, caption: str, request: str) -> list[dict[str, Any]]:
    """System and user turn: the caption first, so that all questions on it share a prefix.

    Raises KeyError for a text, which has no caption.
    """
    user = f"{CAPTION_OF[modality]}\n{shielded(caption)}\n\n{request}"
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]


def lettered(choices: list[str]) -> str:
    """One line per choice, "A) text". Raises ValueError when the letters do not suffice."""
    if not 2 <= len(choices) <= len(LETTERS):
        raise ValueError(f"2 to {len(LETTERS)} choices can be lettered, not {len(choices)}")
    return "\n".join(f"{letter}) {text}" for letter, text in zip(LETTERS, choices, strict=False))


def reader_messages(
    modality: Modality, caption: str, question: str, choices: list[str]
) -> list[dict[str, Any]]:
    """The chat that asks one question. `choices` are as shown, CANNOT_ANSWER included if offered.

    The caller opens the assistant's turn with ANSWER_PREFIX and lets the reader go on.
    """
    request = f"Question: {question}\n{lettered(choices)}\n\n{INSTRUCTION}"
    return chat(modality, caption, request)
