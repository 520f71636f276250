"""Prism evaluation: a captioner is worth what a text model can answer from its captions alone.

    python tools/eval_prism.py --config prism.toml [--table.key value ...]
    python tools/eval_prism.py --benchmark chartqa --data-path chartqa.json --image-root /data \\
        --captioner.path /models/captioner --reader.path /models/reader

Exits with 0 when every item has all its captions, answers and judgements, with 3 when some are
missing (they are counted, and tried again by the next run), with 2 on a config that cannot be used,
with 1 when no copy of a model is left to go on with.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from caprl_native.config.cli import ConfigError, dump, exit_with_error, parse_cli
from caprl_native.config.short_forms import Lists, ShortForms, following
from caprl_native.data.records import DataError
from caprl_native.redact import redact
from eval.config import PrismConfig, check, stages
from eval.evaluation import Evaluation
from eval.report.files import (
    Record,
    compared,
    read_run,
    table,
    with_others,
    write_lines,
    write_text,
)
from eval.report.reference import (
    ReferenceFiles,
    lengths,
    step_of,
    write_captions,
    write_results,
)
from eval.report.reference_results import read_reference
from eval.results import missing, reasons, records, summary

INCOMPLETE, INTERRUPTED = 3, 130
MOST_REASONS, REASON = 8, 240  # that the terminal lists; characters of each
# Short forms of settings; those of the second table take no value.
VALUES = {
    "--stage": "run.stage",
    "--limit": "run.limit",
    "--mode": "run.mode",
    "--step": "run.step",
    "--rule": "run.rule",
    "--tag": "run.name",
    "--out": "run.dir",
    "--replicas": "run.replicas",
}
SWITCHES = {
    "--skip-judge": "run.skip_judge",
    "--keep-failed": "run.keep_failed",
    "--allow-outside": "run.allow_outside",
    "--reference-layout": "report.reference_layout",
}
LISTS = {"--compare": "report.compare"}
USAGE = """\
usage: python {prog} --config FILE ... [--table.key value ...]
       python {prog} --benchmark NAME --data-path FILE ... [--image-root FOLDER] ...
              --captioner.path MODEL --reader.path MODEL [--table.key value ...]

  --config FILE ...      TOML files, overlaid left to right; a bare name is looked up in the current
                         folder, then in train_configs/
  --plugins NAME ...     modules or Python files that add benchmarks (same as the setting `plugins`)
  --benchmark NAME       the next --data-path and --image-root are this benchmark's; may be repeated
  --data-path FILE ...   its annotation files
  --image-root FOLDER    where its media lie (also --media-root)
  --tag NAME             name of the run (--run.name)
  --out FOLDER           where everything is kept (--run.dir)
  --stage STAGE          caption, answer, judge or report alone (--run.stage)
  --limit N              only the first N items of each benchmark (--run.limit)
  --captions FILE ...    its captions, made elsewhere; the captioner writes none
  --mode MODE            captions, or direct: the captioner answers, with the media in view
  --step N               step of training in the names of the reference's files (--run.step)
  --rule RULE            official or caprl (--run.rule)
  --replicas N           copies of each in-process model (--run.replicas)
  --skip-judge           ask no judge
  --keep-failed          leave what failed instead of trying it again
  --allow-outside        annotation files may name media outside of --image-root
  --reference-layout     also write the reference's files
  --compare WHAT ...     other runs to show beside this one: their folders, the reference's
                         files or a folder of them, or caprl-3b-1800, its published figures
  --dry-run              print the resolved config, and stop
  --help                 print this and stop
  --table.key value      set one value; also --table.key=value. Lists as '["a", "b"]'

"""
OF_BENCHMARK = {
    "--data-path": "files",
    "--image-root": "media_root",
    "--media-root": "media_root",
    "--captions": "captions",
}


def long_form(argv: Sequence[str]) -> list[str]:
    """The command line with its short forms spelled out as settings.

    Raises ConfigError for what is one benchmark's before any `--benchmark`.
    """
    benchmark = ""

    def of_benchmark(word: str, rest: list[str], lists: Lists) -> list[str]:
        nonlocal benchmark
        if word == "--benchmark":
            benchmark = following(word, rest, 1)[0]
            return []
        if word not in OF_BENCHMARK:
            return [word]
        if not benchmark:
            raise ConfigError(f"command line: {word}: name its benchmark first: --benchmark X")
        key = f"benchmarks.{benchmark}.{OF_BENCHMARK[word]}"
        if key.endswith((".files", ".captions")):
            lists.setdefault(key, []).extend(following(word, rest))
            return []
        return [f"--{key}", json.dumps(following(word, rest, 1)[0])]

    others = frozenset({*OF_BENCHMARK, "--benchmark"})
    return ShortForms(VALUES, SWITCHES, LISTS, others).spelled(argv, of_benchmark)


def report(evaluation: Evaluation, found: Sequence[Record]) -> None:
    """Writes all result files, and prints the table."""
    config, folder = evaluation.config, evaluation.folder
    ours = summary(evaluation, found)
    write_lines(folder / "items.jsonl", found)
    write_text(folder / "summary.json", json.dumps(ours, indent=1) + "\n")
    runs, others = [ours], []
    for name in config.report.compare:
        if Path(name, "summary.json").is_file():
            other, items = read_run(Path(name))
        else:
            other, items = read_reference(name, evaluation.loaded, found)
        others.append(items)
        runs.append(compared(ours, found, other, items, config.report.confidence))
    write_text(folder / "table.md", table(runs))
    if config.report.reference_layout:
        write_reference(evaluation, found)
    if config.report.html:
        from eval.report.html import write_html

        shown = {m["picture"] for r in found for m in r["media"]}
        pictures = {
            name: picture.uri
            for key, of_unit in evaluation.pictures.found.items()
            for i, picture in enumerate(of_unit)
            if (name := f"{key}-{i}") in shown
        }
        write_html(folder / "report.html", runs, with_others(found, others), pictures)
    print((folder / "table.md").read_text("utf-8"))


def reference_in(evaluation: Evaluation) -> ReferenceFiles:
    """The run's files in the reference's layout."""
    config = evaluation.config
    step = config.run.step or step_of(config.captioner.path or config.captioner.model)
    return ReferenceFiles(evaluation.folder / "reference", step)


def write_reference_captions(evaluation: Evaluation) -> None:
    """What the reference writes between captions and answers."""
    for loaded in evaluation.loaded:
        made = []
        for item in loaded.items:
            numbers = range(evaluation.config.captioner.n)
            replies = [evaluation.caption_of(loaded, item, number) for number in numbers]
            made.append((item, [r.text for r in replies if r is not None and r.text is not None]))
        write_captions(reference_in(evaluation), loaded.benchmark, made)


def write_reference(evaluation: Evaluation, found: Sequence[Record]) -> None:
    """The reference's details and figures of each benchmark."""
    config, files = evaluation.config, reference_in(evaluation)
    judge = None if config.run.skip_judge else config.judge.path or config.judge.model
    length = lengths(config.captioner.path)
    records = iter(found)
    for loaded in evaluation.loaded:
        pairs = [(item, next(records)) for item in loaded.items]
        if not loaded.benchmark.asks_reader:  # the reference has no such files
            continue
        write_results(files, loaded.benchmark, pairs, judge, length)


def run(config: PrismConfig, resolved: str) -> int:
    """All stages that the config asks for; returns the exit code.

    Raises ConfigError, DataError.
    """
    evaluation = Evaluation(config)
    try:
        write_text(evaluation.folder / "config.toml", resolved)
        for loaded in evaluation.loaded:
            for broken in loaded.broken:
                print(f"broken row: {broken.source}: {broken.reason}", file=sys.stderr)
        for stage in stages(config):
            if stage != "report":
                getattr(evaluation, stage)()
            if stage == "caption" and config.report.reference_layout:
                write_reference_captions(evaluation)
        found = list(records(evaluation))
        if stages(config)[-1] == "report":
            report(evaluation, found)
        return exit_code(config, missing(evaluation, found), reasons(evaluation, found))
    except KeyboardInterrupt:
        text = f"interrupted; what was written is in {evaluation.folder}, run again to go on"
        print(text, file=sys.stderr)
        return INTERRUPTED
    finally:
        evaluation.close()


def exit_code(
    config: PrismConfig, lacking: Mapping[str, int], why: Sequence[tuple[str, int, str]]
) -> int:
    """0, or 3 and a line that says what is missing of what the stages up to the last one make.

    The reasons follow, each with how often it was met.
    """
    last = stages(config)[-1]
    counted = ["rows", "media", "captions"]
    counted += ["answers"] if last != "caption" else []
    counted += ["judgements"] if last not in ("caption", "answer") else []
    if not any(lacking[what] for what in counted):
        return 0
    listed = ", ".join(f"{lacking[what]} {what}" for what in counted if lacking[what])
    left = [what for what in counted if lacking[what] and what != "rows"]
    print(f"incomplete: missing {listed}{_advice(config, left)}", file=sys.stderr)
    told = [(what, count, example) for what, count, example in why if what in counted]
    for what, count, example in told[:MOST_REASONS]:
        print(f"  {count} {what}: {' '.join(example.split())[:REASON]}", file=sys.stderr)
    if len(told) > MOST_REASONS:
        rest = len(told) - MOST_REASONS
        print(f"  and {rest} further reasons; items.jsonl has all", file=sys.stderr)
    return INCOMPLETE


def _advice(config: PrismConfig, left: Sequence[str]) -> str:
    """What brings what is left; broken rows want mending, which their messages say."""
    if not left:
        return ""
    if left == ["judgements"] and config.run.skip_judge:
        return "; run without --skip-judge to have them"
    if config.run.keep_failed:
        return "; run without --keep-failed to try them again"
    return "; run again to try them again"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    try:
        words = long_form(sys.argv[1:] if argv is None else argv)
        args = parse_cli(PrismConfig, words, "tools/eval_prism.py", needs_file=False, usage=USAGE)
        check(args.config, args.origins)
        resolved = redact(dump(args.config, args.origins))
        if args.dry_run:
            print(resolved)
            return 0
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
        return run(args.config, resolved)
    except ConfigError as error:
        exit_with_error(error)
    except DataError as error:
        exit_with_error(ConfigError(str(error)))


if __name__ == "__main__":
    raise SystemExit(main())
