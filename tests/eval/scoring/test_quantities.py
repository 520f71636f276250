"""Units and notations of numbers: what is the same quantity, and what only looks like it."""

from fractions import Fraction

import pytest

from eval.scoring.math_answer import math_equal
from eval.scoring.numerals import Numeral, numeral, same_number
from eval.scoring.units import unit_of

SAME = [
    ("2 minutes", "120 seconds"),
    ("3.2e-4", "0.00032"),
    ("0.00032", "3.2e-4"),
    ("1e5", "100000"),
    ("3.2 x 10^-4", "0.00032"),
    ("3.2×10⁻⁴", "0.00032"),
    ("3.2 \\times 10^{-4}", "3.2e-4"),
    ("１２", "12"),
    ("1,000", "1000"),
    ("5", "5 cm"),
    ("50 mm", "5 cm"),
    ("2 min", "120 s"),
    ("5 m", "500 cm"),
    ("1 km/h", "1 kmh"),
    ("36 km/h", "10 m/s"),
    ("1 L", "1000 mL"),
    ("1 L", "1000 cm^3"),
    ("5\\text{ m}", "500 cm"),
    ("2 hours", "2 h"),
    ("90 degrees", "90°"),
    ("20 °C", "20 C"),
    ("about 3.2e-4 mol", "3.2e-4 mol"),
    ("1.5 million", "1.5 million"),
    ("10^5", "100000"),
    ("10^12", "1e12"),
    ("x^10", "x^{10}"),
    ("2^10", "1024"),
    ("-3.2E+4", "-32000"),
    ("5 CM", "5 cm"),
    ("5 meters", "5 m"),
    ("5 metres", "500 centimeters"),
    ("1 hour", "60 min"),
    ("1.5 h", "90 minutes"),
    ("6.02×10^23", "6.02e23"),
    ("6.02 * 10^{23}", "6.02e23"),
    ("The answer is 3.2e-4.", "0.00032"),
    ("$3.2 \\times 10^{-4}$ m", "0.32 mm"),
    ("$3.2 \\times 10^{-4}$", "0.00032"),
    ("12 km", "12000 m"),
    ("2\\pi m", "200\\pi cm"),
    ("1000", "1 000"),
    ("½", "0.5"),
    ("٣", "3"),
    ("0.333333", "1/3"),
    ("5 feet", "5 ft"),
    ("1,234.5", "1234.5"),
    ("1 year", "12 months"),
    ("5 μm", "5 µm"),
    ("5 µm", "0.005 mm"),
    ("3:2", "3:2"),
    ("1.5 million", "1,500,000"),
    ("1.5 million", "1.5"),
    ("2 thousand dollars", "2000"),
    ("2.5\\text{ billion}", "2500 million"),
    ("three", "3"),
    ("twenty-five", "25"),
    ("12", "twelve"),
    ("12:05 p.m.", "12:05 PM"),
    ("It is 12:05 pm", "12:05"),
    ("¾", "0.75"),
    ("1⅓", "4/3"),
    ("约12个", "12"),
    ("答案是12。", "12"),
]
OTHER = [
    ("5 m", "5 cm"),
    ("2 minutes", "2 hours"),
    ("5 cm", "5 m"),
    ("5cm", "5 m"),
    ("2 min", "2 h"),
    ("5\\text{ m}", "5 cm"),
    ("5 \\mathrm{m}", "5 cm"),
    ("5 m", "5 kg"),
    ("20 °C", "20 °F"),
    ("5 km/h", "5 m/s"),
    ("3.2e-7", "3.3e-7"),
    ("0", "3.2e-7"),
    ("3.2e-4", "3.2e-5"),
    ("3.2e4", "3.24"),
    ("1e5", "1e6"),
    ("16 cm^2", "16 cm"),
    ("5 meters", "5 cm"),
    ("1000000", "1000001"),
    ("2 minutes", "2 seconds"),
    ("5 mW", "5 MW"),
    ("1e5", "15"),
    ("3.2 x 10^-4", "3.2 x 10^4"),
    ("5 years", "5 months"),
    ("5 g", "5 kg"),
    ("1,000", "1"),
    ("The distance is 5 m", "5 cm"),
    ("5 m.", "5 cm"),
    ("It is 2 hours long", "2 minutes"),
    ("1.5 million", "1.5 billion"),
    ("12:05 pm", "12:05 am"),
    ("5 p.m.", "5 a.m."),
    ("5 pm", "5 AM"),
    ("12:05 pm", "12:50 pm"),
    ("1.5 million", "1500"),
    ("one third", "1"),
    ("twenty-five", "5"),
    *((text, "8") for text in ("over 8", "8 or more", "up to 8 apples", "8 people and above")),
    *((text, "8") for text in ("超过8", "大于 8", "8个以上", "至少8个", "不是8")),
]


@pytest.mark.parametrize(("prediction", "gold"), SAME)
def test_the_same_quantity(prediction: str, gold: str) -> None:
    assert math_equal(prediction, gold)
    assert math_equal(f"So \\boxed{{{prediction}}}.", gold)


@pytest.mark.parametrize(("prediction", "gold"), OTHER)
def test_another_quantity(prediction: str, gold: str) -> None:
    assert not math_equal(prediction, gold)


@pytest.mark.parametrize(
    "text", ["", "x", "1.2.3", "1,00", "1e", "e5", "10^", "1e999", "9" * 300, "--1"]
)
def test_what_is_no_number(text: str) -> None:
    assert numeral(text) is None


def test_whole_numbers_are_exact_and_others_to_six_decimals() -> None:
    def same(first: str, second: str) -> bool:
        one, two = numeral(first), numeral(second)
        assert one and two
        return same_number(one, two)

    assert numeral("3.2×10⁻⁴") == Numeral(Fraction(32, 100_000))
    assert not same("1000000", "1000001") and same("1e6", "1000000")
    assert same("0.3333333", "0.33333333") and not same("0.333", "0.334")
    assert not same("3.2e-9", "3.3e-9") and same("3.2e-9", "0.0000000032")


@pytest.mark.parametrize(
    ("first", "second", "factor"),
    [
        ("km", "m", 1000),
        ("square feet", "ft^2", 1),
        ("km/h", "m/s", Fraction(10, 36)),
        ("L", "cm^3", 1000),
    ],
)
def test_units_of_one_dimension_have_a_factor(first: str, second: str, factor: Fraction) -> None:
    one, two = unit_of(first), unit_of(second)
    assert one and two and one.dimension == two.dimension
    assert one.factor / two.factor == factor


@pytest.mark.parametrize("text", ["", "apples", "x", "mm/apples", "cm^0", "the"])
def test_what_is_no_unit(text: str) -> None:
    assert unit_of(text) is None
