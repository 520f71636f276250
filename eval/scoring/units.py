"""Units of measurement: which two measure the same quantity, and the factor between them."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache
from typing import NamedTuple


class Unit(NamedTuple):
    """A unit: `factor` of the base units whose powers `dimension` lists, (("length", 2),)."""

    factor: Fraction
    dimension: tuple[tuple[str, int], ...]


# Symbol, name, kind, factor; those with prefixes take kilo, milli and so on.
_PREFIXED = (
    ("m", "meter|metre", "length", "1"),
    ("g", "gram|gramme", "mass", "1/1000"),
    ("s", "second", "time", "1"),
    ("Hz", "hertz", "frequency", "1"),
    ("N", "newton", "force", "1"),
    ("J", "joule", "energy", "1"),
    ("cal", "calorie", "energy", "4184/1000"),
    ("W", "watt", "power", "1"),
    ("Wh", "watt-hour", "energy", "3600"),
    ("V", "volt", "voltage", "1"),
    ("A", "ampere|amp", "current", "1"),
    ("Pa", "pascal", "pressure", "1"),
    ("mol", "mole", "amount", "1"),
    ("B", "byte", "data", "8"),
    ("bit", "bit", "data", "1"),
    ("eV", "electronvolt", "electronvolt", "1"),
    ("Ω", "ohm", "resistance", "1"),
)
_PREFIXES = {
    "": ("", "1"), "n": ("nano", "1/1000000000"), "\u00b5": ("micro", "1/1000000"),
    "u": ("micro", "1/1000000"), "m": ("milli", "1/1000"), "c": ("centi", "1/100"),
    "d": ("deci", "1/10"), "k": ("kilo", "1000"), "M": ("mega", "1000000"),
    "G": ("giga", "1000000000"), "T": ("tera", "1000000000000"),
}  # fmt: skip
_OTHERS = (
    ("in|inch|inches", "length", "254/10000"),
    ("ft|foot|feet", "length", "3048/10000"),
    ("yd|yard|yards", "length", "9144/10000"),
    ("mi|mile|miles", "length", "1609344/1000"),
    ("lb|lbs|pound|pounds", "mass", "45359237/100000000"),
    ("oz|ounce|ounces", "mass", "45359237/1600000000"),
    ("t|ton|tons|tonne|tonnes", "mass", "1000"),
    ("sec|secs", "time", "1"),
    ("min|mins|minute|minutes", "time", "60"),
    ("h|hr|hrs|hour|hours", "time", "3600"),
    ("d|day|days", "time", "86400"),
    ("week|weeks", "time", "604800"),
    ("month|months", "month", "1"),
    ("yr|yrs|year|years", "month", "12"),
    ("decade|decades", "month", "120"),
    ("century|centuries", "month", "1200"),
    ("bar", "pressure", "100000"),
    ("atm", "pressure", "101325"),
    ("rad|radian|radians", "radian", "1"),
    ("°|degree|degrees|deg", "degree", "1"),
    ("K|kelvin", "kelvin", "1"),
    ("C|°C|celsius|degrees celsius|degree celsius", "celsius", "1"),
    ("F|°F|fahrenheit|degrees fahrenheit|degree fahrenheit", "fahrenheit", "1"),
    ("dollar|dollars|USD", "dollar", "1"),
    ("cent|cents", "dollar", "1/100"),
    ("euro|euros|EUR", "euro", "1"),
)
_LITERS = ("liter", "litre")

MAX_CHARS = 80  # of a unit's name

_POWER = r"(?:\s?\^\s?\{?(-?\d)\}?)"
_TERM = re.compile(
    rf"(?:(sq(?:uare)?\.?|cubic)\s)?(°?[A-Za-z\u00b5Ω]+(?:[ -][A-Za-z]+)?|°)\s?{_POWER}?",
    re.IGNORECASE,
)


@cache
def _table() -> dict[str, Unit]:
    found: dict[str, Unit] = {}
    for symbol, names, kind, factor in _PREFIXED:
        for prefix, (word, scale) in _PREFIXES.items():
            unit = Unit(Fraction(factor) * Fraction(scale), ((kind, 1),))
            found.setdefault(prefix + symbol, unit)
            for name in names.split("|"):
                found |= {word + name: unit, f"{word}{name}s": unit}
    for names, kind, factor in _OTHERS:
        found |= dict.fromkeys(names.split("|"), Unit(Fraction(factor), ((kind, 1),)))
    for prefix, (word, scale) in _PREFIXES.items():
        unit = Unit(Fraction(scale) / 1000, (("length", 3),))
        found |= dict.fromkeys((f"{prefix}L", f"{prefix}l"), unit)
        found |= {f"{word}{name}{s}": unit for name in _LITERS for s in ("", "s")}
    found["mph"] = Unit(Fraction(1609344, 3600 * 1000), (("length", 1), ("time", -1)))
    found["kmh"] = found["kph"] = Unit(Fraction(1000, 3600), (("length", 1), ("time", -1)))
    return found


@cache
def _folded() -> dict[str, Unit]:
    """The table by lower-case names, where only one unit has that ("cm", not "mw")."""
    found: dict[str, set[Unit]] = {}
    for name, unit in _table().items():
        found.setdefault(name.casefold(), set()).add(unit)
    return {name: next(iter(units)) for name, units in found.items() if len(units) == 1}


def unit_of(text: str) -> Unit | None:
    """The unit that `text` names ("cm", "square feet", "km/h", "m^3", "µs"); None if it is none."""
    if len(text) > MAX_CHARS:
        return None
    over, per, under = re.sub(
        r"\s+per\s+", "/", text.strip().replace("\u03bc", "\u00b5")
    ).partition("/")
    above, below = _term(over.strip()), _term(under.strip()) if per else None
    if above is None or (per and below is None):
        return None
    if below is None:
        return above
    powers = dict(above.dimension)
    for kind, power in below.dimension:
        powers[kind] = powers.get(kind, 0) - power
    left = tuple(sorted((kind, power) for kind, power in powers.items() if power))
    return Unit(above.factor / below.factor, left)


def _term(text: str) -> Unit | None:
    """One unit with its power."""
    found = _TERM.fullmatch(text)
    if not found:
        return None
    name = " ".join(found[2].split())
    unit = _table().get(name) or (_folded().get(name.casefold()) if len(name) > 1 else None)
    if unit is None:
        return None
    words = {"c": 3, "s": 2}
    power = int(found[3]) if found[3] else words.get((found[1] or " ")[0].lower(), 1)
    if not power:
        return None
    powers = tuple((kind, power * times) for kind, times in unit.dimension)
    return Unit(unit.factor**power, powers)
