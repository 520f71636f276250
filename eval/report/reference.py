"""Files of CapRL's and CapRL++'s evaluation: their names, and the layout of their records.

Of an image benchmark, with its `tag`: `intermediate_generations_<tag>_step<N>.jsonl` after the
captions, `Prism_<tag>_step_details_<N>_final.json` and `Prism_<tag>_step_eval_<N>_final.json`. Of a
video benchmark: `intermediate_<name>_step<N>.json`, `prism_<name>_details_step<N>.json` and
`prism_<name>_summary_step<N>.json`, and without a judge `<name>_inference_step<N>.json`. Scores are
shares there, those that we count in points, too.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.benchmarks.base import Benchmark
from eval.items import Item
from eval.records import as_json
from eval.report.files import Record, write_lines, write_text

TAGS = {  # of benchmarks, by our names; any other has its own name
    "chartqa": "chartqa",
    "infovqa": "infovqa",
    "mmstar": "MMStar",
    "mmmu": "mmmu",
    "charxiv": "CharXiv",
    "chartqapro": "ChartQA_Pro",
    "mmmu_pro": "MMMU_Pro",
    "seed": "seed2k",
    "mathverse": "MathVerse_MINIVInt",
    "mathvision": "MathVision",
    "wemath": "WeMath",
    "visulogic": "VisuLogic",
    "videomme": "Video-MME",
    "mvbench": "MVBench",
    "mmvu": "MMVU",
    "mmbench_video": "MMBench-Video",
    "tomato": "TOMATO",
    "timelens": "TimeLens-Bench",
}
_STEP = re.compile(r"step[_-]?(\d+)", re.IGNORECASE)


def step_of(path: str) -> int:
    """The step that a checkpoint's path names last ("global_step1800_hf", "step_20"); else 0."""
    found = _STEP.findall(path)
    return int(found[-1]) if found else 0


@dataclass(frozen=True)
class ReferenceFiles:
    """The reference's files in `folder`, of one step of training."""

    folder: Path
    step: int

    def captions(self, benchmark: Benchmark) -> Path:
        """What is written after the captions."""
        tag = tag_of(benchmark)
        if is_video(benchmark):
            return self.folder / f"intermediate_{tag}_step{self.step}.json"
        return self.folder / f"intermediate_generations_{tag}_step{self.step}.jsonl"

    def details(self, benchmark: Benchmark) -> Path:
        tag = tag_of(benchmark)
        if is_video(benchmark):
            return self.folder / f"prism_{tag}_details_step{self.step}.json"
        return self.folder / f"Prism_{tag}_step_details_{self.step}_final.json"

    def figures(self, benchmark: Benchmark) -> Path:
        tag = tag_of(benchmark)
        if is_video(benchmark):
            return self.folder / f"prism_{tag}_summary_step{self.step}.json"
        return self.folder / f"Prism_{tag}_step_eval_{self.step}_final.json"

    def inference(self, benchmark: Benchmark) -> Path:
        """Of a video benchmark: answers that wait for a judge elsewhere."""
        return self.folder / f"{tag_of(benchmark)}_inference_step{self.step}.json"


def tag_of(benchmark: Benchmark) -> str:
    return TAGS.get(benchmark.name, benchmark.name)


def is_video(benchmark: Benchmark) -> bool:
    """Whether its files are those of the video evaluation."""
    return benchmark.modality == "video"


def write_captions(
    files: ReferenceFiles, benchmark: Benchmark, found: Sequence[tuple[Item, list[str]]]
) -> None:
    """The captions of each item that has any."""
    files.folder.mkdir(parents=True, exist_ok=True)
    path = files.captions(benchmark)
    if is_video(benchmark):
        rows = [{"sample": as_json(i.record), "captions": texts} for i, texts in found if texts]
        write_text(path, json.dumps(rows, indent=4))
        return
    write_lines(
        path,
        (
            {"original_sample": as_json(item.record), "generated_captions": texts}
            for item, texts in found
            if texts
        ),
    )


def write_results(
    files: ReferenceFiles,
    benchmark: Benchmark,
    found: Sequence[tuple[Item, Record]],
    judge: str | None,
    length: Callable[[Record], int | None],
) -> None:
    """Details and figures of the items that have verdicts; captions without one are left out.

    `judge`: the name of the judge, if one was asked; None with `skip_judge`. `length` counts the
    tokens of an answer.
    """
    files.folder.mkdir(parents=True, exist_ok=True)
    scored = [(item, r) for item, r in found if r["mean"] is not None]
    if is_video(benchmark):
        if benchmark.judged_by_model and judge is None:
            rows = [_answered(item, r) for item, r in found]
            _write(files.inference(benchmark), [row for row in rows if row["responses"]])
        if scored:
            details = [_video_row(benchmark, item, r) for item, r in scored]
            _write(files.details(benchmark), details)
            _write(files.figures(benchmark), _video_figures(benchmark, details, judge))
    elif scored:
        images = [_image_row(item, r, length) for item, r in scored]
        _write(files.details(benchmark), images)
        best = statistics.fmean(max(rewards) for _, rewards, *_ in images)
        mean = statistics.fmean(statistics.fmean(rewards) for _, rewards, *_ in images)
        _write(files.figures(benchmark), [f"BoN: {best} Mean: {mean}"])


def _write(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=4))


def _image_row(item: Item, record: Record, length: Callable[[Record], int | None]) -> list[Any]:
    kept = [c for c in record["captions"] if c["verdict"]]
    return [
        as_json(item.record),
        [c["verdict"]["score"] for c in kept],
        [c["verdict"]["said"] or "" for c in kept],
        [length(c["answer"]) for c in kept],
        [c["text"] for c in kept] + [c["answer"]["text"] for c in kept],
    ]


def _video_row(benchmark: Benchmark, item: Item, record: Record) -> Record:
    kept = [c for c in record["captions"] if c["verdict"]]
    scores = [c["verdict"]["score"] / benchmark.full for c in kept]
    return {
        "sample": as_json(item.record),
        "captions": [c["text"] for c in kept],
        "responses": [c["answer"]["text"] for c in kept],
        "scores": scores,
        "bon": max(scores),
        "m_acc": statistics.fmean(scores),
    }


def _answered(item: Item, record: Record) -> Record:
    kept = [c for c in record["captions"] if c["answer"]["text"] is not None]
    return {
        "sample": as_json(item.record),
        "captions": [c["text"] for c in kept],
        "responses": [c["answer"]["text"] for c in kept],
    }


def _video_figures(benchmark: Benchmark, details: list[Record], judge: str | None) -> Record:
    return {
        "benchmark": tag_of(benchmark),
        "num_samples": len(details),
        "judge_model": judge if benchmark.judged_by_model else None,
        "BoN": statistics.fmean(row["bon"] for row in details),
        "M_Acc": statistics.fmean(row["m_acc"] for row in details),
    }


def lengths(captioner: str) -> Callable[[Record], int | None]:
    """What counts an answer's tokens: the captioner's tokenizer, as the reference has it.

    Without a captioner in process, the number that the reader's server gave.
    """
    if not captioner:
        return lambda answer: answer["tokens"]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(captioner)
    return lambda answer: len(tokenizer(answer["text"], add_special_tokens=False)["input_ids"])
