"""What the reader is asked, word for word; the one place where its prompt stands.

Raise `PROMPT_VERSION` with every change: readers trained on one version answer that version.
"""

from __future__ import annotations

import re
from typing import Any

from caprl_native.data.choices import LETTERS
from caprl_native.text.plain_text import normal_form
from caprl_native.types import Modality

PROMPT_VERSION = 2

SYSTEM = (
    "You answer multiple-choice questions about a picture or a video that you cannot see. "
    "All you know is its caption."
)
CAPTION_OF = {"image": "Caption of an image:", "video": "Caption of a video:"}
INSTRUCTION = "Answer with the letter of one choice, from the caption alone."
CANNOT_ANSWER = "It cannot be answered from the caption."
# What data sets write for it; case, spaces, a full stop and "can not" or "can't" do not matter.
CANNOT_ANSWER_TEXTS = [
    CANNOT_ANSWER,
    "Cannot answer",
    "Cannot answer based on the caption",
    "Cannot answer based on the given caption",
    "Cannot answer based on the provided caption",
    "Cannot answer based on this caption",
    "Cannot answer based on the caption alone",
    "Cannot answer based on the description",
    "Cannot answer from the caption",
    "Cannot answer from the description",
    "Cannot answer the question based on the caption",
    "Cannot answer the question from the caption",
    "Cannot answer this question based on the caption",
    "Cannot be answered",
    "Cannot be answered based on the caption",
    "Cannot be answered based on the given caption",
    "Cannot be answered based on the provided caption",
    "Cannot be answered based on the description",
    "Cannot be answered by the caption",
    "Cannot be answered from the caption",
    "Cannot be answered from the description",
    "Cannot be determined based on the caption",
    "Cannot be determined from the caption",
    "Cannot determine based on the caption",
    "Cannot determine from the caption",
    "It cannot be answered based on the caption",
    "It cannot be determined from the caption",
    "The question cannot be answered based on the caption",
    "The question cannot be answered from the caption",
    "This question cannot be answered based on the caption",
    "\u65e0\u6cd5\u56de\u7b54",  # cannot be answered
    "\u4e0d\u80fd\u56de\u7b54",
    "\u65e0\u6cd5\u6839\u636e\u63cf\u8ff0\u56de\u7b54",  # cannot be answered from the description
    "\u65e0\u6cd5\u6839\u636e\u8be5\u63cf\u8ff0\u56de\u7b54",
    "\u65e0\u6cd5\u6839\u636e\u56fe\u7247\u63cf\u8ff0\u56de\u7b54",  # of the picture
    "\u65e0\u6cd5\u6839\u636e\u89c6\u9891\u63cf\u8ff0\u56de\u7b54",  # of the video
    "\u6839\u636e\u63cf\u8ff0\u65e0\u6cd5\u56de\u7b54",
    "\u6839\u636e\u56fe\u7247\u63cf\u8ff0\u65e0\u6cd5\u56de\u7b54",
    "\u6839\u636e\u89c6\u9891\u63cf\u8ff0\u65e0\u6cd5\u56de\u7b54",
    "\u4e0d\u80fd\u6839\u636e\u63cf\u8ff0\u56de\u7b54",
    "\u65e0\u6cd5\u4ece\u63cf\u8ff0\u4e2d\u56de\u7b54",
    "\u65e0\u6cd5\u4ece\u63cf\u8ff0\u4e2d\u5f97\u77e5",  # cannot be known from the description
    "\u65e0\u6cd5\u6839\u636e\u6807\u9898\u56de\u7b54",  # from the caption
    "\u6839\u636e\u6807\u9898\u65e0\u6cd5\u56de\u7b54",
    "\u65e0\u6cd5\u6839\u636e\u5b57\u5e55\u56de\u7b54",
    "\u6839\u636e\u5b57\u5e55\u65e0\u6cd5\u56de\u7b54",
]
ANSWER_PREFIX = "The answer is"  # opens the reader's turn; it goes on with " B"

# A line of a caption that opens as the request does that follows the caption.
_BREAKS = r"\n\r\v\f\x1c-\x1e\x85\u2028\u2029"
_OPENS = re.compile(
    rf"(?:\A|(?<=[{_BREAKS}]))(?=(?:[^\S{_BREAKS}]|[#*_>-])*"
    r"(?:(?:question|answer)\s*\d*\**\s*[:\uff1a]|caption of an? (?:image|video)\b"
    r"|answer with the letter\b|the answer is\b))",
    re.IGNORECASE,
)


def says_cannot_answer(choice: str) -> bool:
    """Whether a choice, its label aside, says that the caption does not tell."""
    return len(choice) <= 200 and _essence(choice) in _CANNOT_ANSWER


def _essence(text: str) -> str:
    text = " ".join(normal_form(text).casefold().replace("\u2019", "'").split())
    return re.sub(r"\bcan(?: no|')t\b", "cannot", text).strip(" .!\"'\u3002")


_CANNOT_ANSWER = frozenset(_essence(text) for text in CANNOT_ANSWER_TEXTS)


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
