"""The option letter that a free answer means: the golden rows, and the laws behind them."""

import json
import random
import time
from pathlib import Path

import pytest

from eval.scoring.letters import choice_letter

GOLDEN = Path(__file__).parents[2] / "golden" / "eval"
MCQ = json.loads((GOLDEN / "mcq_letter.json").read_text())
VIDEO_MME = json.loads((GOLDEN / "videomme_letter.json").read_text())

COLOURS = {"A": "Red", "B": "Blue", "C": "Green", "D": "Yellow"}
SHADES = {"A": "Light blue", "B": "Blue", "C": "Dark blue", "D": "Navy"}
CHINESE = {"A": "红色", "B": "蓝色", "C": "绿色", "D": "黄色"}
COUNTS = {"A": "3", "B": "4", "C": "5", "D": "6", "E": "7"}
CITIES = {"A": "Paris", "B": "London", "C": "New York", "D": "Berlin", "E": "None of the above"}
TRENDS = {"A": "Increases", "B": "Decreases", "C": "Stays the same", "D": "Cannot be determined"}
THINGS = {"A": "An apple", "B": "A banana", "C": "A cat", "D": "A dog"}
NUMBERS = {"A": "5", "B": "25", "C": "0.5", "D": "-5", "E": "40"}
SIGNS = {"A": "x > 2", "B": "x < 2", "C": "x = 2", "D": "x >= 2"}
FRACTIONS = {"A": "1/2", "B": "1½", "C": "2", "D": "3/4"}
LANGUAGES = {"A": "C++", "B": "C", "C": "C#", "D": "Java"}
CLOCKS = {"A": "00:05", "B": "01:05", "C": "10:05"}
TURNS = {"A": "Left", "B": "Right", "C": "Up", "D": "Clockwise", "E": "Counterclockwise"}
DEEDS = {
    "A": "The man opens the door",
    "B": "The man sits on a chair",
    "C": "The man leaves the room",
}
TEAMS = {"A": "Team B wins", "B": "Team A wins", "C": "A draw"}
VITAMINS = {"A": "Vitamin A", "B": "Vitamin B", "C": "Vitamin C"}
YES_NO = {"A": "Yes", "B": "No"}


def replies(listed: str) -> list[str]:
    return [said.strip() for line in listed.strip().splitlines() for said in line.split(" | ")]


@pytest.mark.parametrize("case", MCQ, ids=[case["id"] for case in MCQ])
def test_golden(case: dict) -> None:
    choices = dict(case["choices"])
    assert choice_letter(case["prediction"], choices) == case["sensible"]
    assert choices == case["choices"]


@pytest.mark.parametrize("case", VIDEO_MME, ids=[case["id"] for case in VIDEO_MME])
def test_golden_without_texts(case: dict) -> None:
    assert choice_letter(case["prediction"], "ABCD") == case["sensible"]


# Replies, separated by bars, of readers who all mean B in COLOURS.
SAYING_B = r"""
    B | b | (b) | [B] | {B} | "B" | 「B」 | 【B】 | `B` | **B** | __B__ | *(B)* | $B$ | B! | B;
    > B | - B | Ｂ | ｂ） | ⓑ | ＃ B | B Blue | B, Blue | B-Blue | B => blue | Blue (B)
    blue -> B | B (blue) | B<|im_end|> | B</s> | <b>B</b> | [[B]]
    <|begin_of_box|>B<|end_of_box|> | $\boxed{B}$ | \boxed{\text{B}} | \boxed{(B) Blue}
    \(\boxed{B}\) | \boxed{A} \boxed{B} | \mathrm{B} | <answer> b </answer>
    <answer>(B) Blue</answer> | <answer>blue</answer> | <answer>B
    <think>A or C?</think><answer>B</answer> | the answer is A</think>B
    <think>Red. So A.</think> It is B. | {"answer": "B", "reason": "A is red"} | {'answer': 'B'}
    {"final_answer": "B"} | {"choice": "B"} | **Answer:** B | Answer = B | Ans: B | ANSWER: B
    Final answer: **B) Blue** | Correct: B | Choice: B | The answer would be B
    The answer is most likely B. | The answer to the question is B | answer is b | I'd go with B
    i choose b | My pick is B | I'll take B | B it is | D is out, so b | Thus, B. | Must be B
    B is right | B fits best | B is the only one that fits | Clearly B | Maybe B? | I guess B
    Only B | B only | B, not A | B and not A | B rather than A | B (not C) | Not A but B
    Not A, B | Not A, C or D but B | Neither A nor C, so B | A is wrong, B is right
    A doesn't match. B does. | It can't be A, so B | A? no. B? yes. C? no.
    A (wrong), B (correct) | A: No. B: Yes. C: No. | Is it A? No. Is it B? Yes.
    A. Sorry, I meant B. | A. Wait, no, B. | A... no, B | The answer is A. Correction: B
    C? No, B. | At first I thought it was A. The answer is B.
    It is between A and B. I'd go with B. | A or B? I think B. | A is plausible but B is better
    I don't think it is A; it is B | No doubt it's B | Not sure, but B
    It might be red, but blue is more likely. | It isn't red but blue
    green is wrong, blue is correct | Anything but red: B | Nothing but blue
    Unlike the red car, this one is blue | blue (not red) | A blue car | the blue one
    It is a car, a blue one. | The car looks blue to me
    The answer is B. Option A shows a red car, C a green one. | B. A, C and D are not supported.
    As the car is not red the answer is B
    The sky is red and the grass green. The answer is blue.
    A, no, B | Between A and C, B is better | A or B? B. | At first A, then B.
    Looking at A, B, C, D: B | Based on the video B | According to the caption B
"""


@pytest.mark.parametrize("output", replies(SAYING_B))
def test_one_option_is_meant(output: str) -> None:
    assert choice_letter(output, COLOURS) == "B"


# Replies of readers who mean no option of COLOURS, or several.
NO_ANSWER = r"""
    . | ? | E | (E) | 2 | None | n/a | purple | bluish | A color | A car is seen | a lot | Answer:
    ANSWER | Not A | not blue | It isn't B | The answer is not A or B | Neither A nor B
    All but C | Anything but blue | I don't think the answer is B | I doubt it is B
    There is no blue car | The caption does not mention blue. | A or B | A & B | A+B | B; C | B|C
    A, B and C | both A and B | B or maybe C | (A)(B) | ABC | A. B. | A to D
    I can't decide between B and C | Not only A but also B | The answer is (B) or (C) | red, blue
    Red/Blue | \boxed{B, C} | <think>the answer is A</think> | <think>maybe A | <answer></answer>
    Cannot be determined | Can't tell | Unable to answer | Because of the fog | Definitely
    Based on the text | As an AI model, I cannot see images. | The answer is not among A, B, C, D
    No option is correct. | Plan A | Type B | Hepatitis B | B-52 bombers | C++ | U.S.A. | D.C.
    Q&A | A/C | AI | 3B | D'oh | A B movie | The answer is a car | I think the answer is A car
    Player A meets player B | from A to B | A, then B | A or B?
"""


@pytest.mark.parametrize("output", replies(NO_ANSWER))
def test_no_option_or_several_are_meant(output: str) -> None:
    assert choice_letter(output, COLOURS) is None


@pytest.mark.parametrize(
    "output", ["A\nB", "A. Red\nB. Blue\nC. Green\nD. Yellow", "A: a dog\nB: a cat"]
)
def test_a_list_by_lines_chooses_nothing(output: str) -> None:
    assert choice_letter(output, COLOURS) is None
    assert choice_letter(f"{output}\n\nAnswer: C", COLOURS) == "C"


def test_a_letter_on_the_last_line_is_the_answer() -> None:
    assert choice_letter("A) Red B) Blue C) Green D) Yellow\nB", COLOURS) == "B"


@pytest.mark.parametrize(
    ("choices", "output", "want"),
    [
        (SHADES, "light-blue", "A"),
        (SHADES, "lightblue", "A"),
        (SHADES, "The car is blue", "B"),
        (SHADES, "blue, not light blue", "B"),
        (SHADES, "light blue or dark blue", None),
        (SHADES, "not light blue", None),
        (COUNTS, "There are five people.", "C"),
        (COUNTS, "five (5)", "C"),
        (COUNTS, "5.0", "C"),
        (COUNTS, "4 people and 1 dog", "B"),
        *((COUNTS, text, None) for text in ["45", "5.5", "-5", "3-4", "3 and 4", "5,000", "not 5"]),
        *((COUNTS, text, None) for text in ["at least 5", "more than 5"]),
        *((NUMBERS, text, "B") for text in ["twenty-five", "Twenty five people", "It is 25."]),
        *((NUMBERS, text, "C") for text in [".5", "0.50", "It is .5"]),
        *((NUMBERS, text, "D") for text in ["minus 5", "It is negative five", "-5.0"]),
        *((NUMBERS, text, None) for text in ["5-25", "5 - 7", "-.5", "x minus 4"]),
        (NUMBERS, "forty", "E"),
        *((SIGNS, text, "B") for text in ["x < 2", "x<2", "$x < 2$", r"\boxed{x<2}.", '"x < 2"']),
        *((SIGNS, text, letter) for letter, text in SIGNS.items()),
        *((FRACTIONS, text, "A") for text in [r"\frac{1}{2}", r"$\dfrac12$", "½", "It is ½"]),
        *((FRACTIONS, text, "B") for text in ["1½", "1 1/2"]),
        *((FRACTIONS, text, "D") for text in ["¾", "3/4", r"\boxed{\frac{3}{4}}"]),
        (FRACTIONS, "⅓", None),
        *((LANGUAGES, text, letter) for letter, text in LANGUAGES.items() if letter != "B"),
        *((CLOCKS, text, "A") for text in ["0:05", "At 00:05.", "It happens at 0:05"]),
        *((CLOCKS, text, "B") for text in ["1:05", "01:05"]),
        (COLOURS, "The colour that does not appear is blue.", "B"),
        (COLOURS, "The option that is not mentioned is B", "B"),
        (COLOURS, "The car is not red and is not blue", None),
        (CITIES, "None of these", "E"),
        (CITIES, "none", "E"),
        (CITIES, "new york city", "C"),
        (CITIES, "neither Paris nor London", None),
        (TRENDS, "It is increasing.", "A"),
        (TRENDS, "a decrease", "B"),
        (TRENDS, "stay the same", "C"),
        (TRENDS, "I cannot tell whether it increases or decreases", "D"),
        (TRENDS, "Not enough information", "D"),
        (TRENDS, "It does not increase", None),
        (THINGS, "A dog", "D"),
        (THINGS, "The answer is A dog", "D"),
        (THINGS, "A, an apple", "A"),
        (THINGS, "B a banana", "B"),
        (THINGS, "The animals are cats", "C"),
        (THINGS, "pineapple", None),
        (THINGS, "A fish", None),
        (TURNS, "anti-clockwise", "E"),
        (TURNS, "It turns counter-clockwise.", "E"),
        (TURNS, "not clockwise but counterclockwise", "E"),
        (TURNS, "from left to right", None),
        (TURNS, "bright", None),
        (DEEDS, "He leaves the room.", "C"),
        (DEEDS, "A man is opening the door", "A"),
        (DEEDS, "Sitting on the chair", "B"),
        (DEEDS, "The man does not open the door", None),
        (DEEDS, "The man", None),
        (DEEDS, "The man opens the door and leaves the room", None),
        (DEEDS, "The man opens the door, then sits on the chair", None),
        (TEAMS, "Team A wins", "B"),
        (TEAMS, "A", "A"),
        (TEAMS, "It is a draw", "C"),
        (VITAMINS, "vitamin C", "C"),
        (VITAMINS, "Vitamin A", "A"),
        (VITAMINS, "vitamin E", None),
        (YES_NO, "No, there is no car.", "B"),
        (YES_NO, "Yes, no doubt", "A"),
        (YES_NO, "yes and no", None),
        ({"A": "The red cup", "B": "The blue cup"}, "The cup is red.", "A"),
        ({"A": "50%", "B": "5%"}, "5 percent", "B"),
        ({"A": "K", "B": "M"}, "M", "B"),
    ],
)
def test_options_are_named_by_their_words(choices: dict, output: str, want: str | None) -> None:
    assert choice_letter(output, choices) == want


@pytest.mark.parametrize(
    ("output", "want"),
    [
        ("答案是：C", "C"),
        ("正确答案为（B）蓝色", "B"),
        ("故选D。", "D"),
        ("选项B正确", "B"),
        ("C是正确的", "C"),
        ("汽车是绿色的", "C"),
        ("不是A而是B", "B"),
        ("A不对，选B", "B"),
        ("A、B、C都不对，选D", "D"),
        ("可能是红色，但我认为是蓝色", "B"),
        *((text, None) for text in ["不是红色", "A或B", "红色和蓝色", "不知道", "维生素C", "紫色"]),
        *((text, None) for text in ["A或者C", "A 或者 B", "A跟B", "A还有B", "A並B", "没有B"]),
    ],
)
def test_chinese(output: str, want: str | None) -> None:
    assert choice_letter(output, CHINESE) == want


@pytest.mark.parametrize("case", MCQ, ids=[case["id"] for case in MCQ])
def test_blanks_and_markup_around_and_the_order_of_options_change_nothing(case: dict) -> None:
    said, choices, want = case["prediction"], case["choices"], case["sensible"]
    for wrapped in (
        f"  {said}\n",
        f"**{said}**",
        f"```\n{said}\n```",
        f"<think>E? A.</think>{said}",
    ):
        assert choice_letter(wrapped, choices) == want
    assert choice_letter(said, dict(reversed(choices.items()))) == want
    assert choice_letter(said, {key.lower(): text for key, text in choices.items()}) == want


@pytest.mark.parametrize("letter", "ABCDEFGH")
def test_a_letter_outside_the_choices_is_none(letter: str) -> None:
    for said in (letter, f"({letter.lower()})", f"The answer is {letter}.", f"\\boxed{{{letter}}}"):
        assert choice_letter(said, "ABCDEFGH") == letter
        assert choice_letter(said, "ABCDEFGH".replace(letter, "")) is None


def test_the_pronoun_is_no_ninth_option() -> None:
    letters = list("ABCDEFGHI")
    assert choice_letter("I think B", letters) == "B"
    assert choice_letter("I cannot tell", letters) is None
    assert choice_letter("The answer is I.", letters) == "I"


def test_a_choice_without_a_single_letter_is_refused() -> None:
    with pytest.raises(ValueError, match="valid: letters from A to Z"):
        choice_letter("B", ["A", "Blue"])


@pytest.mark.parametrize("text", ["(" * 20000, "\\boxed{" * 2000, "A dog, a red cat. " * 300])
def test_no_text_takes_quadratic_time(text: str) -> None:
    """Each takes less than a second; the first two took 25 before the searches were bounded."""
    start = time.process_time()
    choice_letter(text, COLOURS)
    assert time.process_time() - start < 10


def test_any_text_gives_a_letter_of_the_choices_or_none() -> None:
    rng = random.Random(0)
    pieces = [
        "A",
        "B",
        "is",
        "not",
        "the answer",
        "Red",
        ".",
        ",",
        "(",
        "\\boxed{",
        "<think>",
        "选",
    ]
    for _ in range(200):
        text = " ".join(rng.choices(pieces, k=12))
        assert choice_letter(text, COLOURS) in (None, *COLOURS)
