"""Values and texts as messages quote them: in one printable line, cut to a readable length."""

from __future__ import annotations

from typing import Any


def cut(text: str, length: int = 200) -> str:
    """The text in one printable line of about `length` characters at most."""
    text = text if len(text) <= length else f"{text[:length]}..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shown(value: Any, length: int = 200) -> str:
    """A value as a message quotes it."""
    try:
        return cut(repr(value), length)
    except ValueError:  # Python writes no integer of thousands of digits
        return "a number of thousands of digits"
    except RecursionError:
        return "a value that is nested too deeply"
