"""The final answer in an output, and mathematical equality."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from eval.scoring.math_answer import final_answer, final_forms, math_equal


@pytest.mark.parametrize(
    ("output", "want"),
    [
        (r"So \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{1}, no: \boxed{2}", "2"),
        (r"\boxed{\{1, 2\}} and {so} on}", r"\{1, 2\}"),
        (r"\boxed{\text{Dark Blue}}", "Dark Blue"),
        (r"\boxed{12\text{ cm}}", r"12\text{ cm}"),
        (r"\boxed{2} but \boxed{3", "2"),
        (r"<think>\boxed{1}</think> It is \boxed{2}", "2"),
        (r"\boxed{1}</think>The answer is 2.", "2"),
        (r"<think>\boxed{1} and then", ""),
        ("<answer> 42 </answer>", "42"),
        ("<answer>1</answer> or <answer>2</answer>", "2"),
        ("<answer>42", "42"),
        ("<answer>The answer is **42**.</answer>", "42"),
        (r"<answer>\boxed{42}</answer>", "42"),
        ("The answer is not 5. The answer is 6", "6"),
        ("**Answer:** 42\nbecause of that", "42"),
        ("**Final Answer**: $42$.", "42"),
        ("Answer:\n\n\\(x\\)", "x"),
        ("Answer: 3\nThis is my final answer:", "3"),
        ("**Blue.**", "Blue"),
        ("3.5.", "3.5"),
        ("42\n\nThe answer is based on the chart", "42\n\nThe answer is based on the chart"),
        ("Blue, because the answer is clear", "Blue, because the answer is clear"),
        ("The answer is clear blue", "clear blue"),
        ("no answer is available", "no answer is available"),
        ("$5$ and $6$", "$5$ and $6$"),
        (r"\text{A} or \text{B}", r"\text{A} or \text{B}"),
        ("2**3 + 4**5", "2**3 + 4**5"),
        ("", ""),
    ],
)
def test_final_answer(output: str, want: str) -> None:
    assert final_answer(output) == want
    assert final_answer(f"\n{output}  ") == want
    assert final_answer(f"<think>The answer is 7</think>{output}") == want or "</think>" in output
    assert final_answer(want) == want


@pytest.mark.parametrize(
    "forms",
    [
        ["0.5", r"\frac{1}{2}", r"\frac12", "1/2", "½", "50%", r"50\%"],
        ["12", r"12\text{ cm}", "12 cm", "12 apples", "There are 12 apples.", "12.0"],
        [r"2\sqrt{2}", r"\sqrt{8}", "2√2", "√8"],
        ["90", "90°", r"90^\circ"],
        ["x^2+1", "1+x^2", "x²+1"],
        ["1000", "1,000", "10^3"],
        ["-3", "−3"],
        ["(1, 2)", "(1,2)"],
        ["Yes", "yes", r"\text{Yes}", "YES."],
        ["北京", "**北京**"],
        ["16", "16 cm^2", "16 cm²", "16 square cm", "It is 16 cm^2.", "16 cm^{2}", "= 16"],
        *(["24", f"24 {unit}"] for unit in ("in", "L", "mL", "km/h", "m/s", "ft^2", "units")),
        [r"24\pi", "24π cm²", "24pi", "24*pi"],
        [r"\frac{\pi}{2}", "pi/2"],
        [r"2\sqrt{3}", "2sqrt(3)", "2sqrt3"],
        ["3.5", "3 1/2"],
        ["-2", "minus 2", "negative 2"],
        ["2015", "in 2015"],
    ],
    ids=lambda forms: forms[0],
)
def test_forms_of_one_answer_are_equal(forms: list[str]) -> None:
    for gold in forms:
        for form in forms:
            assert math_equal(form, gold), (form, gold)
            assert math_equal(rf"So \boxed{{{form}}}.", gold), (form, gold)


@pytest.mark.parametrize(
    ("prediction", "gold"),
    [
        ("3", "-3"),
        ("0.51", "0.5"),
        ("Lube", "Blue"),
        ("x", "y"),
        ("2 sin x", "2"),
        ("12 and 15", "15"),
        ("not 5", "5"),
        ("5!", "5"),
        ("16 cm^2", "16 m^2"),
        ("2x", "2"),
        ("5 apples", "6 apples"),
        ("上海", "北京"),
        ("!!!", "5"),
        ("", "5"),
        ("9^{9^9}", "5"),
        ("the sum is 42 and " * 20, "42"),
    ],
)
def test_other_answers_are_not(prediction: str, gold: str) -> None:
    assert not math_equal(prediction, gold)


@pytest.mark.parametrize("reply", ["B", "b", "(B)", "B.", "B. 42 cm", r"\boxed{\text{B}}", "**B**"])
def test_an_option_letter_compares_as_text(reply: str) -> None:
    assert math_equal(reply, "B")
    assert not math_equal(reply, "C")


@pytest.mark.parametrize("reply", ["Because", "42", "", "A or B", "B or C"])
def test_what_is_no_letter_equals_none(reply: str) -> None:
    assert not any(math_equal(reply, letter) for letter in "ABC")


@pytest.mark.parametrize("gold", ["", "   ", "$", "!!!", "9^{9^9}"])
def test_a_gold_that_cannot_be_compared_is_an_error(gold: str) -> None:
    with pytest.raises(ValueError, match="cannot parse the gold answer"):
        math_equal("5", gold)


def test_other_threads_may_compare() -> None:
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(math_equal, ["0.5", "0.4"], ["1/2", "1/2"])) == [True, False]


def test_a_full_stop_may_be_part_of_the_answer() -> None:
    assert final_forms("The answer is U.S.") == ["U.S", "U.S."]
    assert final_forms("The answer is 5") == ["5"]


@pytest.mark.parametrize(
    "text",
    ["b", "(B)", "B. 12", "option B", "point B", "B, because A is wrong", "option (B) is correct"],
)
def test_a_letter_is_read_out_of_what_is_said_of_it(text: str) -> None:
    assert math_equal(text, "B") and math_equal(f"The answer is {text}.", "B")
    assert not math_equal(text, "A")


@pytest.mark.parametrize("text", ["not B", "B or C", "AB", "point BC", "Because", "neither B"])
def test_what_names_no_letter(text: str) -> None:
    assert not math_equal(text, "B")
