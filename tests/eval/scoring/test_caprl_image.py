"""CapRL's own image score, faults included, and what bounds its time."""

import json
import random
import re
from pathlib import Path

import pytest

from eval.scoring import caprl_image
from eval.scoring.symbolic import equivalent, parse_latex

TABLE = Path(__file__).parents[2] / "golden" / "eval" / "caprl_image_score.json"
CASES = json.loads(TABLE.read_text())


def reply(box: str) -> str:
    return f"<think>x</think><answer>\\boxed{{{box}}}</answer>"


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_golden(case: dict) -> None:
    for name, want in case["expected"].items():
        score = getattr(caprl_image, name)(case["output"], case["answer"])
        assert score == pytest.approx(want, abs=1e-12), name


def test_the_box_is_what_a_greedy_pattern_finds() -> None:
    pattern = re.compile(r"</think>\s*<answer>.*?\\boxed{(.*)}.*?</answer>", re.DOTALL)
    pieces = ["</think>", "<answer>", "</answer>", "\\boxed{", "}", "{", "x", " \n"]
    rng = random.Random(0)
    found = 0
    for _ in range(3000):
        output = "".join(rng.choices(pieces, k=14))
        matches = pattern.findall("</think><answer>\\boxed{" + output)
        found += bool(matches)
        box = caprl_image.boxed("</think><answer>\\boxed{" + output)
        assert box == (matches[-1] if matches else "")
        assert caprl_image.boxed(output) == (pattern.findall(output) or [""])[-1]
    assert found > 300


def test_the_image_score_is_the_better_rule() -> None:
    for box, answer in (("43", "42"), ("Lube", "Blue"), ("abcd", "abxy"), ("red", "blue")):
        output = reply(box)
        chart = caprl_image.verify_chart(output, answer)
        anls = caprl_image.verify_chart_anls(output, answer)
        math = caprl_image.verify_math(output, answer)
        assert caprl_image.image_score(output, answer) == max(chart, math)
        assert caprl_image.image_score_anls(output, answer) == max(anls, math)
        assert 0 <= chart <= anls <= 1


def test_a_gold_list_takes_any_element_and_is_not_run() -> None:
    gold = "['red', 'blue', '42']"
    assert [caprl_image.verify_chart(reply(box), gold) for box in ("Red", "43", "x")] == [1, 1, 0]
    assert caprl_image.verify_chart(reply("red"), "[exit()]") == 0
    with pytest.raises(ValueError, match="list of answers is empty"):
        caprl_image.verify_chart(reply("1"), "[]")


@pytest.mark.parametrize("rule", ["verify_chart", "verify_chart_anls", "image_score_anls"])
def test_a_gold_list_of_numbers_takes_any_of_them(rule: str) -> None:
    score = getattr(caprl_image, rule)
    assert [score(reply(box), "[10, 2.5]") for box in ("10", "10.2", "x")] == [1, 1, 0]
    assert score(reply("2.5"), "[10, 2.5]") == 1


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "9^{9^9}",
        "(9^9)!",
        "1000000000!",
        r"\binom{1000000}{500000}",
        r"\gcd(10^{10^{10}}, 3)",
        r"\prod_{i=1}^{1000000} i",
        r"\int_0^1 e^{-x^2}\sin(x^3) dx",
        "(x+1)^{1000}",
        r"\begin{pmatrix} 9^{9^9} & 1 \\ 2 & 3 \end{pmatrix}",
        "x" * 100_000,
    ],
)
def test_what_takes_forever_is_not_evaluated(text: str) -> None:
    assert all(isinstance(value, str) for value in parse_latex(text))
    assert caprl_image.verify_math(reply(text), "42") == 0
    assert caprl_image.verify_math(reply("42"), text) == 0
    assert caprl_image.verify_math(reply(text), text) == 1


@pytest.mark.timeout(60)
def test_a_reply_that_repeats_its_boxes_is_read_in_linear_time() -> None:
    assert caprl_image.boxed("</think><answer>" + "\\boxed{1} " * 20_000) == ""


@pytest.mark.parametrize(
    ("left", "right"),
    [("2^{100}", "4^{50}"), ("5!", "120"), ("(x+1)^2", "x^2+2x+1"), (r"\sqrt{8}", r"2\sqrt{2}")],
)
def test_ordinary_powers_and_factorials_are(left: str, right: str) -> None:
    assert equivalent(parse_latex(left), parse_latex(right))
