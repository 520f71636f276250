"""The four stages of a curation; each reads the files of those before it and writes its own.

    generated.jsonl    {id, media, output, finish_reason, seed}
    questions.jsonl    {id, media, questions: [{question, choices, answer, line}], rejected}
    answers.jsonl      {id, media, questions: [{question, choices, answer, rounds}]}; answers2.jsonl
    train-*.parquet    what is trained on; report.json, report.md, report.html

Inputs that a stage failed on stand in `*.failed.jsonl`; `*.work` are the jobs of stages 1 and 3.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from caprl_native.config.media import MediaConfig
from caprl_native.config.models import VisionModelConfig
from caprl_native.curation import files, rows, rule
from caprl_native.curation.answer import QUESTIONS, Answer
from caprl_native.curation.config import CurationConfig, solvers, stages
from caprl_native.curation.extraction import extract
from caprl_native.curation.extraction.checks import stamps
from caprl_native.curation.generate import Write
from caprl_native.curation.identity import model_name
from caprl_native.curation.inputs import described, entries
from caprl_native.curation.report import write_report
from caprl_native.curation.tally import Tally
from caprl_native.data.listing import Entry
from caprl_native.data.media import MediaError, decode
from caprl_native.files import atomic_write
from caprl_native.inference.jobs.chunk import JobResult
from caprl_native.inference.jobs.ending import DONE, INCOMPLETE, told
from caprl_native.inference.jobs.ledger import Ledger
from caprl_native.inference.jobs.runner import run_job
from caprl_native.inference.jobs.task import Task
from caprl_native.inference.room import open_model
from caprl_native.types import MediaRef, Sample


class Curation:
    """One run, or a shard of it. Raises ConfigError, DataError, OSError."""

    def __init__(self, config: CurationConfig) -> None:
        self.config, self.folder = config, config.folder
        self.folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> int:
        """The stages that the settings name; returns the exit code."""
        code = DONE
        for stage in stages(self.config):
            got = getattr(self, stage)()
            if got not in (DONE, INCOMPLETE):
                return int(got)
            code = max(code, got)
        return code

    def work(self, name: str) -> Path:
        """Where the job is kept that makes a stage's file."""
        return self.folder / f"{name}.work"

    # --- 1 ------------------------------------------------------------------------------------

    def generate(self) -> int:
        """Asks the writer about every input."""
        c = self.config
        task = Write(c.writer, c.media, c.run.seed)

        def line_of(result: JobResult) -> files.Line:
            return {**files.head(result.entry), **(result.record or {})}

        given, fraction = entries(c)
        return self._job(files.GENERATED, task, given, fraction, c.writer, line_of)

    def _job(
        self,
        name: str,
        task: Task,
        given: Iterator[Entry],
        fraction: Any,
        model: VisionModelConfig,
        line_of: Any,
    ) -> int:
        run, folder = self.config.run, self.work(name)
        if run.overwrite:
            shutil.rmtree(folder, ignore_errors=True)
        with closing(Ledger(folder, task.identity, run.chunk)) as ledger:
            ended = run_job(
                task,
                given,
                lambda: open_model(
                    model, self.config.media, run.seed, replicas=run.replicas, cluster=run.ray
                ),
                ledger,
                unit="inputs",
                fraction=fraction,
                progress=run.progress,
                retry_failed=run.retry_failed,
            )
            files.write_results(self.folder, name, ledger.results, line_of)
            return told(ended, ledger, self.folder / files.failed_file(name))

    # --- 2 ------------------------------------------------------------------------------------

    def extract(self) -> int:
        """Reads the questions out of what was written; of a data set, takes its own."""
        lines = self._given() if self.config.run.recheck else self._extracted()
        files.write(self.folder / files.QUESTIONS, lines)
        return DONE

    def _given(self) -> Iterator[files.Line]:
        for entry in entries(self.config)[0]:
            if not entry.problem:
                yield {**files.head(entry), QUESTIONS: entry.columns[QUESTIONS], "rejected": []}

    def _extracted(self) -> Iterator[files.Line]:
        choices, media = self.config.writer.choices, self.config.media
        for line in files.read(self.folder / files.GENERATED):
            cut_off = line.get("finish_reason") == "length"
            seconds = _seconds(line, media) if stamps(line["output"]) else None
            kept, rejected = extract(
                line["output"], choices=choices, cut_off=cut_off, seconds=seconds
            )
            about = {"id": line["id"], "media": line["media"]}
            found = [asdict(q) for q in kept]
            yield {**about, QUESTIONS: found, "rejected": [asdict(r) for r in rejected]}

    # --- 3 ------------------------------------------------------------------------------------

    def answer(self) -> int:
        """Asks each solver every question, with the media and without."""
        codes = [self._answer(number) for number, _ in enumerate(solvers(self.config))]
        bad = [code for code in codes if code not in (DONE, INCOMPLETE)]
        return bad[0] if bad else max(codes)

    def _answer(self, number: int) -> int:
        c, solver = self.config, solvers(self.config)[number]
        task = Answer(solver, c.media, c.run.seed)
        given, fraction = entries(c)
        name = files.answers_file(number)
        return self._job(name, task, self._asked(given), fraction, solver, _answered)

    def _asked(self, given: Iterator[Entry]) -> Iterator[Entry]:
        """All inputs, in place, with their questions or none: chunks stay what they are."""
        for entry, line in files.joined(given, self.folder / files.QUESTIONS):
            found = line[QUESTIONS] if line else []
            yield replace(entry, columns={QUESTIONS: found})

    # --- 4 ------------------------------------------------------------------------------------

    def filter(self) -> int:
        """Writes the training file and the report."""
        k, m = self.config.shard
        form = self.config.output.format
        target = self.folder / f"train-{k:05d}-of-{m:05d}.{form}"
        tally = Tally(self.config.run.examples)
        for line in files.read(self.folder / files.QUESTIONS):
            tally.extraction(line)
        write = rows.write_parquet if form == "parquet" else rows.write_jsonl
        write(target, self._rows(tally))
        for name in (files.GENERATED, *map(files.answers_file, range(len(solvers(self.config))))):
            failed = self.folder / files.failed_file(name)
            if failed.exists():
                tally.failed.update(
                    " ".join(f["reason"].split())[-120:] for f in files.read(failed)
                )
        write_report(self.folder, tally, self.config)
        print(f"{target}: {tally.rows:,} rows")
        return INCOMPLETE if tally.verdicts[rule.MISSING] else DONE

    def _rows(self, tally: Tally) -> Iterator[rows.Row]:
        names = [files.answers_file(i) for i in range(len(solvers(self.config)))]
        streams = [files.joined(entries(self.config)[0], self.folder / name) for name in names]
        questions = files.joined(entries(self.config)[0], self.folder / files.QUESTIONS)
        for (entry, asked), *answered in zip(questions, *streams, strict=True):
            tally.inputs += 1
            lines = [line for _, line in answered]
            if asked and asked[QUESTIONS]:
                row = self._row(entry, asked, lines, tally)
                if row:
                    yield row

    def _row(
        self,
        entry: Entry,
        asked: files.Line,
        lines: list[files.Line | None],
        tally: Tally,
    ) -> rows.Row | None:
        kept: list[tuple[dict[str, Any], list[rule.Shares]]] = []
        for i, question in enumerate(asked[QUESTIONS]):
            found = [_shares(line, i, question) for line in lines]
            verdict = rule.verdict(question["question"], found, self.config.filter)
            tally.judged(verdict, found)
            if verdict == rule.KEPT:
                kept.append((question, [its for its in found if its is not None]))
            else:
                tally.example(verdict, asked, _text(question))
        if len(kept) < self.config.filter.min_questions:
            tally.too_few += 1
            return None
        c = self.config
        found_truth = [rows.truth(q, c.run.seed, c.output.shuffle) for q, _ in kept]
        try:
            row = rows.row_of(entry, found_truth, c)
        except OSError:
            tally.unreadable += 1
            return None
        tally.kept(found_truth)
        return row | self._provenance(entry, [its for _, its in kept])

    def _provenance(self, entry: Entry, found: list[list[rule.Shares]]) -> rows.Row:
        about: rows.Row = {
            "writer": self.config.run.recheck or model_name(self.config.writer),
            "source": entry.source,
        }
        for number, solver in enumerate(solvers(self.config)):
            end = "" if not number else "2"
            about[f"solver{end}"] = model_name(solver)
            for name, kind in (("visual", "media"), ("text", "text")):
                values = [float(its[number][kind].exact) for its in found]
                about[f"{name}_accuracy{end}"] = values
        return about


def _seconds(line: files.Line, config: MediaConfig) -> float | None:
    """The length of the one video of a line; None where there is none, or it cannot be decoded."""
    media = [MediaRef(**m) for m in line["media"]]
    if len(media) != 1 or media[0].kind != "video" or not media[0].path:
        return None
    few = config.replace(video_frames="uniform", video_min_frames=2, video_max_frames=2)
    try:
        (video,) = decode(Sample(line["id"], tuple(media), ()), few)
    except MediaError:
        return None
    metadata: Mapping[str, Any] = getattr(video, "metadata", {})
    return metadata.get("duration")


def _answered(result: JobResult) -> files.Line | None:
    """A line of answers.jsonl; none of an input without questions."""
    asked = result.entry.columns.get(QUESTIONS) or []
    if not asked or result.record is None:
        return None
    each = zip(asked, result.record["answers"], strict=True)
    found = [
        {name: q[name] for name in ("question", "choices", "answer")} | {"rounds": rounds}
        for q, rounds in each
    ]
    return {"id": result.entry.id, "media": described(result.entry.media), QUESTIONS: found}


def _shares(line: files.Line | None, i: int, question: Mapping[str, Any]) -> rule.Shares | None:
    """The accuracies of question `i`; None where it was not asked, or another was."""
    if line is None or i >= len(line[QUESTIONS]):
        return None
    its = line[QUESTIONS][i]
    same = all(its[name] == question[name] for name in ("question", "choices", "answer"))
    return rule.shares(its["rounds"]) if same else None


def _text(question: Mapping[str, Any]) -> str:
    options = [f"{chr(ord('A') + i)}) {text}" for i, text in enumerate(question["choices"])]
    right = chr(ord("A") + question["answer"])
    return "\n".join([question["question"], *options, f"Answer: {right}"])


def write_config(folder: Path, text: str) -> None:
    """The settings as they were resolved."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "config.toml") as file:
        file.write(text)
