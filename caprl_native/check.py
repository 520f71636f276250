"""`python -m caprl_native.check`: may a model directory be trained?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pydantic import Field

from caprl_native.config.cli import ConfigError, exit_with_error, parse_cli
from caprl_native.config.models import EngineConfig
from caprl_native.config.schema import Config

_USAGE = """\
usage: python -m caprl_native.check --policy DIR [--media FILE ...] [--table.key value ...]

Loads a model in the trainer, in the engine and as transformers has it, and compares them: prompt
tokens, pixels, positions, log-probs, weights that are sent, and an export. Prints a row for each
check and case. Exit codes: 0 where all rows pass, 1 where one fails, 2 for what cannot be read.

  --policy DIR        Hugging Face directory of a captioner
  --media FILE ...    images and videos to compare on; without any, some are made
  --dtype DTYPE       float32 (the default) or bfloat16, of trainer and engine
  --config FILE ...   a run's settings, of which `media` and `plugins` count
  --plugins NAME ...  modules or Python files that add families

"""


class CheckEngineConfig(EngineConfig):
    """The engine of a certificate."""

    gpu_memory_utilization: float = Field(
        0.5, gt=0, le=1, description="Share of the GPU's memory; the trainer's copy stands beside."
    )


class CheckConfig(Config):
    """A training run's settings, of which `media` and `plugins` count, and the engine's."""

    engine: CheckEngineConfig = Field(
        CheckEngineConfig(), description="The engine of a certificate."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0, 1 where a row fails, 2 for what cannot be read."""
    words = list(sys.argv[1:] if argv is None else argv)
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--policy", default="")
    own.add_argument("--media", nargs="+", default=[])
    own.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    given, rest = own.parse_known_args(words)
    config = parse_cli(CheckConfig, rest, "", needs_file=False, usage=_USAGE).config
    if not given.policy:
        exit_with_error(ConfigError("check: expected --policy DIR"))
    return _certify(given, config)


def _certify(given: argparse.Namespace, config: CheckConfig) -> int:
    import torch.distributed as dist

    from caprl_native.certificate.checks import certify
    from caprl_native.certificate.subject import Subject
    from caprl_native.certificate.table import table
    from caprl_native.data.media import MediaError
    from caprl_native.data.samples import SampleSkipped
    from caprl_native.distributed.world import init_distributed
    from caprl_native.policy.families import family_of
    from caprl_native.policy.model_check import ModelError, check_directory

    try:
        family_of(given.policy)  # before its files: what to use instead matters more
        check_directory(given.policy, processor=True)
        dims = init_distributed()
        subject = Subject.load(
            given.policy, given.media, config.media, config.engine, dims, given.dtype
        )
    except (ModelError, MediaError, SampleSkipped) as error:
        exit_with_error(ConfigError(str(error)))
    rows = certify(subject)
    print(table(rows))
    subject.close()
    if dist.is_initialized():
        dist.destroy_process_group()
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
