"""MMBench-Video: the judge's 0..3 rating, and its means over capability dimensions.

Dimensions and means as in VLMEvalKit (vlmeval/dataset/utils/mmbench_video.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from eval.scoring.verdicts import stated_number

FINE = {
    "CP": ("Video Topic", "Video Emotion", "Video Scene", "Video Style"),
    "FP-S": (
        "OCR",
        "Object Recognition",
        "Attribute Recognition",
        "Event Recognition",
        "Human Motion",
        "Counting",
    ),
    "FP-C": ("Spatial Relationship", "Human-object Interaction", "Human Interaction"),
    "HL": ("Hallucination",),
    "LR": ("Structuralized Image-Text Understanding", "Mathematical Calculation"),
    "AR": ("Physical Property", "Function Reasoning", "Identity Reasoning"),
    "RR": ("Natural Relation", "Physical Relation", "Social Relation"),
    "CSR": ("Common Sense Reasoning",),
    "TR": ("Counterfactual Reasoning", "Causal Reasoning", "Future Prediction"),
}
GROUPS = {
    **{name: (name,) for name in FINE},
    "Perception": ("CP", "FP-S", "FP-C", "HL"),
    "Reasoning": ("LR", "AR", "RR", "CSR", "TR"),
    "Overall": tuple(FINE),
}
COARSE = {
    group: frozenset(label for name in names for label in FINE[name])
    for group, names in GROUPS.items()
}
LABELS = tuple(label for labels in FINE.values() for label in labels)


def judge_score(reply: str) -> int | None:
    """The rating 0, 1, 2 or 3 that the judge's reply states; None unless it is beyond doubt.

    The judge is asked for a single integer. A reply that repeats the same digit still counts;
    "2 or 3", "2/3", "2.5", "-1", "2 objects and", and a reply in words do not (see `verdicts`).
    """
    return stated_number(reply, (0, 1, 2, 3))


def dimension_means(
    items: Iterable[tuple[Sequence[str], int | None]],
) -> dict[str, dict[str, str]]:
    """Mean ratings as two-decimal strings, "nan" for a dimension without items.

    `items` holds (fine labels, rating) pairs; a rating of None or below 0 is a failed judgement.
    The keys are `coarse_all`, `coarse_valid`, `fine_all` and `fine_valid`: `_all` counts failures
    as 0, `_valid` leaves them out. An item enters each coarse dimension once, however many of its
    labels belong there, and every fine one that it names. Raises ValueError for an unknown label.
    """
    coarse: dict[str, list[int]] = {name: [] for name in COARSE}
    fine: dict[str, list[int]] = {label: [] for label in LABELS}
    for labels, rating in items:
        score = -1 if rating is None else rating
        for label in labels:
            if label not in fine:
                raise ValueError(f"unknown MMBench-Video dimension {label!r}; valid: {LABELS}")
            fine[label].append(score)
        for name, members in COARSE.items():
            if members.intersection(labels):
                coarse[name].append(score)
    tables = {}
    for kind, scores in (("coarse", coarse), ("fine", fine)):
        tables[f"{kind}_all"] = {k: _mean([max(s, 0) for s in v]) for k, v in scores.items()}
        tables[f"{kind}_valid"] = {k: _mean([s for s in v if s >= 0]) for k, v in scores.items()}
    return tables


def _mean(scores: list[int]) -> str:
    return f"{sum(scores) / len(scores):.2f}" if scores else "nan"
