"""What a judge's reply states, and what is not beyond doubt."""

import pytest

from eval.benchmarks.judging import yes_or_no
from eval.scoring.mmbench_video import judge_score
from eval.scoring.verdicts import stated_number


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("1. The right answer is 5 cm. 2. The model says 5 m. They are not the same.", None),
        ("1. a\n2. b\nThey are not the same.", None),
        ("1. They are not the same.", None),
        ("1\nThey are not the same", None),
        ("0 - they are the same", None),
        ("The model's answer is 1, the right one is 0.", None),
        ("The answer is 1.", None),  # whose?
        ("1 2 3", None),
        ("<think>0", None),
        ("[THINK]The verdict is 1", None),
        ("1. They are the same.", 1),
        ("**1**", 1),
        ("[[1]]", 1),
        ("\\boxed{1}", 1),
        ("<answer>1</answer>", 1),
        ('{"score": 1}', 1),
        ("Both mean 5. So 1", 1),
        ("Both mean 5.\n\n1", 1),
        ("Both mean 5.\n\nVerdict: 1", 1),
        ("[THINK]0?[/THINK]1", 1),
        (
            "<|channel|>analysis<|message|>0?<|end|><|start|>assistant<|channel|>final<|message|>1",
            1,
        ),
        ("1 because it matches", 1),
        ("\uff11", 1),
        ("0\nNot the same.", 0),
        ("The final verdict is 0, since they differ", 0),
    ],
)
def test_a_verdict_counts_where_it_is_stated(reply: str, score: int | None) -> None:
    verdict = yes_or_no(reply)
    assert (verdict.score if verdict else None) == score


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ("2 objects and", None),
        ("<think>2 objects and", None),
        ("2 objects are missing", None),
        ("0 objects match", None),
        ("Grade: 2/3", None),
        ("Grade: 2. Or rather grade 3", None),
        ("I would grade it 2.", 2),
        ("2 - most of it", 2),
        ("1. The answer says x. 2. It misses y. Grade: 2", 2),
        ("1. x\n2. y\n\n3", 3),
    ],
)
def test_a_grade_is_no_number_of_a_sentence(reply: str, grade: int | None) -> None:
    assert judge_score(reply) == grade


def test_only_valid_numbers_are_stated() -> None:
    assert stated_number("Score: 4", range(6)) == 4
    assert stated_number("Score: 4", range(4)) is None
