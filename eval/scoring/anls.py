"""Average normalised Levenshtein similarity (ANLS) of one prediction: InfographicVQA, DocVQA."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import commonprefix

MAX_CHARS = 20_000  # of a text whose distance is counted; no answer is longer


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
    """Levenshtein distance, unit costs, of texts of up to MAX_CHARS characters (see `MAX_CHARS`).

    Bit-parallel, by columns (G. Myers 1999, in H. Hyyrö's form for whole texts): time len(left)
    steps on integers of len(right) bits. Raises ValueError for longer texts.
    """
    left, right = _without_shared_ends(left, right)
    if max(len(left), len(right)) > MAX_CHARS:
        raise ValueError(f"texts of more than {MAX_CHARS} characters are not compared")
    if not left or not right:
        return len(left) + len(right)
    places: dict[str, int] = {}
    for i, character in enumerate(right):
        places[character] = places.get(character, 0) | 1 << i
    full, last = (1 << len(right)) - 1, 1 << len(right) - 1
    up, down, distance = full, 0, len(right)
    for character in left:
        equal = places.get(character, 0)
        vertical = equal | down
        diagonal = (((equal & up) + up) ^ up) | equal
        rise, fall = down | (full & ~(diagonal | up)), up & diagonal
        distance += bool(rise & last) - bool(fall & last)
        rise, fall = (rise << 1 | 1) & full, (fall << 1) & full
        up, down = fall | (full & ~(vertical | rise)), rise & vertical
    return distance


def _without_shared_ends(left: str, right: str) -> tuple[str, str]:
    """Both without what they begin and end with alike, which costs nothing."""
    start = len(commonprefix([left, right]))
    left, right = left[start:], right[start:]
    end = len(commonprefix([left[::-1], right[::-1]]))
    return left[: len(left) - end], right[: len(right) - end]


def _share(left: str, right: str, length: int) -> float:
    """Their distance as a share of `length`; of texts too long to compare, 1 unless equal.

    The lengths' difference is a lower bound: where that is all of `length`, nothing is counted.
    """
    if not length or left == right:
        return 0.0
    if max(len(left), len(right)) > MAX_CHARS or abs(len(left) - len(right)) >= length:
        return 1.0
    return edit_distance(left, right) / length


def _similarity(left: str, right: str, threshold: float) -> float:
    distance = _share(left, right, _length(left, right))
    return 1 - distance if distance < threshold else 0.0


def _padded_distance(prediction: str, answer: str) -> float:
    return _share(_plain(prediction), _plain(answer), _length(prediction, answer))


def _length(left: str, right: str) -> int:
    """Length of the longer text in upper case, where one character may become two ("ß")."""
    return max(len(left.upper()), len(right.upper()))


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _need_some(answers: Sequence[str]) -> None:
    if not answers:
        raise ValueError("no answer to compare with: the list of answers is empty")
