"""The command line of the curation of questions.

    python tools/curate_qa.py --config curate.toml [--stage generate|extract|answer|filter|all]
    python tools/curate_qa.py --config curate.toml --recheck FILE

Exits with 0 when every input went through, with 3 when some have failed or lack answers (they are
counted and listed), with 2 on a config that cannot be used, with 1 when a model or the disk is
lost, with 130 when it was interrupted.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from caprl_native.config.cli import ConfigError, dump, exit_with_error, parse_cli
from caprl_native.config.short_forms import ShortForms
from caprl_native.curation.config import CurationConfig, check, solvers
from caprl_native.data.fields import DataError
from caprl_native.redact import redact

VALUES = {
    "--stage": "run.stage",
    "--recheck": "run.recheck",
    "--limit": "input.limit",
    "--shard": "input.shard",
    "--out": "output.dir",
}
SWITCHES = {"--retry-failed": "run.retry_failed", "--overwrite": "run.overwrite"}
USAGE = """\
usage: python {prog} --config FILE ... [--table.key value ...]

  --config FILE ...   TOML files, overlaid left to right; a bare name is looked up in the current
                      folder, then in train_configs/
  --stage STAGE       generate, extract, answer or filter alone (--run.stage)
  --recheck FILE      answer and filter the questions of a data set instead of written ones
  --out FOLDER        where everything is kept (--output.dir)
  --limit N           only the first N inputs
  --shard k/m         part k (from 0) of m, by a hash of the id
  --retry-failed      try inputs again that have failed
  --overwrite         begin the stages anew that this call runs
  --status            say how far the stages are, and stop
  --dry-run           print the resolved config, and stop
  --help              print this and stop
  --table.key value   set one value; also --table.key=value. Lists as '["a", "b"]'

"""


def long_form(argv: Sequence[str]) -> tuple[list[str], bool]:
    """The command line with its short forms spelled out, and whether it asks for the status."""
    words = [word for word in argv if word != "--status"]
    return ShortForms(VALUES, SWITCHES).spelled(words), "--status" in argv


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    try:
        words, status = long_form(sys.argv[1:] if argv is None else argv)
        args = parse_cli(CurationConfig, words, "tools/curate_qa.py", needs_file=False, usage=USAGE)
        if status:
            print(_status(args.config))
            return 0
        check(args.config, args.origins)
        resolved = redact(dump(args.config, args.origins))
        if args.dry_run:
            print(resolved)
            return 0
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
        return _run(args.config, resolved)
    except ConfigError as error:
        exit_with_error(error)
    except DataError as error:
        exit_with_error(ConfigError(str(error)))


def _run(config: CurationConfig, resolved: str) -> int:
    from caprl_native.curation.stages import Curation, write_config
    from caprl_native.inference.jobs.ending import INTERRUPTED, not_written

    try:
        curation = Curation(config)
        write_config(curation.folder, resolved)
        return curation.run()
    except KeyboardInterrupt:
        print(f"interrupted; run again to go on with {config.folder}", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        raise not_written(error, config.folder) from error


def _status(config: CurationConfig) -> str:
    """How far the jobs are, and which files are there."""
    from caprl_native.curation import files
    from caprl_native.inference.jobs.status import describe

    jobs = [files.GENERATED, *map(files.answers_file, range(len(solvers(config))))]
    parts = []
    for name in jobs:
        work = config.folder / f"{name}.work"
        parts.append(f"{name}: {describe(work) if work.exists() else 'not begun'}")
    for name in (files.QUESTIONS, "report.json"):
        parts.append(f"{name}: {'written' if (config.folder / name).exists() else 'not written'}")
    return "\n".join(parts)


if __name__ == "__main__":
    raise SystemExit(main())
