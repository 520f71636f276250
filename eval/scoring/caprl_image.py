"""CapRL's own scores of a reader's full output, for numbers that compare with its paper's.

The rule of CapRL's Prism evaluation (InternLM/CapRL, Prism_Evaluation/Eval_CapRL.py) with
math-verify 0.9.0. It is kept with its faults, each named where it arises; `math_answer` and the
benchmarks' own rules are what to use for anything else. It differs in two points: a gold that looks
like a list is parsed instead of run, and the time of a comparison is bounded by its size (see
`symbolic`) instead of by an alarm after five seconds.
"""

from __future__ import annotations

import re

from eval.scoring.anls import padded_anls
from eval.scoring.relaxed import accepted, relaxed_match
from eval.scoring.symbolic import equivalent, parse_latex

_HEAD = re.compile(r"</think>\s*<answer>")
_BOX = "\\boxed{"


def image_score(output: str, answer: str) -> float:
    """The better of `verify_chart` and `verify_math`: CapRL's score on chart benchmarks."""
    return max(verify_chart(output, answer), verify_math(output, answer))


def image_score_anls(output: str, answer: str) -> float:
    """The better of `verify_chart_anls` and `verify_math`: CapRL's score on InfographicVQA."""
    return max(verify_chart_anls(output, answer), verify_math(output, answer))


def verify_math(output: str, answer: str) -> float:
    r"""1.0 if math-verify finds the boxed answer equal to `answer`, else 0.0.

    CapRL's score of every benchmark that is neither a chart nor an infographic one. Faults kept:

    - an `answer` that does not parse (empty, a lone "$") gives 1.0 to any output, tags or not;
    - letters are symbols that commute, so that anagrams of one word are equal (Lube, Blue);
    - case counts only for "e" and "I", which are constants: BAD equals bad, RED is not red;
    - a range is a difference: "10-20" equals "-10".
    """
    gold = parse_latex(answer)
    if not gold:
        return 1.0
    box = boxed(output)
    return float(equivalent(box, gold) or equivalent(parse_latex(box), gold))


def verify_chart(output: str, answer: str) -> float:
    r"""1.0 if the boxed answer is within 5% of a numeric `answer`, or equal text, else 0.0.

    `answer` may spell a list, of which any element will do (parsed here, evaluated as code there;
    an empty one raises ValueError here as there). Faults kept:

    - the tolerance is relative to the prediction: the relaxed rule gets its arguments swapped, so
      44.2 passes for 42 and 39.9 does not; a predicted zero matches only the text "0.0";
    - a number is also tried at x0.01 and x100: 20.15 passes for 2015, and 42 for 4200;
    - what is compared is math-verify's rewriting: 0.5 becomes \frac{1}{2} and fails, as do \%,
      thousands separators and \text{} wrappers.
    """
    student = _student(output)
    try:
        value = float(student)
    except ValueError:
        return _relaxed(student, answer)
    return max(_relaxed(str(scale * value), answer) for scale in (1, 0.01, 100))


def verify_chart_anls(output: str, answer: str) -> float:
    """The better of `verify_chart` and the ANLS of the boxed answer, in 0..1.

    ANLS in VLMEvalKit's variant, which keeps a similarity of exactly 0.5 and counts padding. The
    numbers of a gold list count as they are written; the reference fails on them.
    """
    return max(verify_chart(output, answer), padded_anls(_student(output), accepted(answer)))


def boxed(output: str) -> str:
    r"""Content of the box in the answer tag; "" without one.

    The reference's pattern is greedy, and so is this: from the first \boxed{ after the first
    `</think><answer>` (only white space between the two tags) to the last brace before the last
    `</answer>`. Two boxes, a later stray brace and repeated answer blocks therefore run together.
    Found by position: the pattern itself takes cubic time on an output that repeats its boxes.
    """
    head = _HEAD.search(output)
    start = output.find(_BOX, head.end()) if head else -1
    if start < 0:
        return ""
    start += len(_BOX)
    end = output.rfind("}", start, max(output.rfind("</answer>"), start))
    return output[start:end] if end >= 0 else ""


def _student(output: str) -> str:
    """math-verify's normal form of the boxed answer; "" where it reads nothing."""
    parsed = parse_latex(boxed(output))
    return str(parsed[-1]) if parsed else ""


def _relaxed(prediction: str, answer: str) -> float:
    """The relaxed rule with gold and prediction swapped, as the reference calls it."""
    return float(any(relaxed_match(gold, prediction.strip()) for gold in accepted(answer)))
