"""The command line of captioning.

    python tools/caption.py --model DIR --input 'photos/**/*.jpg' --output captions.jsonl
    python tools/caption.py --config caption.toml

Exits with 0 when every entry has its captions, with 3 when some have failed or are missing (they
are counted and listed), with 2 on a config that cannot be used, with 1 when the model, or the disk,
is lost, with 130 when it was interrupted.
"""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from caprl_native.captioning.config import CaptionConfig, check
from caprl_native.captioning.outputs import write_failures, write_output
from caprl_native.captioning.task import CaptionTask
from caprl_native.config.cli import ConfigError, dump, exit_with_error, parse_cli
from caprl_native.config.short_forms import ShortForms
from caprl_native.data.fields import DataError
from caprl_native.data.inputs import Inputs
from caprl_native.inference.jobs.ending import INTERRUPTED, not_written, told
from caprl_native.inference.jobs.ledger import Ledger
from caprl_native.inference.jobs.runner import Ended, run_job
from caprl_native.inference.jobs.status import describe
from caprl_native.inference.room import open_model
from caprl_native.inference.store import locked
from caprl_native.redact import redact

# Short forms of settings; those of the second table take no value, those of the third any number.
VALUES = {
    "--model": "captioner.path",
    "--endpoint": "captioner.endpoint",
    "--served-model-name": "captioner.model",
    "--output": "output.file",
    "--format": "output.format",
    "--media-root": "input.media_root",
    "--shard": "input.shard",
    "--limit": "input.limit",
    "--n": "captioner.n",
    "--max-tokens": "captioner.max_tokens",
    "--retry-truncated": "output.retry_truncated",
    "--retry-degenerate": "output.retry_degenerate",
    "--seed": "run.seed",
    "--replicas": "run.replicas",
    "--ray-address": "run.ray",
}
SWITCHES = {
    "--time-stamps": "captioner.time_stamps",
    "--drop-truncated": "output.drop_truncated",
    "--retry-failed": "run.retry_failed",
    "--overwrite": "run.overwrite",
}
LISTS = {"--input": "input.files"}
USAGE = """\
usage: python {prog} --model DIR --input WHAT ... --output FILE [--table.key value ...]
       python {prog} --config FILE ... [--table.key value ...]

  --config FILE ...       TOML files, overlaid left to right; a bare name is looked up in the
                          current folder, then in train_configs/
  --model DIR             Hugging Face directory of the captioner (--captioner.path)
  --endpoint URL          or an OpenAI-compatible server, with --served-model-name NAME
  --input WHAT ...        media, folders, patterns, lists (.jsonl, .json, .parquet, .txt), shards of
                          WebDataset (.tar), or -: a list on standard input (--input.files)
  --media-root FOLDER     what paths in lists start from
  --output FILE           the output (--output.file); FILE.work beside it holds the job, which the
                          same command goes on with
  --format FORMAT         jsonl, json, parquet, or to train on: llava, openai
  --n N                   captions per entry
  --max-tokens N          longest caption
  --time-stamps           ask for time stamps in videos
  --retry-truncated N     further attempts at captions that were cut off
  --retry-degenerate N    the same where the end repeats itself
  --drop-truncated        a caption that was cut off is a failure
  --shard k/m             part k (from 0) of m, by a hash of the id
  --limit N               only the first entries
  --seed N                of sampled captions
  --replicas N            copies of the model, as Ray actors
  --ray-address ADDRESS   on that Ray cluster
  --retry-failed          try again what has failed
  --overwrite             begin anew
  --partial               write what complete chunks hold by now, and stop
  --status                say how far the job is, and stop
  --dry-run               print the resolved config, and stop
  --help                  print this and stop
  --table.key value       set one value; also --table.key=value. Lists as '["a", "b"]'

"""


def long_form(argv: Sequence[str]) -> tuple[list[str], set[str]]:
    """The command line with its short forms spelled out, and what it asks for instead of a run."""
    instead = {"--status", "--partial"} & set(argv)
    words = [word for word in argv if word not in instead]
    return ShortForms(VALUES, SWITCHES, LISTS).spelled(words), instead


def work_folder(config: CaptionConfig) -> Path:
    """Where the job's results are until the output is written."""
    output = Path(config.output.file)
    return output.with_name(output.name + ".work")


def run(config: CaptionConfig) -> int:
    """The whole job; returns the exit code.

    Raises ConfigError, DataError.
    """
    output, folder = Path(config.output.file), work_folder(config)
    if config.run.overwrite and folder.exists():
        locked(folder).close()  # not under the hands of a job that is at work
        shutil.rmtree(folder, ignore_errors=True)
    if config.run.overwrite:
        output.unlink(missing_ok=True)
    if output.exists() and not folder.exists():
        raise ConfigError(f"output.file: {output} is there, and no job of ours; --overwrite it")
    inputs = Inputs(
        config.input.files,
        media_root=config.input.media_root,
        limit=config.input.limit,
        shard=config.input.part,
    )
    task = CaptionTask(config)
    try:
        with closing(Ledger(folder, task.identity, config.run.chunk)) as ledger:
            return _run(config, inputs, task, ledger)
    except OSError as error:
        raise not_written(error, folder) from error


def _run(config: CaptionConfig, inputs: Inputs, task: CaptionTask, ledger: Ledger) -> int:
    settings = config.run
    try:
        ended = run_job(
            task,
            inputs,
            lambda: open_model(
                config.captioner,
                config.media,
                settings.seed,
                replicas=settings.replicas,
                cluster=settings.ray,
            ),
            ledger,
            unit="entries",
            fraction=inputs.fraction,
            progress=settings.progress,
            retry_failed=settings.retry_failed,
        )
    except KeyboardInterrupt:
        told(Ended("interrupted"), ledger)
        return INTERRUPTED
    failures = None
    if ended.state == "finished":
        failures = write(config, ledger)
    return told(ended, ledger, failures)


def write(config: CaptionConfig, ledger: Ledger) -> Path:
    """Writes the output and the list of failures; returns the latter's name."""
    output, model = Path(config.output.file), config.captioner.path or config.captioner.model
    failures = output.with_name(output.stem + ".failed.jsonl")
    count = write_output(output, config.output.format, ledger.results(), model)
    write_failures(failures, ledger.results())
    each = config.captioner.n == 1 or config.output.format in ("llava", "openai")
    print(f"{output}: {count:,} {'captions' if each else 'entries'}")
    return failures


def _partial(config: CaptionConfig) -> int:
    task, folder = CaptionTask(config), work_folder(config)
    if not folder.exists():
        raise ConfigError(f"{folder}: no job has been begun there")
    with closing(Ledger(folder, task.identity, config.run.chunk)) as ledger:
        write(config, ledger)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    try:
        words, instead = long_form(sys.argv[1:] if argv is None else argv)
        args = parse_cli(CaptionConfig, words, "tools/caption.py", needs_file=False, usage=USAGE)
        if "--status" in instead:
            if not args.config.output.file:
                raise ConfigError("command line: --status: give the job's --output")
            print(describe(work_folder(args.config)))
            return 0
        check(args.config, args.origins)
        if args.dry_run:
            print(redact(dump(args.config, args.origins)))
            return 0
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
        return _partial(args.config) if "--partial" in instead else run(args.config)
    except ConfigError as error:
        exit_with_error(error)
    except DataError as error:
        exit_with_error(ConfigError(str(error)))


if __name__ == "__main__":
    raise SystemExit(main())
