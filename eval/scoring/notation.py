"""Mathematics as people type it: units behind a value, "2pi", "sqrt(3)", "3 1/2", "3.2e-4"."""

from __future__ import annotations

import re

from eval.scoring.units import Unit, unit_of

# Behind a value, to the end. One letter is a unit only behind a blank: "3m" may be three times m.
_UNIT = re.compile(
    r"(?:(?<=[\d)}π])|(?<=\\pi))(?P<blank>(?:\s|\\[,;: ]|~){0,4})"
    r"(?P<unit>(?:(?:sq(?:uare)?\.?|cubic)\s)?"
    r"(?:°?[A-Za-z\u00b5\u03bcΩ]{1,20}(?:[ -][A-Za-z]{1,20})?|°)"
    r"(?:\s?\^\s?\{?-?\d\}?|[²³])?"
    r"(?:\s?(?:/|\bper\b)\s?[A-Za-z\u00b5\u03bc]{1,20}(?:\s?\^\s?\{?-?\d\}?|[²³])?)?)\.?$"
)
_MAX_UNIT, _MAX_TAIL = 60, 120  # characters
# Behind a number within a sentence: "2 hours long"; "2 in all" has no inches.
_UNIT_WITHIN = re.compile(
    r"\s?(°?[A-Za-z\u00b5\u03bcΩ]+(?:\^\d|[²³])?(?:/[A-Za-z]+(?:\^\d|[²³])?)?)"
)
_NO_UNITS_WITHIN = frozenset({"in", *"tdAVWNJKCFBT"})
_TEXT = re.compile(
    r"\\(?:text|textrm|textbf|mathrm|mathbf|mbox|rm)\s*\{\s*([^{}\\]{1,40})\}"
    r"(\s?\^\s?\{?-?\d\}?)?\s*\.?\s*$"
)
_DEGREE = re.compile(r"\s?\^\s?\{?\\circ\}?(?=\s*[CF]?\s*$)")
_NO_UNIT = re.compile(r"\s+units?\.?$", re.IGNORECASE)

_LEAD = re.compile(
    r"^(?:(?:(?:it|that|this)\s+)?(?:is|are|was)\s|in\s|by\s|at\s|about\s|approximately\s|"
    r"roughly\s|around\s|=|≈|~|\\approx\b|\\sim\b)\s*(?=[-\d.\\√π$(])",
    re.IGNORECASE,
)
_MINUS = re.compile(r"^(?:minus|negative)\s+(?=[\d.\\√π(])", re.IGNORECASE)
_PI = re.compile(r"(?<![A-Za-z\\])pi(?![A-Za-z])", re.IGNORECASE)
_SQRT = re.compile(r"(?<![A-Za-z\\])sqrt\s{0,4}(?:\(([^()]*)\)|\{([^{}]*)\}|(\d+))")
_MIXED = re.compile(r"^(-?)(\d{1,50})\s+(\d{1,50})\s?/\s?(\d{1,50})$")
_E = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?|\.\d+)[eE]([-+]?\d{1,4})(?![\w.])")
_TIMES_TEN = re.compile(r"(?<=\d)\s?[x×]\s?(?=10\s?\^)")
_BARE_POWER = re.compile(r"(?<=[\w)}])\s?\^\s?(?:\(([-+]?\d{1,4})\)|([-+]\d{1,4}|\d{2,4})(?!\d))")


def without_unit(text: str) -> tuple[str, Unit | None]:
    """The value, and the unit that stands behind it, if one does: "16 cm^2", "24 km/h"."""
    text = text.strip()
    head, tail_text = text[:-_MAX_TAIL], text[-_MAX_TAIL:]
    text = head + _TEXT.sub(r" \1\2", _DEGREE.sub("°", _NO_UNIT.sub("", tail_text)))
    tail = max(0, len(text) - _MAX_UNIT)
    for found in _UNIT.finditer(text, tail):
        name = found["unit"].replace("²", "^2").replace("³", "^3")
        unit = unit_of(name)
        if unit and (found["blank"] or len(name) > 1 or name == "°"):
            return text[: found.start()], unit
    return text, None


def unit_within(text: str, end: int) -> Unit | None:
    """The unit behind a number that ends at `end` in a sentence; None if a mere word stands there.

    "It is 2 hours long" has one, "2 dogs" has none.
    """
    found = _UNIT_WITHIN.match(text, end, end + _MAX_UNIT)
    if not found or found[1] in _NO_UNITS_WITHIN:
        return None
    return unit_of(found[1].replace("²", "^2").replace("³", "^3"))


def without_lead(text: str) -> str:
    """`text` without "is", "about" or "=" before it, and "-" for "minus"."""
    return _MINUS.sub("-", _LEAD.sub("", text.strip()))


def as_latex(text: str) -> str:
    """`text` with what people type instead of LaTeX replaced."""
    text = _E.sub(r"\1 \\times 10^{\2}", _TIMES_TEN.sub(r" \\times ", text))
    text = _BARE_POWER.sub(lambda power: f"^{{{power[1] or power[2]}}}", text)
    text = _MIXED.sub(r"\1(\2+\\frac{\3}{\4})", _PI.sub(r"\\pi ", text))
    return _SQRT.sub(lambda root: rf"\sqrt{{{root[1] or root[2] or root[3]}}}", text)
