"""The command line of the leak check."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from caprl_native.config.cli import ConfigError, exit_with_error, parse_cli
from caprl_native.config.rules import Rules
from caprl_native.config.schema import Config
from caprl_native.config.toml import Origins
from caprl_native.data.invalid import Invalid
from caprl_native.data.records import DataError, read_records
from caprl_native.dry_run import check_models
from caprl_native.inference.endpoint import key_problem, settings_problem
from caprl_native.rewards.prompts import says_cannot_answer

UNANSWERED = 3  # the exit code where the reader left questions without an answer

_USAGE = """\
usage: python tools/leak_check.py --out DIR [--captions FILE ...] [--rounds N] [--forced]
                                  --config FILE ... [--table.key value ...]

Copies data.files into DIR, with columns that say how often reward.reader answers each question
rightly: without a caption (blind_accuracy), with another sample's (other_accuracy), with the
sample's own (accuracy), and difficulty, accuracy (1 - accuracy).

  --out DIR           folder of the copies; a check that was killed goes on there
  --captions FILE ... JSON lines with id and caption: a run's rollout logs; without any, and without
                      captions in the records, there is blind_accuracy alone
  --rounds N          how often each question is asked, the choices in other orders (4)
  --forced            do not offer "cannot be answered", so that the reader has to guess
  --config FILE ...   as of a training run, of which data.files and reward.reader count

"""


class LeakCheckConfig(Config):
    """A training run's settings, of which only the data and the reader have to be there."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0, 2 for what cannot be used, 3 where answers are missing: run it again."""
    words = list(sys.argv[1:] if argv is None else argv)
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--out", default="")
    own.add_argument("--captions", nargs="+", default=[])
    own.add_argument("--rounds", type=int, default=4)
    own.add_argument("--forced", action="store_true")
    given, rest = own.parse_known_args(words)
    args = parse_cli(LeakCheckConfig, rest, "", usage=_USAGE)
    try:
        if not given.out or given.rounds < 1:
            raise ConfigError("leak_check: expected --out DIR, and --rounds of 1 or more")
        return _run(args.config, args.origins, given)
    except DataError as error:
        exit_with_error(ConfigError(str(error)))
    except ConfigError as error:
        exit_with_error(error)


def _run(config: Config, origins: Origins, given: argparse.Namespace) -> int:
    from caprl_native.curation import leak_check

    reader_config = config.reward.reader
    _check_reader(config, origins)
    invalid = Invalid.of(config.data, says_cannot_answer)
    records = read_records(config.data.files, config.data.media_root, invalid=invalid)
    if records.dropped.items:
        print(records.dropped.summary(), file=sys.stderr)
    captions = leak_check.Captions()
    captions.read(given.captions)
    for record in records.listing():
        captions.know(record.sample, record.raw)
    settings = leak_check.Settings(given.rounds, config.run.seed, not given.forced)
    out = Path(given.out)
    checks = leak_check.checks_of(records, captions, settings)
    found = leak_check.run(reader_config, checks, out, progress=config.log.progress)
    for target in leak_check.write_copies(records, found, captions, out):
        print(target)
    print(leak_check.summary(found))
    if found.unanswered:
        print(
            f"{found.unanswered:,} questions have no answer (null in the copies), run it again; "
            f"the first reason: {found.reason}",
            file=sys.stderr,
        )
    return UNANSWERED if found.unanswered else 0


def _check_reader(config: Config, origins: Origins) -> None:
    """Raises ConfigError unless there is one reader, here or at an endpoint."""
    reader, rules = config.reward.reader, Rules(config, origins)
    path, endpoint = "reward.reader.path", "reward.reader.endpoint"
    rules.require(
        bool(reader.path) != bool(reader.endpoint),
        path,
        f"either a model directory here or a server in {endpoint}",
        endpoint,
    )
    if reader.path:
        check_models({path: reader.path}, origins)
        return
    rules.require(bool(reader.model), "reward.reader.model", "the model's name there", endpoint)
    rules.forbid("reward.reader", settings_problem(reader) or key_problem(reader))
