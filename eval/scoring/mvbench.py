"""MVBench answers, "(B) The red cup": whether a reply gives them; and the toolkit's own rule."""

from __future__ import annotations

import re
from collections.abc import Mapping

from eval.scoring.letters import choice_letter

_ANSWER = re.compile(r"\s*\(?([A-Za-z])[).:]\s*(.*)", re.DOTALL)
_LETTERS = "ABCDEFGH"
_ALTERNATIVE = re.compile(r"\b(?:or|either)\b|或", re.IGNORECASE)
# \0 stands for the answer's text: "\0 and the blue cup" names two things.
_ANOTHER = re.compile(
    r"\0\W*\band\s+(?:an?|the|another|also)\b|\band\s+(?:(?:an?|the)\s+)?\0", re.IGNORECASE
)


def mvbench_correct(prediction: str, answer: str, choices: Mapping[str, str] | None = None) -> bool:
    """True if `prediction` gives the letter or the text of `answer`, as a careful reader would say.

    `choices` maps all letters to their texts. Without it only the text of `answer` is known, and a
    reply that names others beside it without a letter ("3 or 4", "a cat and a dog") is wrong.
    Raises ValueError if `answer` does not start with a letter in brackets.
    """
    gold = _ANSWER.fullmatch(answer)
    if not gold:
        raise ValueError(f"answer {answer!r}; valid: a letter and its text, (B) The red cup")
    letter, text = gold.group(1).upper(), gold.group(2).strip()
    if choices is not None:
        return choice_letter(prediction, choices) == letter
    options = dict.fromkeys(_LETTERS, "") | {letter: text}
    if choice_letter(prediction, options) != letter:
        return False
    by_letter = choice_letter(prediction, "".join(options)) == letter
    rest = prediction.casefold().replace(text.casefold().rstrip(" ."), "\0")
    return by_letter or not (_ALTERNATIVE.search(rest) or _ANOTHER.search(rest))


def check_ans(prediction: str, answer: str) -> bool:
    """The verdict of VLMEvalKit's `check_ans` (vlmeval/dataset/utils/mvbench.py), for comparison.

    Only what stands before the first blank is compared, and either side may contain the other. An
    empty reply, "." and "(A)(B)" are therefore right, and "The answer is B" is wrong. Raises
    ValueError for an answer without a text, on which the toolkit fails.
    """
    option, _, text = answer.lower().partition(" ")
    if not text:
        raise ValueError(f"answer {answer!r} has no text after its letter; check_ans needs one")
    said = prediction.lower().partition(" ")[0]
    return said.replace(".", "") in option or option in said
