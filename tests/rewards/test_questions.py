"""Questions: parsing choices and answers, drawing, and reading a letter."""

import json
import random
from pathlib import Path

import pytest

from caprl_native.data.choices import ChoiceError, marked, parse_answer, parse_choices
from caprl_native.rewards.prompts import CANNOT_ANSWER, says_cannot_answer
from caprl_native.rewards.questions import ShownQuestion, draw, parse_letter, read_answer
from caprl_native.types import Question

TABLE = Path(__file__).parents[1] / "golden" / "rl" / "caprl_options_and_letters.json"
CASES = json.loads(TABLE.read_text())["cases"]
LETTER_CASES = [case for case in CASES if case["kind"] == "parse_letter"]
RECORD_CASES = [case for case in CASES if case["kind"].startswith("shuffle_")]


def unusable(case: dict) -> bool:
    """As the table says; besides, a single choice is no question (valid: 2 to 26)."""
    return not case["invariants"]["usable"] or len(case["input"]["choices"]) < 2


@pytest.mark.parametrize("case", RECORD_CASES, ids=[case["id"] for case in RECORD_CASES])
def test_golden_records(case: dict) -> None:
    given, want = case["input"], case["invariants"]
    if unusable(case):
        with pytest.raises(ValueError, match="valid|more than once"):
            parse_answer(given["answer"], parse_choices(given["choices"]))
        return
    choices = parse_choices(given["choices"])
    question = Question(given["question"], choices, parse_answer(given["answer"], choices))
    letters = set()
    for seed in range(60):
        shown = draw(question, random.Random(seed))
        assert sorted(shown.choices[:-1]) == want["option_texts"]
        assert shown.choices[shown.letters.index(shown.answer)] == want["correct_text"]
        assert shown.cannot == shown.letters[-1] == "ABCDEFGH"[len(choices)]
        letters.add(shown.answer)
    assert letters == set("ABCDEFGH"[: len(choices)])


@pytest.mark.parametrize("case", LETTER_CASES, ids=[case["id"] for case in LETTER_CASES])
def test_golden_letters(case: dict) -> None:
    letter = parse_letter(case["input"]["model_output"], "ABCDEFGHI")
    assert letter == case["sensible_letter"]
    assert (letter == case["input"]["correct_letter"]) == bool(case["sensible_correct"])


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        (" (C)", "C"),
        ("**D**.", "D"),
        ("**(B)** red", "B"),
        ("B) 3", "B"),
        (" B - blue", "B"),
        ("B\nQuestion: A", "B"),
        ("Ｂ", "B"),
        ("选B", "B"),
        ("\\boxed{C}", "C"),
        ("The answer is (b)", "B"),
        ("A is correct", "A"),
        ("A, not B", "A"),
        ("It isn't A; it's C", "C"),
        ("I'm sure it is D", "D"),
        ("a", "A"),
        ("I", None),
        (" A red ball", None),
        ("Answer: a man", None),
        ("B or C", None),
        ("A/B", None),
        ("Answer: B or C", None),
        ("A\nB\nC", None),
        ("A. B. C.", None),
        ("Not A", None),
        ("U.S.A.", None),
        ("N/A", None),
        ("Based on the caption, B", "B"),
        ("Answer is not B but C", "C"),
        ("B, because A is wrong", "B"),
        ("B because A is wrong", "B"),
        ("B, since A and C are wrong.", "B"),
        ("B; A is wrong", "B"),
        ("B - A is wrong", "B"),
        ("B, A is wrong", "B"),
        ("A, B and D are wrong", None),
        ("B\uff0c\u56e0\u4e3aA\u9519\u4e86", "B"),
        ("\uff08\uff22\uff09", "B"),
        ("I would say C.", "C"),
        ("I was unsure, but D", "D"),
        ("I would", None),
        ("Answer: B.", "B"),
        ("<think>A?</think>\n\n**(c)**", "C"),
        ("<think>A</think><answer>B</answer>", "B"),
        ("B | C", None),
        ("2)", None),
        ("K) kite", None),  # beyond the letters that were offered
        ("Because A is wrong, B", "B"),
        ("A is wrong, so B", "B"),
        ("A is wrong", None),
        ("A, B", None),
        ("A, B and D are wrong, so C", "C"),
        ("Perhaps A, but most likely C", "C"),
        ("A? No, C.", "C"),
        ("A or B, but not C", None),
        ("not A or B", None),
        ("\u5e94\u8be5\u9009C\uff0c\u4e0d\u662fA", "C"),
        ("<think>A or D?</think> C", "C"),
        ("A, then.</think> C", "C"),
        ("[THINK]A[/THINK]C", "C"),
        ("<think>maybe A", None),
        ("I cannot determine", None),
        ("F", None),
        (" 3", None),
        ("", None),
    ],
)
def test_letters(output: str, letter: str | None) -> None:
    assert parse_letter(output, "ABCDE") == letter


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        (" C", "C"),
        (" dark red.", "B"),
        ("**Dark  Red**", "B"),
        (" vitamin A.", "C"),  # its text, and not the letter in it
        (" It cannot be answered from the caption", "E"),
        (" a", "A"),
        (" [00:02]", "D"),
        (" red", None),  # a part of a choice is none
        (" dark red, or C", "C"),
        ("", None),
    ],
)
def test_an_answer_is_a_letter_or_one_choices_text(output: str, letter: str | None) -> None:
    choices = ("blue", "dark red", "vitamin A", "[00:02]", CANNOT_ANSWER)
    assert read_answer(output, ShownQuestion("?", choices, "ABCDE", "A", "E")) == letter


def test_a_text_that_two_choices_share_is_no_answer() -> None:
    shown = ShownQuestion("?", ("blue", "Blue ", "red"), "ABC", "C", None)
    assert read_answer(" blue", shown) is None


@pytest.mark.parametrize("form", ["A) {}", "A. {}", "A: {}", "(A) {}", "A){}", " A.  {} ", "{}"])
@pytest.mark.parametrize("case", [str.upper, str.lower])
def test_every_form_of_label_is_stripped(form: str, case) -> None:
    texts = ("red", "dark blue", "A.M.", "", "3:15")
    raw = [form.replace("A", case("ABCDE"[i])).format(text) for i, text in enumerate(texts)]
    assert parse_choices(raw) == texts
    if form != "{}":
        assert parse_choices("\n".join(raw)) == texts


@pytest.mark.parametrize(
    ("raw", "texts"),
    [
        (["A) red", "blue", "C. green", "D) white"], "red blue green white"),
        (["A) red", "blue"], "red blue"),  # shown as "B) A) red", it would give itself away
        (["red", "B: blue", "green"], "red blue green"),
        (["A. red", "B. blue", "green"], "red blue green"),
        (["B) blue", "A) red"], "red blue"),
        (["C. green", "A. red", "B. blue"], "red blue green"),
        (["B) blue", "green", "A) red"], "red blue green"),
        (["\uff21\uff0e red", "\uff22\uff0e blue"], "red blue"),
        (["\uff08A\uff09red", "\uff08B\uff09blue"], "red blue"),
        (["A\u3001red", "B\u3001blue"], "red blue"),
        (["A - red", "B - blue"], "red blue"),
        (["[A] red", "[B] blue"], "red blue"),
        (["1) red", "2) blue"], "red blue"),
        ({"A": "A) red", "B": "B) blue"}, "red blue"),
        (["C) green", "A) red", "B) blue"], "red blue green"),
        (["C. green", "blue", "A) red"], "red blue green"),
        (["B: blue", "(A) red"], "red blue"),
        (["Option A: red", "Option B: blue"], "red blue"),
        (["choice b) blue", "choice a) red"], "red blue"),
        (["**A.** red", "**B.** blue"], "red blue"),
        (["**A** red", "**B**: blue", "**(C)** green"], "red blue green"),
        (["\uff22\uff09blue", "\uff21\uff1ared"], "red blue"),
        (["\u3010A\u3011red", "\u3010B\u3011blue"], "red blue"),
        (["A\u3002red", "B\u3002blue"], "red blue"),
        ({"\uff21": "red", "\uff22": "blue"}, "red blue"),
    ],
    ids=str,
)
def test_no_stale_label_stays_and_labels_give_the_order(raw, texts: str) -> None:
    assert parse_choices(raw) == tuple(texts.split())
    first = (
        next(iter(raw.values()))
        if isinstance(raw, dict)
        else next((r for r in raw if "red" in r), "")
    )
    assert parse_answer(first, parse_choices(raw)) == 0


def test_what_only_looks_like_a_label_stays() -> None:
    for raw in (
        ["J. Smith", "T. Hardy"],
        ["A red", "B blue"],
        ["A.M.", "P.M."],
        ["B.B. King", "A cat"],
        ["3.5 m", "2.5 m"],
        ["A. Lincoln", "Ulysses Grant"],
        ["B. Obama", "Lincoln", "A. Johnson"],
        ["C. elegans", "worm", "A. thaliana"],
        ["Blue", "C. green", "Red"],
        ["(A) and (B)", "(C) only", "neither"],
        ["(A)", "(B)", "both"],
        ["(1)", "(2)"],
        ["1. FC Nowhere", "2. Bundesliga"],
    ):
        assert parse_choices(raw) == tuple(raw)
    assert parse_choices({"B": "blue", "A": "red"}) == ("red", "blue")
    assert parse_choices(["run", None]) == ("run", "")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (["A) x", "A) y"], "labelled A, A; valid: A to B"),
        (["A) x", "A) y", "z"], "labelled A, A; valid: A to C"),
        (["A) x", "C) y"], "labelled A, C; valid: A to B"),
        (["C) x", "A) y"], "labelled C, A; valid: A to B"),
        (["A) x", "y", "E) z"], "labelled A, E; valid: A to C"),
        (["x"], "1 choices; valid: 2 to 26"),
        (["x"] * 27, "27 choices"),
        (["A) x", "A) y"] * 20, "40 choices"),
        ([], "0 choices"),
        ({"A": "x", "C": "y"}, "valid: the letters A, B"),
        ([["x"], ["y"]], "a choice must be a text, not list"),
    ],
)
def test_bad_choices_are_named(raw, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_choices(raw)


def test_an_answer_may_be_a_letter_a_text_or_both() -> None:
    choices = ("Red", "red", "dark  blue", "A")
    for raw, index in {
        "B": 1,
        "c": 2,
        "C.": 2,
        "(C)": 2,
        "C) dark blue": 2,
        "Dark Blue": 2,
        "Red": 0,
        "red": 1,
    }.items():
        assert parse_answer(raw, choices) == index


@pytest.mark.parametrize(
    ("raw", "choices", "message"),
    [
        ("E", ("x", "y"), "valid: a letter from A to B"),
        ("", ("x", "y"), "the answer is ''"),
        (None, ("x", "y"), "the answer is None"),
        ("B) x", ("x", "y"), "not among the choices"),
        ("RED", ("Red", "red"), "not among the choices"),
        ("A", ("red", "red", "blue"), "stands more than once"),
        ("A", ("B", "A"), "the letter of one choice and the text of another"),
    ],
)
def test_bad_answers_are_named(raw, choices: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_answer(raw, choices)


def test_a_draw_is_decided_by_its_seed() -> None:
    question = Question("Which?", tuple("pqrstu"), 2)
    assert draw(question, random.Random(5)) == draw(question, random.Random(5))
    assert len({draw(question, random.Random(seed)).choices for seed in range(20)}) > 10


def test_a_choice_that_says_so_already_is_kept_and_may_be_right() -> None:
    text = "It cannot be answered from the caption."
    question = Question("Why?", ("rain", text, "snow"), 1)
    for seed in range(20):
        shown = draw(question, random.Random(seed))
        assert sorted(shown.choices) == sorted(question.choices)
        assert shown.answer == shown.cannot == "C" and shown.choices[-1] == text


SAID = [
    "Cannot answer based on the caption",
    "cannot answer based on the caption.",
    "Can not answer based on the caption",
    "CAN NOT ANSWER BASED ON THE CAPTION.",
    "Can't be answered from the  caption",
    "\uff23annot answer based on the caption",
    "\u65e0\u6cd5\u6839\u636e\u63cf\u8ff0\u56de\u7b54\u3002",
    CANNOT_ANSWER,
]


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("offered", [True, False])
def test_the_datas_own_cannot_answer_choice_is_last_and_not_doubled(said: str, offered) -> None:
    question = Question("Why?", ("rain", said, "snow", "wind"), 0)
    for seed in range(20):
        shown = draw(question, random.Random(seed), cannot_answer=offered)
        assert sorted(shown.choices[:-1]) == ["rain", "snow", "wind"]
        assert shown.choices[-1] == CANNOT_ANSWER and shown.cannot == "D"
        assert shown.choices["ABCD".index(shown.answer)] == "rain"
    twice = Question("Why?", ("rain", said, "Cannot answer based on the caption.", "snow"), 3)
    shown = draw(twice, random.Random(0), cannot_answer=offered)
    assert len(shown.choices) == 3 and shown.cannot == "C" and shown.answer in "AB"


def test_what_is_no_such_choice_stays_an_ordinary_one() -> None:
    for text in ("The caption gives no way to tell", "Cannot answer the phone", "", "rain" * 100):
        assert not says_cannot_answer(text)


def test_the_right_text_twice_is_one_choice_and_either_letter_means_it() -> None:
    choices = ("red", "blue", "red", "green")
    for answer in ("A", "C", "red", "C) red"):
        assert marked(answer, choices) == (("red", "blue", "green"), 0)
    assert marked("B", choices) == (choices, 1)  # wrong ones are left as they are
    with pytest.raises(ChoiceError, match="all 2 choices say 'red'") as raised:
        marked("B", ("red", "red"))
    assert raised.value.reason == "one choice"


@pytest.mark.parametrize(
    ("answer", "choices", "reason"),
    [
        ("G", "pqrs", "answer outside the choices"),
        ("E", "pqrs", "the right answer is that it cannot be answered"),
        ("(E)", "pqrs", "the right answer is that it cannot be answered"),
        ("E", "pqr", "answer outside the choices"),
        ("A", ("", "x"), "empty text"),
        (None, "pqrs", "no answer"),
        ("A", ("B", "A"), "answer of two meanings"),
    ],
)
def test_faults_of_answers_have_a_reason(answer, choices, reason: str) -> None:
    with pytest.raises(ChoiceError) as raised:
        marked(answer, tuple(choices))
    assert raised.value.reason == reason


def test_without_the_extra_choice_and_with_all_letters_taken() -> None:
    question = Question("Why?", ("rain", "snow"), 0)
    shown = draw(question, random.Random(0), cannot_answer=False)
    assert shown.letters == "AB" and shown.cannot is None
    full = Question("Which?", tuple(f"choice {i}" for i in range(26)), 25)
    shown = draw(full, random.Random(0))
    assert len(shown.choices) == 26 and shown.cannot is None
    assert shown.choices[shown.letters.index(shown.answer)] == "choice 25"
