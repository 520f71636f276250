"""A judge in process: a real engine, shared by two ranks, and real media files.

(`tests/train/test_judge_run.py` has one on a single rank.)
"""

from __future__ import annotations

from pathlib import Path

import pytest

from caprl_native.testing.media_files import truncate
from tests.ranks import run_ranks
from tests.rewards.judging import image_sample, video_sample, write_judge

REPLY = {"factuality": 0.8, "temporal_alignment": 0.7, "coverage": 0.6}
REPLY |= {"hallucination_penalty": 0.9}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge and the media that it is shown; one of them is damaged."""
    folder = tmp_path_factory.mktemp("judge")
    memories = {"correctness": 1, "label": 1}
    write_judge(folder / "judge", REPLY | memories, " [RANK START][2, 1][RANK END]")
    image_sample(folder)
    video_sample(folder)
    truncate(video_sample(folder, "bad").media[0].path or "", 0.3)
    return folder


def test_a_judge_in_process_scores_or_says_why_not(folder: Path) -> None:
    seen, other = run_ranks("judge", 2, folder, 2)
    assert other == seen  # the ranks of an engine go together
    assert seen["collective"] is True
    image, video, bad, long, injected, *rest = seen["first"]
    assert image[0] == pytest.approx(0.4 * 0.8 + 0.35 * 0.6 + 0.25 * 0.9)
    assert video[0] == injected[0] == pytest.approx(0.745)
    assert all(score[0] == image[0] for score in rest)
    assert bad[0] is None and "bad.mp4" in bad[1]
    assert long[0] is None and "prompt" in long[1]
    assert seen["again"] == seen["first"]
    assert seen["given"][0][0] == pytest.approx(0.745)  # of decoded media, without the file
    ((value, failure, _),) = seen["unreadable"]
    assert value is None and "2 objects with scores" in failure
    assert seen["shown"].count("<|im_end|>") == 2  # of the system's turn and of the user's
    assert sorted(seen["memories"]) == pytest.approx([-1.5, 0.5, 0.55])
    assert seen["requests"] == {"correctness": 2 / 2, "label": 2 / 2, "usefulness": 1 / 2}
    assert seen["shown"].count("<|video_pad|>") == 1 and "< |im_end|>" in seen["shown"]
