"""The tree of an answer's openings: what passes of the reader say of each choice."""

from __future__ import annotations

import math
import random
from functools import cache

import pytest

from caprl_native.rewards.readers.openings import MOST_TOKENS, SHARED, Chances, Place, Tokens
from caprl_native.rewards.readers.top_tokens import at_temperature, chances

OPENING = "The answer is"


class Pieces:
    """A tokenizer of words with the blank before them; longer ones in pieces of four letters."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        words = [w if w.startswith("The") else f" {w}" for w in text.split()]
        if text.removeprefix(OPENING)[:1] not in ("", " "):
            words = [*(f" {w}" for w in OPENING.split()), text.removeprefix(OPENING)]
            words[0] = "The"
        pieces = [w[i : i + 5] for w in words for i in range(0, len(w), 5)]
        return {"input_ids": [self.known.setdefault(p, len(self.known)) for p in pieces]}


def weighed(choices: tuple[str, ...], follow, depth: int = 10) -> tuple[list[float], int]:
    """The choices' probabilities under a language model `follow(path)`, and how many passes."""
    tokens = Tokens(Pieces(), OPENING, depth)
    found, open_places, passes = Chances(len(choices)), [Place(tokens.tree(choices))], 0
    while open_places:
        place = open_places.pop()
        passes += 1
        open_places += found.take(place, follow(tokens, place.path))
    return found.of_choices, passes


def saying(**texts: float):
    """A model that says these texts with these probabilities, and nothing else."""

    def follow(tokens: Tokens, path: tuple[int, ...]) -> dict[int, float]:
        chances: dict[int, float] = {}
        all_of = 0.0
        for text, share in texts.items():
            ids = tokens.after(" " + text.replace("_", " "))
            if ids[: len(path)] == path:
                all_of += share
                if len(ids) > len(path):
                    chances[ids[len(path)]] = chances.get(ids[len(path)], 0.0) + share
        return {token: math.log(share / all_of) for token, share in chances.items()}

    return follow


def test_a_label_in_bold_is_a_label() -> None:
    found, _ = weighed(("red", "blue"), saying(**{"**B": 0.7, "(A": 0.2, "A": 0.1}))
    assert found == pytest.approx([0.3, 0.7])


def test_a_label_and_a_text_mean_the_same_choice() -> None:
    found, passes = weighed(("red", "blue"), saying(A=0.3, red=0.2, b=0.1, blue=0.1, green=0.3))
    assert found == pytest.approx([0.5, 0.2]) and passes == 1


def test_texts_that_begin_alike_are_told_apart_by_a_further_pass() -> None:
    choices = ("the left", "the right", "A big house", "elsewhere")
    model = saying(
        the_left=0.4, the_right=0.2, A=0.1, A_big_house=0.15, C=0.05, the_middle=0.04, else_=0.06
    )
    found, passes = weighed(choices, model)
    assert found == pytest.approx([0.5, 0.2, 0.2, 0.06]) and passes == 3


def test_a_shared_token_that_is_unlikely_is_not_looked_behind() -> None:
    rare = SHARED / 2
    found, passes = weighed(("the left", "the right"), saying(A=1 - rare, the_right=rare))
    assert found == pytest.approx([1 - rare, 0.0]) and passes == 1


def test_texts_alike_to_the_end_are_no_answer() -> None:
    found, _ = weighed(("blue", "blue", "red"), saying(blue=0.6, red=0.4))
    assert found == pytest.approx([0.0, 0.0, 0.4])
    found, _ = weighed(("one two three", "one two four"), saying(one_two_four=1.0), depth=2)
    assert found == [0.0, 0.0]


def test_probabilities_are_those_of_all_that_the_model_may_say() -> None:
    """Whatever the model: each choice has the mass of its openings, and no more than 1 together."""

    @cache
    def random_model(path: tuple[int, ...]) -> dict[int, float]:
        rng = random.Random(str(path))
        weights = {token: rng.random() ** 3 for token in range(30)}
        total = sum(weights.values())
        return {token: math.log(weight / total) for token, weight in weights.items()}

    choices = ("the left side", "the left", "the right", "up")
    tokens = Tokens(Pieces(), OPENING, 10)
    tree = tokens.tree(choices)

    def brute(choice: int, node, path=(), mass=1.0) -> float:
        if node.choices == {choice}:
            return mass
        inside, left = 0.0, 1.0
        for token, child in node.children.items():
            p = math.exp(random_model(path).get(token, -math.inf))
            left -= p
            inside += brute(choice, child, (*path, token), mass * p)
        return inside + (mass * left if node.ended == {choice} else 0.0)

    found, _ = weighed(choices, lambda _, path: random_model(path))
    for choice, probability in enumerate(found):
        assert probability == pytest.approx(brute(choice, tree), abs=SHARED)
    assert 0 < sum(found) < 1


def test_no_place_has_more_tokens_than_the_engine_takes() -> None:
    choices = tuple(f"choice{i}" for i in range(26))
    tree = Tokens(Pieces(), OPENING, 10).tree(choices)
    assert len(tree.tokens) <= MOST_TOKENS
    first = [tree.children[token].choices for token in tree.tokens[:26]]
    assert first == [{i} for i in range(26)]  # every choice's own label, before other forms


# --- what an endpoint lists -------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.3, 0.6, 1.0])
def test_a_listing_at_temperature_1_gives_the_probabilities_at_another(temperature: float) -> None:
    rng = random.Random(0)
    logits = sorted((rng.gauss(0, 4) for _ in range(500)), reverse=True)
    at_1 = [x - math.log(sum(map(math.exp, logits))) for x in logits]
    scaled = [x / temperature for x in logits]
    exact = [math.exp(x - math.log(sum(map(math.exp, scaled)))) for x in scaled]
    found = at_temperature(at_1[:20], temperature)
    assert found == pytest.approx(exact[:20], abs=0.02)
    assert all(f <= e + 1e-9 for f, e in zip(found, exact, strict=False))  # never too much
    assert at_temperature(at_1, temperature) == pytest.approx(exact)


def test_greedy_and_nucleus() -> None:
    at_1 = [math.log(p) for p in (0.2, 0.5, 0.3)]
    assert at_temperature(at_1, 0.0) == [0.0, 1.0, 0.0]
    assert at_temperature(at_1, 1.0, top_p=0.6) == pytest.approx([0.0, 0.625, 0.375])


def test_listed_tokens_mean_labels_first_and_then_texts() -> None:
    choices = ("red", "rose", "A cat", "blue")
    listed = {" A": 0.3, "B": 0.1, " (C": 0.1, "d": 0.05, " blue": 0.05, "**D**": 0.1, "red.": 0.0}
    assert chances([*listed], [*listed.values()], choices) == pytest.approx((0.3, 0.1, 0.1, 0.2))
    assert chances([" re", "The"], [0.4, 0.6], choices) == pytest.approx((0.4, 0, 0, 0))
    assert chances([" r", " A"], [0.4, 0.6], choices) is None  # red or rose
    assert chances([" r", " A"], [0.4 * SHARED, 0.9], choices) == pytest.approx((0.9, 0, 0, 0))
    assert chances([" a", "Z", "\n", "\uff22"], [0.2, 0.2, 0.2, 0.4], choices) == pytest.approx(
        (0.0, 0.4, 0.2, 0.0)  # "a": how "A cat" begins
    )
