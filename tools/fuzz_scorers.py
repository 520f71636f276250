"""Hostile strings through every function that reads what a model wrote: none may hang or break.

    python tools/fuzz_scorers.py [--count 10000] [--seed 0] [--limit 2.0]

Functions are found by themselves: all public ones of `eval.scoring`, and those of the modules in
`OTHERS`. Prints how many strings and calls there were, the slowest calls, and every exception that
is no ValueError; exits with 1 where there was one, or a call took longer than the limit.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

import eval.scoring
from caprl_native.text.plain_text import bounded
from eval.scoring.mentions import Mention
from eval.scoring.vdc import Grade
from eval.scoring.words import MAX_CHARS, Word

OTHERS = (
    "caprl_native.text.answer_words",
    "caprl_native.data.choices",
    "caprl_native.text.plain_text",
    "caprl_native.rewards.letter",
    "caprl_native.rewards.terms.timestamps",
    "caprl_native.text.thoughts",
    "eval.benchmarks.judging",
)
COLOURS = {"A": "Red", "B": "Blue", "C": "Green", "D": "Yellow"}

# What is repeated, nested and joined to hostile strings.
PIECES = (
    "a", "A", "b ", "B.", "(", ")", "[", "]", "{", "}", "((", "[[", "1", "12", "9" * 50, "1,000",
    "0.", ".5", "-", "--", "+", "^", "^{", "!", "**", "*", "/", "%", "e5", "E-4", "x", "×10⁻⁴", "=",
    "\\boxed{", "\\frac{", "\\sqrt{", "\\text{", "\\times ", "\\binom{9}{", "\\", "$", "$$", "\\(",
    "<think>", "</think>", "[THINK]", "<seed:think>", "<|channel|>analysis", "<|begin_of_thought|>",
    "<answer>", "</answer>", "<b>", "</b>", "<", ">", "<|", "|>", "the answer is ", "Answer:",
    "Die Antwort ist ", "答えは", "정답은 ", "الإجابة هي ", "not ", "no, ", "wait, ", "is ", "the ",
    "A or ", "B and ", "neither ", "red ", "blue", "Red\n", "A) ", "(A) ", "\nB", "00:10", " - ",
    " to ", "1:2:3", "[00:01]", "5 cm", " m", "2 minutes", "'", '"', "`", ",", ";", ":", ".", "?",
    " ", "\n", "\t", "\r\n", "\0", "\ud800", "\udfff", "\u0301", "\u0316", "\u202e", "\u200b", "é",
    "ß", "İ", "ﷺ", "½", "²", "１", "٣", "北京", "🙂", "\U0010ffff", "_", "1_000", "nan", "inf",
    "0x" + "f" * 50, "lambda:", "[1,", "{1:", "((x+1)^{20}+1)^{20}", "((3**600)**100)**900",
    "9**9**9",
)  # fmt: skip


@cache
def scorers() -> dict[str, Callable[..., Any]]:
    """All public functions that are fuzzed, by module and name."""
    names = [f"eval.scoring.{m.name}" for m in pkgutil.iter_modules(eval.scoring.__path__)]
    found = {}
    for module in map(importlib.import_module, [*names, *OTHERS]):
        for name, value in vars(module).items():
            function = inspect.unwrap(value) if callable(value) else None
            if not inspect.isfunction(function) or name.startswith("_"):
                continue
            if function.__module__ == module.__name__ and not _is_private(module.__name__):
                found[f"{module.__name__}.{name}"] = value
    return found


def _is_private(module: str) -> bool:
    return module.rpartition(".")[2].startswith("_")


def _short(text: str) -> str:
    """As the functions that call the helpers hand texts over."""
    return bounded(text, MAX_CHARS)


_TEXTS = frozenset(
    ("prediction", "output", "text", "reply", "answer", "gold", "question", "instruction", "word")
    + ("left", "right")
)
# Arguments that are more than texts: made of two hostile strings.
_ARGUMENTS: dict[str, Callable[[str, str], Any]] = {
    "answers": lambda s, t: [t, s[:500]],
    "years": lambda s, t: ["NO", t[:20], "YES"],
    "question_type": lambda s, t: "Factoid",
    "choices": lambda s, t: COLOURS | {"E": t},
    "options": lambda s, t: COLOURS | {"E": _short(t)},
    "letters": lambda s, t: "ABCD",
    "raw": lambda s, t: [s, t, "A) red", "blue"],
    "scored": lambda s, t: [(s, 0.5), (t, 1.0)],
    "items": lambda s, t: [(["OCR", s[:100]], 1)],
    "ious": lambda s, t: [0.5, float(len(s) % 2)],
    "values": lambda s, t: [float(len(s)), float(len(t))],
    "first": lambda s, t: s,
    "pieces": lambda s, t: [s, "<think>", t, "</think>"],
    "second": lambda s, t: t,
    "wanted": lambda s, t: [t],
    "given": lambda s, t: [s, s[1:]],
    "start": lambda s, t: len(s) // 2,
    "end": lambda s, t: len(s) // 2 + 1,
    "by_letter": lambda s, t: len(t) % 2 == 0,
    "same": lambda s, t: len(t) % 2 == 0,
    "valid": lambda s, t: range(4),
    "most": lambda s, t: 1000,
    "stems": lambda s, t: [t[:5] or "a", "b"],
    "said": lambda s, t: [Word(s[i : i + 1], i, i + 1) for i in range(min(len(s), 2000))],
    "label": lambda s, t: Mention("A", 0, 1, False),
    "other": lambda s, t: Mention("B", 2, 3, True),
    "modality": lambda s, t: "image",
    "words": lambda s, t: ["yes", "no", t[:20]],
    "key": lambda s, t: "events",
    "value": lambda s, t: s,
    "known": lambda s, t: ["left", t[:20]],
    "count": lambda s, t: 2,
    "categories": lambda s, t: [s[:20], t[:20]],
    "relations": lambda s, t: ["entailment", s],
    "outcomes": lambda s, t: ["right", "unanswerable"],
    "recall": lambda s, t: len(s) % 2,
    "precision": lambda s, t: len(t) % 2,
    "parts": lambda s, t: [(s[:20], 0.5, 1.0), (t[:20], 0.0, 0.0)],
    "verdicts": lambda s, t: [(s[:20], 1), (t[:20], -1)],
    "grades": lambda s, t: [(s[:20], t[:20], Grade(True, 4.0))],
}
# Functions whose arguments of these names mean something else.
_SPECIAL: dict[str, Callable[[str, str], list[tuple[Any, ...]]]] = {
    "eval.scoring.grounding.span_iou": lambda s, t: [((0.0, len(s)), (1.0, float("inf")))],
    "eval.scoring.grounding.grounding_iou": lambda s, t: [(s, (0.0, 5.0))],
    "eval.scoring.mvbench.mvbench_correct": lambda s, t: [
        (s, "(B) Blue"), (s, "(B) Blue", COLOURS), (s, f"(B) {t}"), ("B", s),
    ],
    "eval.scoring.numerals.same_number": lambda s, t: [],  # of numbers, which numeral() bounds
    "eval.scoring.stats.paired_interval": lambda s, t: [([1.0, len(s)], [0.5, len(t)])],
    "eval.scoring.cues.is_denied": lambda s, t: [
        (_short(s), i, i + 1, flag) for i in (0, len(_short(s)) - 1) for flag in (True, False)
    ],
    "eval.scoring.mentions.find_mentions": lambda s, t: [(_short(s), COLOURS | {"E": _short(t)})],
    "eval.scoring.mmvu.mmvu_correct": lambda s, t: [
        (s, "12 cm"), (s, t), ("x = 5", s), (s, "B", COLOURS),
    ],
    "eval.scoring.math_answer.math_equal": lambda s, t: [(s, "12 cm"), (s, t), ("0.5", s)],
    "eval.benchmarks.judging.about_caption": lambda s, t: [("Judge.", s, t, "events")],
    "eval.scoring.captionqa.abstention": lambda s, t: [(len(s),)],
    "eval.scoring.captionqa.is_yes_no": lambda s, t: [(s, [t, "no"]), (t, ["yes", s])],
    "eval.scoring.stated.stated_object": lambda s, t: [
        (s, "events"), (f'{{"events": {s}}}', "events"), (f"{{'events': [{s!r}]}}", "events"),
    ],
    "eval.scoring.autodq.read_events": lambda s, t: [(s,), (f'{{"events": ["{s}"]}}',)],
    "eval.scoring.letters.choice_letter": lambda s, t: [
        (s, COLOURS), (s, "ABCD"), ("B", {"A": s, "B": t}),
    ],
    "caprl_native.rewards.terms.timestamps.checked_timestamp_reward": lambda s, t: [
        (s, 30.0), (s, 0.0), (t, 1e9, 1.0),
    ],
    "caprl_native.data.choices.parse_answer": lambda s, t: [(s, ("red", t)), ("A", (s, t))],
    "caprl_native.data.choices.parse_choices": lambda s, t: [([s, t],), (s,), ({"A": s, "B": t},)],
}  # fmt: skip


def calls(name: str, function: Callable[..., Any], s: str, t: str) -> list[tuple[Any, ...]]:
    """Arguments with which a scorer is called on two hostile strings.

    Raises LookupError for a function with an argument that is not known: say here how to make it.
    """
    if name in _SPECIAL:
        return _SPECIAL[name](s, t)
    sides: list[list[Any]] = [[], []]
    texts = 0
    for parameter in inspect.signature(function).parameters.values():
        if parameter.default is not inspect.Parameter.empty:
            break
        if parameter.name in _TEXTS:
            first, second = ((s, s), (t, "42"))[min(texts, 1)]
            texts += 1
        elif parameter.name in _ARGUMENTS:
            first = second = _ARGUMENTS[parameter.name](s, t)
        else:
            raise LookupError(f"{name}: how is its argument {parameter.name!r} made?")
        sides[0].append(first)
        sides[1].append(second)
    return [tuple(side) for side in (sides if texts > 1 else sides[:1])]


def hostile(rng: random.Random, longest: int = 200_000) -> str:
    """One hostile string: repeated, nested or mixed pieces, most of them short."""
    size = int(10 ** rng.uniform(0, 2.5 if rng.random() < 0.97 else 5.3))
    size = min(size, longest)
    kind = rng.randrange(6)
    one, two, three = rng.choices(PIECES, k=3)
    if kind == 0:
        text = one * (size // len(one) + 1)
    elif kind == 1:
        text = (one + two) * (size // len(one + two) + 1)
    elif kind == 2:
        text = one * (size // 2 // len(one) + 1) + three + two * (size // 2 // len(two) + 1)
    elif kind == 3:
        text = "".join(rng.choices(PIECES, k=size // 4 + 1))
    elif kind == 4:
        text = "".join(
            chr(rng.choice((rng.randrange(128), rng.randrange(0x3000))))
            for _ in range(min(size, 5000))
        )
    else:
        text = f"{one}{rng.choice(('B', '5 cm', '3.2e-4', 'x=1'))} {two}" + three * rng.randrange(6)
    head = rng.choice(
        ("", "", "", "<think>x</think><answer>\\boxed{", "\\boxed{", "The answer is ")
    )
    tail = "}</answer>" if head.endswith("\\boxed{") and len(head) > 10 else ""
    return head + text[:longest] + tail


class Call(NamedTuple):
    """A call of a scorer: how long it took, and what it raised that is no ValueError."""

    name: str
    arguments: tuple[Any, ...]
    seconds: float
    failure: Exception | None


def timed_call(name: str, arguments: tuple[Any, ...]) -> Call:
    """Calls one scorer."""
    function, failure, start = scorers()[name], None, time.perf_counter()
    try:
        with suppress(ValueError):  # documented: of golds and choices that cannot be used
            function(*arguments)
    except Exception as error:
        failure = error
    return Call(name, arguments, time.perf_counter() - start, failure)


def timed_calls(s: str, t: str) -> Iterator[Call]:
    """All scorers on two strings."""
    for name, function in scorers().items():
        for arguments in calls(name, function, s, t):
            yield timed_call(name, arguments)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000, help="strings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=2.0, help="seconds for a call")
    given = parser.parse_args()
    rng = random.Random(given.seed)
    slowest: dict[str, tuple[float, str]] = {}
    failures: Counter[str] = Counter()
    number = slow = 0
    for _ in range(given.count):
        text = hostile(rng)
        for call in timed_calls(text, hostile(rng)):
            number += 1
            slow += call.seconds > given.limit
            about = f"{call.arguments!r:.120} ({sum(len(str(a)) for a in call.arguments)})"
            slowest[call.name] = max(slowest.get(call.name, (0.0, "")), (call.seconds, about))
            if call.failure is not None:
                failures[f"{call.name}: {call.failure!r:.120}"] += 1
                print(f"! {call.name} {call.failure!r:.200} on {call.arguments!r:.200}", flush=True)
    print(f"{given.count} strings, {len(slowest)} functions, {number} calls")
    print(f"{slow} calls over {given.limit} s, {sum(failures.values())} exceptions")
    for name, (seconds, text) in sorted(slowest.items(), key=lambda pair: -pair[1][0])[:12]:
        print(f"  {seconds:6.3f} s  {name}  {text}")
    for reason, count in failures.most_common(20):
        print(f"  {count} x {reason}")
    return int(bool(failures or slow))


if __name__ == "__main__":
    sys.exit(main())
