"""What the reader is asked, word for word; the one place where its prompt stands.

Raise `PROMPT_VERSION` with every change: readers trained on one version answer that version.
"""

from __future__ import annotations

from typing import Any

from caprl_native.data.choices import LETTERS
from caprl_native.types import Modality

PROMPT_VERSION = 1

SYSTEM = (
    "You answer multiple-choice questions about a picture or a video that you cannot see. "
    "All you know is its caption."
)
CAPTION_OF = {"image": "Caption of an image:", "video": "Caption of a video:"}
INSTRUCTION = "Answer with the letter of one choice, from the caption alone."
CANNOT_ANSWER = "It cannot be answered from the caption."
ANSWER_PREFIX = "The answer is"  # opens the reader's turn; it goes on with " B"


def chat(modality: Modality, caption: str, request: str) -> list[dict[str, Any]]:
    """System and user turn: the caption first, so that all questions on it share a prefix.

    Raises KeyError for a text, which has no caption.
    """
    user = f"{CAPTION_OF[modality]}\n{caption.strip()}\n\n{request}"
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
