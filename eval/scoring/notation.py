"""Mathematics as people type it: units behind a value, "2pi", "sqrt(3)", "3 1/2"."""

from __future__ import annotations

import re

# One letter is a unit only behind a blank: "3m" may be three times m.
_LONG_UNIT = (
    r"mm|cm|dm|km|in|inch(?:es)?|ft|feet|foot|yd|yards?|mi|miles?|mg|kg|lbs?|oz|tons?|ms|sec|"
    r"seconds?|mins?|minutes?|hrs?|hours?|days?|years?|kJ|kN|kW|kV|mV|mA|kHz|MHz|GHz|Hz|kPa|Pa|"
    r"mL|ml|mol|mph|rad|units?"
)
_SHORT_UNIT = r"[mgshJNWVALlKC]"
_POWER = r"(?:\s?\^\s?\{?-?\d\}?|[²³])?"
_UNIT = re.compile(
    rf"(?<=[\d)}}π])(?:\s|\\[, ]|~)*(?:\b|(?<=π))(?P<unit>"
    rf"(?:(?:sq(?:uare)?\.?|cubic)\s)?(?:{_LONG_UNIT}|(?<=\s){_SHORT_UNIT}){_POWER}"
    rf"(?:\s?(?:/|per)\s?(?:{_LONG_UNIT}|{_SHORT_UNIT}){_POWER})?)\.?$"
)

_LEAD = re.compile(
    r"^(?:(?:(?:it|that|this)\s+)?(?:is|are|was)\s|in\s|by\s|at\s|about\s|approximately\s|"
    r"roughly\s|around\s|=|≈|~|\\approx\b|\\sim\b)\s*(?=[-\d.\\√π$(])",
    re.IGNORECASE,
)
_MINUS = re.compile(r"^(?:minus|negative)\s+(?=[\d.\\√π(])", re.IGNORECASE)
_PI = re.compile(r"(?<![A-Za-z\\])pi(?![A-Za-z])", re.IGNORECASE)
_SQRT = re.compile(r"(?<![A-Za-z\\])sqrt\s*(?:\(([^()]*)\)|\{([^{}]*)\}|(\d+))")
_MIXED = re.compile(r"^(-?)(\d+)\s+(\d+)\s?/\s?(\d+)$")


def without_unit(text: str) -> tuple[str, str]:
    """The value, and the unit that stands behind it ("" if none does): "16 cm^2", "24 km/h"."""
    found = _UNIT.search(text)
    if not found:
        return text, ""
    unit = found["unit"].replace("²", "^2").replace("³", "^3")
    for word, power in ((r"sq(?:uare)?\.?", 2), ("cubic", 3)):
        unit = re.sub(rf"^{word}\s(\w+)", rf"\1^{power}", unit)
    return text[: found.start()], re.sub(r"[\s{}]", "", unit)


def as_latex(text: str) -> str:
    """`text` with what people type instead of LaTeX replaced, and without "is" or "=" before it."""
    text = _MINUS.sub("-", _LEAD.sub("", text.strip()))
    text = _MIXED.sub(r"\1(\2+\\frac{\3}{\4})", _PI.sub(r"\\pi ", text))
    return _SQRT.sub(lambda root: rf"\sqrt{{{root[1] or root[2] or root[3]}}}", text)
