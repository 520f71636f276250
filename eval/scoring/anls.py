"""Average normalised Levenshtein similarity (ANLS) of one prediction: InfographicVQA, DocVQA."""

from __future__ import annotations

from collections.abc import Sequence


def anls(prediction: str, answers: Sequence[str], threshold: float = 0.5) -> float:
    """Best similarity of `prediction` to one of `answers`, in 0..1; exactly 0.5 counts as 0.

    The rule of the ST-VQA paper (arXiv 1905.13648) as the `anls` package has it: case and runs of
    white space do not count, accents do, and a distance of `threshold` or more of the longer
    text's length scores 0. Raises ValueError when `answers` is empty.
    """
    _need_some(answers)
    return max(_similarity(_plain(prediction), _plain(answer), threshold) for answer in answers)


def padded_anls(prediction: str, answers: Sequence[str], threshold: float = 0.5) -> float:
    """The variant of VLMEvalKit and lmms-eval: a similarity below `threshold` is 0, 0.5 stays.

    Its bug is kept, since published numbers carry it: the distance is taken between texts whose
    white space is collapsed, but divided by the length of the raw ones, so that trailing blanks
    raise the score; a wrong answer with thirty of them scores above 0.8.
    Raises ValueError when `answers` is empty.
    """
    _need_some(answers)
    similarity = 1 - min(_padded_distance(prediction, answer) for answer in answers)
    return 0.0 if similarity < threshold else similarity


def edit_distance(left: str, right: str) -> int:
    """Levenshtein distance, unit costs. Time len(left) * len(right), memory the shorter one's."""
    short, long = sorted((left, right), key=len)
    row = list(range(len(short) + 1))
    for i, wanted in enumerate(long, start=1):
        diagonal, row[0] = row[0], i
        for j, given in enumerate(short, start=1):
            replaced = diagonal + (given != wanted)
            diagonal = row[j]
            row[j] = min(replaced, row[j] + 1, row[j - 1] + 1)
    return row[-1]


def _similarity(left: str, right: str, threshold: float) -> float:
    length = _length(left, right)
    distance = edit_distance(left, right) / length if length else 0.0
    return 1 - distance if distance < threshold else 0.0


def _padded_distance(prediction: str, answer: str) -> float:
    length = _length(prediction, answer)
    return edit_distance(_plain(prediction), _plain(answer)) / length if length else 0.0


def _length(left: str, right: str) -> int:
    """Length of the longer text in upper case, where one character may become two ("ß")."""
    return max(len(left.upper()), len(right.upper()))


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _need_some(answers: Sequence[str]) -> None:
    if not answers:
        raise ValueError("no answer to compare with: the list of answers is empty")
