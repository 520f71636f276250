"""The tokens by which an answer may open, and what their probabilities say of each choice.

An answer means a choice when it opens with the choice's label (" B", "b", "(B") or with its text
(" red"). All these openings of a question form a tree of tokens. One pass of the reader gives the
probabilities of the tokens at its root, which is nearly always enough: a token that leads to one
choice alone is that choice's. Where a likely token is shared by several ("the left", "the right";
"A" and "A man"), a further pass behind it tells them apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from caprl_native.data.choices import LETTERS

MOST_TOKENS = 128  # at one place, of which vLLM gives log-probs
SHARED = 0.01  # a token that several choices share is looked behind from this probability on
_ARTICLES = "AI"  # in lower case a word ("a man")


def label_forms(letter: str) -> Iterator[str]:
    """What a reader may write for a label after "The answer is", the likeliest first."""
    letters = [letter] if letter in _ARTICLES else [letter, letter.lower()]
    for form in (" {}", "{}", " ({}", "({}", " **{}", "**{}"):
        yield from (form.format(one) for one in letters)


@dataclass
class Node:
    """A place in the tree: the choices whose openings pass through it, and those that end here."""

    choices: set[int] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)
    children: dict[int, Node] = field(default_factory=dict)

    @property
    def tokens(self) -> list[int]:
        """The tokens that lead on from here; the first ones, where the engine takes no more."""
        return list(self.children)[:MOST_TOKENS]


def tree_of(openings: Iterable[tuple[int, Sequence[int]]]) -> Node:
    """The tree of (choice, its tokens)."""
    root = Node()
    for choice, tokens in openings:
        node = root
        for token in tokens:
            node = node.children.setdefault(token, Node())
            node.choices.add(choice)
        node.ended.add(choice)
    return root


class Tokens:
    """What a tokenizer makes of texts that go on after `opening`, up to `depth` tokens of each."""

    def __init__(self, tokenizer: Any, opening: str, depth: int) -> None:
        self._tokenizer, self._opening, self._depth = tokenizer, opening, depth
        self._before = self._ids(opening)
        self._known: dict[str, tuple[int, ...]] = {}

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def after(self, text: str) -> tuple[int, ...]:
        """Empty where the text melts into the opening's last token."""
        if text not in self._known:
            ids, end = self._ids(self._opening + text), len(self._before)
            goes_on = ids[:end] == self._before
            self._known[text] = tuple(ids[end : end + self._depth]) if goes_on else ()
        return self._known[text]

    def tree(self, choices: Sequence[str]) -> Node:
        """All openings of an answer to a question with these choices, the likeliest ones first."""
        forms = [[*label_forms(letter)] for letter, _ in zip(LETTERS, choices, strict=False)]
        texts = [[f" {choice}", choice] for choice in choices]
        ordered = [
            (choice, form)
            for i in range(max(map(len, forms)))
            for kind in (forms, texts)
            for choice, its in enumerate(kind)
            for form in its[i : i + 1]
        ]
        found = ((choice, self.after(form)) for choice, form in ordered)
        return tree_of((choice, tokens) for choice, tokens in found if tokens)


@dataclass(frozen=True)
class Place:
    """A node, the tokens that lead to it, and how likely the reader is to write these."""

    node: Node
    path: tuple[int, ...] = ()
    mass: float = 1.0


class Chances:
    """The probabilities of a question's choices, as the reader's passes come in."""

    def __init__(self, count: int) -> None:
        self.of_choices = [0.0] * count

    def take(self, place: Place, logprobs: Mapping[int, float]) -> list[Place]:
        """Takes the log-probs (nats) of the tokens that follow a place; returns the places behind
        them that have to be asked about, too.

        What goes on otherwise than any opening means the choice that ends here, if it is one.
        """
        left, further = place.mass, []
        for token, node in place.node.children.items():
            mass = place.mass * math.exp(logprobs.get(token, -math.inf))
            left -= mass
            if len(node.choices) > 1 and node.children and mass > SHARED:
                further.append(Place(node, (*place.path, token), mass))
            else:
                self._give(node.choices if len(node.choices) == 1 else node.ended, mass)
        self._give(place.node.ended, max(0.0, left))
        return further

    def _give(self, choices: set[int], mass: float) -> None:
        if len(choices) == 1:
            (choice,) = choices
            self.of_choices[choice] += mass
