"""Video benchmarks: broken records, clips, subtitles, spans, and what judges decide."""

from __future__ import annotations

import json

import pytest

from caprl_native.data.media import decode
from caprl_native.testing.media_files import write_mp4
from caprl_native.types import MediaRef, Sample
from eval.benchmarks import benchmarks
from eval.benchmarks.base import Files
from eval.benchmarks.judging import yes_or_no
from eval.items import Verdict
from tests.eval.benchmark_files import EXAMPLES, OFTEN, read, write_files, write_tsv


def edited(files: Files, change: dict) -> Files:
    """The first file with its first record, or the record under its first key, repeated changed."""
    file = files.paths[0]
    value = json.loads(file.read_text())
    if isinstance(value, list):
        value.insert(0, value[0] | change)
    else:
        value = {"bad": next(iter(value.values())) | change} | value
    file.write_text(json.dumps(value))
    return files


BAD_VIDEOS = [
    ("mvbench", {"video": None}, "video: missing"),
    ("mvbench", {"answer": "He slept."}, "answer: 'He slept.' is not among the candidates"),
    ("mvbench", {"candidates": "He ran."}, "candidates: expected a list, got 'He ran.'"),
    ("mvbench", {"candidates": ["He sat."]}, "candidates: 1 choices"),
    ("mvbench", {"end": 0.25}, "end: 0.25 is not after the start, 0.5"),
    ("mvbench", {"start": "soon"}, "start: 'soon' is no number"),
    ("mmvu", {"answer": "F"}, "answer: 'F' is no choice's letter; give a letter from A to E"),
    ("mmvu", {"choices": None}, "choices: expected an object, got None"),
    ("mmvu", {"choices": {"A": "1", "C": "2"}}, "choices: choices are keyed ['A', 'C']"),
    ("mmvu", {"question_type": "essay"}, "question_type: 'essay' is none"),
    ("mmvu", {"video": "https://example.org/watch?v=1"}, "names no file"),
    ("tomato", {"answer": 4}, "answer: 4 is no option's index; give 0 to 3"),
    ("tomato", {"answer": True}, "answer: True is no option's index"),
    ("tomato", {"key": ""}, "key: missing or empty"),
    ("tomato", {"options": None}, "options: missing"),
    ("timelens", {"spans": [[1, 2]]}, "spans: not one for each of 2 queries"),
    ("timelens", {"queries": []}, "queries: missing or empty"),
]


@pytest.mark.parametrize(("name", "change", "reason"), BAD_VIDEOS)
def test_a_broken_video_record_is_named_and_the_others_stay(tmp_path, name, change, reason):
    files = edited(write_files(tmp_path, name), change)
    items, (broken,) = read(name, files)
    assert len(items) == len(EXAMPLES[name])
    assert broken.source.startswith(f"{files.paths[0]}:") and reason in broken.reason


BAD_SPANS = [
    ([9.0, 3.0], "spans: the end, 3, is not after the start, 9"),
    ([31.0, 35.0], "spans: 31 lies after the video's end, 30.96"),
    ([-1.0, 3.0], "is no span"),
    ([1.0], "is no span"),
    (["1", "2"], "is no span"),
]


@pytest.mark.parametrize(("span", "reason"), BAD_SPANS)
def test_a_query_with_a_broken_span_does_not_take_the_others_along(tmp_path, span, reason):
    files = write_files(tmp_path, "timelens")
    value = json.loads(files.paths[0].read_text())
    value["3MSZA"]["spans"][0] = span
    files.paths[0].write_text(json.dumps(value))
    (item,), (broken,) = read("timelens", files)
    assert item.answer == (2.0, 8.0)
    assert broken.source == f"{files.paths[0]}:3MSZA#0" and reason in broken.reason


BAD_CELLS = [
    ("videomme", "answer", "E", "answer: 'E' is no choice's letter"),
    ("videomme", "candidates", "[]", "candidates: expected a list"),
    ("videomme", "candidates", "['A. 1', 'A. 2']", "choices are labelled A, A"),
    ("videomme", "question", " ", "question: missing or empty"),
    ("mmbench_video", "dimensions", "['Video Topic', 'Taste']", "dimensions: 'Taste' is none"),
    ("mmbench_video", "dimensions", "OCR", "dimensions: expected a list, got 'OCR'"),
    ("mmbench_video", "answer", "", "answer: missing or empty"),
]


@pytest.mark.parametrize(("name", "column", "cell", "reason"), BAD_CELLS)
def test_a_broken_row_of_a_table_is_named(tmp_path, name, column, cell, reason):
    table = write_files(tmp_path, name).paths[-1]
    header, first = table.read_text().splitlines()[:2]
    row = dict(zip(header.split("\t"), first.split("\t"), strict=True))
    write_tsv(table, [row | {column: cell}, row])
    with table.open("a") as file:
        file.write("cut off\n")
    items, (bad, short) = read(name, Files((table,), tmp_path))
    assert len(items) == 1
    assert bad.source == f"{table}:2" and reason in bad.reason
    assert short.source == f"{table}:4" and "fields" in short.reason


def test_videomme_reads_subtitles_where_a_video_has_them(tmp_path):
    files = write_files(tmp_path, "videomme")
    (first, second), _ = read("videomme", files)
    assert first.subtitles == "There are three candles.\nYes." and second.subtitles == ""
    asked = benchmarks()["videomme"].chat(first, "A cake.")[-1]["content"]
    assert asked.index("A cake.") < asked.index("Subtitles:\nThere are three candles.\nYes.")
    without, _ = read("videomme", Files(files.paths, files.media_root))
    assert [i.subtitles for i in without] == ["", ""]


def test_subtitles_that_are_not_utf8_are_named(tmp_path):
    files = write_files(tmp_path, "videomme")
    said = "1\n00:00:00,000 --> 00:00:01,000\né"
    (files.subtitles / "abc.srt").write_text(said, "cp1252")
    items, (broken,) = read("videomme", files)
    assert len(items) == 1 and "subtitles: " in broken.reason and "UTF-8" in broken.reason


def test_mvbench_cuts_clips_and_reads_folders_of_frames(tmp_path):
    (clip, scene, whole), _ = read("mvbench", write_files(tmp_path, "mvbench"))
    assert [(i.media[0].start, i.media[0].end, i.media[0].fps) for i in (clip, scene, whole)] == [
        (0.5, 1.5, None),
        (1.0, 3.0, 3.0),
        (None, None, None),
    ]
    (video,) = decode(Sample("s", scene.media, ()), OFTEN)
    assert video.metadata["total_num_frames"] == 6 and video.metadata["duration"] == 2


@pytest.mark.parametrize(
    ("task", "video", "there"),
    [
        ("action_sequence", "a.mp4", "star/Charades_segment/a.mp4"),
        ("episodic_reasoning", "s01e01", "tvqa/video_fps3_hq_segment/s01e01.mp4"),
        ("fine_grained_pose", "x.avi", "nturgbd_convert/x.mp4"),
        ("action_antonym", "1.webm", "ssv2_video_mp4/1.mp4"),
    ],
)
def test_mvbench_s_other_revision_has_cut_and_converted_videos(tmp_path, task, video, there):
    write_mp4(tmp_path / there)
    record = {"video": video, "question": "Q?", "candidates": ["a", "b"], "answer": "b"}
    (tmp_path / "json").mkdir()
    file = tmp_path / "json" / f"{task}.json"
    file.write_text(json.dumps([record | {"start": 5, "end": 9}]))
    (item,), _ = read("mvbench", Files((file,), None))
    assert item.media == (MediaRef("video", str(tmp_path / there)),)


def test_an_unknown_task_of_mvbench_lies_flat_and_is_cut_where_it_says(tmp_path):
    write_mp4(tmp_path / "v.mp4")
    record = {"video": "v.mp4", "question": "Q?", "candidates": ["a", "b"], "answer": "b"}
    file = tmp_path / "my_task_20250131.json"
    file.write_text(json.dumps([record, record | {"start": 0, "end": 1, "fps": 5}]))
    (whole, clip), _ = read("mvbench", Files((file,), None))
    assert whole.media[0].path == str(tmp_path / "v.mp4") and whole.media[0].end is None
    assert clip.media[0].end == 1 and whole.groups == {"task": "my task"}


def test_the_authors_clips_are_cut_only_where_their_task_is_on_clips(tmp_path):
    write_mp4(tmp_path / "v.mp4")
    record = {"video": "v.mp4", "question": "Q?", "candidates": ["a", "b"], "answer": "b"}
    file = tmp_path / "action_count.json"
    file.write_text(json.dumps([record | {"start": 0, "end": 1}]))
    (item,), _ = read("mvbench", Files((file,), None))
    assert item.media[0].start is None and item.media[0].end is None


def test_tomato_takes_the_official_letter_only_from_the_choices(tmp_path):
    (item,), _ = read("tomato", write_files(tmp_path, "tomato"))
    score = benchmarks()["tomato"].score
    assert score(item, "Answer is:F", "official") == Verdict(0.0, None)
    assert score(item, "I think that it is the flute.", "official") == Verdict(1.0, "C")


def test_timelens_asks_for_a_span_and_reports_recalls(tmp_path):
    items, _ = read("timelens", write_files(tmp_path, "timelens"))
    benchmark = benchmarks()["timelens"]
    assert items[0].question == 'When does this happen: "A person turns a light on"?'
    assert "From X to Y seconds" in benchmark.chat(items[0], "c")[-1]["content"]
    half = benchmark.score(items[1], "<think>3</think>From 2 to 5 seconds.", "official")
    assert half.score == pytest.approx(0.5) and half.said == "2 - 5 s"
    scored = [(items[0], Verdict(1.0)), (items[1], half), (items[1], Verdict(0.0))]
    assert benchmark.metrics(scored) == pytest.approx(
        {"R1@0.3": 200 / 3, "R1@0.5": 200 / 3, "R1@0.7": 100 / 3}
    )
    assert benchmark.metrics([]) == {}


@pytest.mark.parametrize(
    ("reply", "score"),
    [("1", 1), ("0", 0), (" 1.\n", 1), ("Score: 0", 0), ("<think>0?</think>1", 1), ("yes", None),
     ("1 or 0", None), ("10", None), ("0.5", None), ("", None), ("-1", None), ("1, same", 1),
     ("0, differs", 0), ("1.0", 1), ("1/2", None), ("100%", None)],
)  # fmt: skip
def test_a_judges_yes_or_no(reply, score):
    assert yes_or_no(reply) == (None if score is None else Verdict(float(score)))


@pytest.mark.parametrize("name", ["charxiv", "mmvu"])
def test_a_judge_decides_on_free_text(tmp_path, name):
    items, _ = read(name, write_files(tmp_path, name))
    benchmark = benchmarks()[name]
    assert benchmark.judged_by_model
    assert benchmark.judged(items[1], "x", "1") == Verdict(1.0)
    assert benchmark.judged(items[1], "x", "I cannot tell.") is None


def test_mmbench_video_has_grades_and_means_by_dimension(tmp_path):
    (first, second), _ = read("mmbench_video", write_files(tmp_path, "mmbench_video"))
    benchmark = benchmarks()["mmbench_video"]
    assert benchmark.unit == "points" and benchmark.judged(first, "x", "3") == Verdict(3.0)
    assert benchmark.judged(first, "x", "5") is None
    found = benchmark.metrics([(first, Verdict(3.0)), (first, None), (second, Verdict(1.0))])
    assert found["Perception_all"] == 1.5 and found["Perception_valid"] == 3
    assert found["OCR_valid"] == 3 and found["Reasoning_all"] == found["Causal Reasoning_all"] == 1
    assert found["Overall_all"] == 1.33 and "Hallucination_all" not in found
