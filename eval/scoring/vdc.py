"""VDC: a judge's grade of an answer, and VDCscore, the mean over videos.

The rule of rese1f/aurora (post_eval/process_vdc_result.py) and lmms-eval (tasks/vdc/utils.py). The
former leaves out videos of which nothing is right; the latter takes an unreadable grade for 0.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from eval.scoring.stated import number_in, stated_object

FULL = 5.0


class Grade(NamedTuple):
    """Whether an answer matches the right one, and how well, 0 to 5."""

    match: bool
    score: float


def read_grade(reply: str) -> Grade | None:
    """The grade in a reply, `{"match": "yes", "grade": 4}`; None where there is none."""
    stated = stated_object(reply, "grade") or {}
    score = number_in(stated.get("grade"))
    match = str(stated.get("match")).strip().casefold()
    if score is None or not 0 <= score <= FULL or match not in ("yes", "no"):
        return None
    return Grade(match == "yes", score)


def vdc_scores(grades: Iterable[tuple[str, str, Grade]]) -> dict[str, float]:
    """VDCscore (0 to 5) and accuracy (a share), of (kind of caption, video, grade) of each answer.

    Means over videos of their means, for each kind; the overall figures are means over kinds.
    """
    found: dict[str, dict[str, list[Grade]]] = defaultdict(lambda: defaultdict(list))
    for kind, video, grade in grades:
        found[kind][video].append(grade)
    scores, matches = {}, {}
    for kind, videos in sorted(found.items()):
        of_videos = [
            (statistics.fmean(g.score for g in of), statistics.fmean(g.match for g in of))
            for of in videos.values()
        ]
        scores[kind] = statistics.fmean(score for score, _ in of_videos)
        matches[kind] = statistics.fmean(match for _, match in of_videos)
    if not found:
        return {}
    overall = {
        "VDCscore": statistics.fmean(scores.values()),
        "accuracy": statistics.fmean(matches.values()),
    }
    return (
        overall
        | {f"VDCscore {kind}": score for kind, score in scores.items()}
        | {f"accuracy {kind}": match for kind, match in matches.items()}
    )
