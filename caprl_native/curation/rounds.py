"""The rounds in which a question is asked: orders of its choices, and letters that are read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from caprl_native.curation.prompts import (
    NONE_OF_THE_ABOVE,
    NONE_OF_THE_ABOVE_CHINESE,
    Kind,
)
from caprl_native.data.choices import LETTERS
from caprl_native.rewards.questions import ShownQuestion, read_answer
from caprl_native.seeds import rng_of

_QUOTED = re.compile(r"[\"'\u201c\u2018\u300c\u300a](.{1,100}?)[\"'\u201d\u2019\u300d\u300b]")
_LATIN = re.compile(r"[A-Za-z]+")
_CHARACTERS = 1.6  # of a Chinese word
KINDS: tuple[Kind, ...] = ("media", "text")
Offered = Literal["both", "image", "neither"]


def permutations(count: int, rounds: int, *key: int | str) -> list[tuple[int, ...]]:
    """An order of the choices for each round: rotations of a permutation that `key` draws.

    Of as many rounds as there are choices each choice stands once in each place; the next as many
    rotate another permutation.
    """
    found: list[tuple[int, ...]] = []
    for cycle in range(-(-rounds // count)):
        base = list(range(count))
        rng_of("curation", "order", *key, cycle).shuffle(base)
        found += [tuple(base[by:] + base[:by]) for by in range(count)]
    return found[:rounds]


def offers_none(kind: Kind, offered: Offered) -> bool:
    """Whether "None of the above" is among the choices."""
    return offered == "both" or (offered == "image" and kind == "media")


@dataclass(frozen=True)
class Round:
    """A question as it is asked once; `order[i]`: the choice that stands at place i."""

    kind: Kind
    number: int
    order: tuple[int, ...]
    shown: ShownQuestion

    def read(self, output: str) -> dict[str, Any]:
        """What the record holds of the answer."""
        letter = read_answer(output, self.shown)
        return {
            "kind": self.kind,
            "round": self.number,
            "permutation": list(self.order),
            "output": output,
            "letter": letter,
            "right": letter == self.shown.answer,
        }

    def missing(self, reason: str) -> dict[str, Any]:
        """What the record holds where there is no answer."""
        about = {"kind": self.kind, "round": self.number, "permutation": list(self.order)}
        return about | {"failure": reason}


def rounds_of(
    question: str,
    choices: Sequence[str],
    answer: int,
    count: int,
    offered: Offered,
    *key: int | str,
) -> list[Round]:
    """All rounds of a question, both kinds; they have the same orders."""
    return [
        Round(kind, number, order, _shown(question, choices, answer, order, kind, offered))
        for kind in KINDS
        for number, order in enumerate(permutations(len(choices), count, *key))
    ]


def _shown(
    question: str,
    choices: Sequence[str],
    answer: int,
    order: Sequence[int],
    kind: Kind,
    offered: Offered,
) -> ShownQuestion:
    texts = [choices[i] for i in order]
    if offers_none(kind, offered) and len(texts) < len(LETTERS):
        texts.append(NONE_OF_THE_ABOVE_CHINESE if is_chinese(question) else NONE_OF_THE_ABOVE)
    letters = LETTERS[: len(texts)]
    return ShownQuestion(question, tuple(texts), letters, letters[list(order).index(answer)], None)


def is_chinese(text: str) -> bool:
    """Whether a text is written in Chinese; one that quotes some ("What is 出口?") is not."""
    text = _QUOTED.sub(" ", text)
    characters = sum("\u4e00" <= character <= "\u9fff" for character in text)
    return characters > _CHARACTERS * len(_LATIN.findall(text))
