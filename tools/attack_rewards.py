"""Tries to cheat the rewards of a config, some thirty ways, on real captions: docs/attacks.md.

    python tools/attack_rewards.py --config video.toml
    python tools/attack_rewards.py --config mine.toml --captions outputs/mine/eval/step_000500.jsonl
    python tools/attack_rewards.py --config image.toml --reader demo_models/reader

Shows what each attack does to each reward term and to the whole reward, and ends with 1 where one
gains more than --bound. Without --captions the captions are the demo world's, rich ones; with
--captions they are a run's, of the samples of the config's data.eval_files (or data.files). Further
arguments override settings, as in training (--reward.gate true).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without an installation
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from caprl_native.config.cli import ConfigError, exit_with_error, load  # noqa: E402
from caprl_native.config.models import ReaderConfig  # noqa: E402
from caprl_native.config.schema import Config  # noqa: E402
from caprl_native.data.invalid import Invalid  # noqa: E402
from caprl_native.data.records import DataError, read_records  # noqa: E402
from caprl_native.rewards.laboratory.subjects import Subject, read_subjects  # noqa: E402
from caprl_native.rewards.laboratory.trial import (  # noqa: E402
    RememberingReader,
    rubric_of,
    table,
    try_attacks,
)
from caprl_native.rewards.prompts import says_cannot_answer  # noqa: E402
from caprl_native.rewards.readers import build_reader  # noqa: E402
from caprl_native.rewards.readers.base import Reader  # noqa: E402
from caprl_native.testing.demo_world.subjects import demo_subjects  # noqa: E402

BOUND = 0.02


def arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The command line, and the overrides of settings in it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", nargs="+", required=True, help="the training run's TOML files")
    parser.add_argument("--reader", default="", help="a model that stands in for the config's")
    parser.add_argument("--captions", type=Path, help='lines with "id" and "caption"')
    parser.add_argument("--count", type=int, default=48, help="captions that are attacked")
    parser.add_argument("--seed", type=int, default=0, help="of the demo world and of questions")
    parser.add_argument("--bound", type=float, default=BOUND, help="the gain that is tolerated")
    parser.add_argument("--output", type=Path, help="a JSON file for the table")
    return parser.parse_known_args(argv)


def subjects_of(config: Config, args: argparse.Namespace) -> list[Subject]:
    """The captions: the demo world's, half of them of videos, or those of a run."""
    if args.captions is None:
        return demo_subjects(args.count - args.count // 2, args.count // 2, args.seed)
    files = config.data.eval_files or config.data.files
    kind = "questions" if config.reward.reads else "media"
    invalid = Invalid.of(config.data, says_cannot_answer)
    records = read_records(files, config.data.media_root, kind=kind, invalid=invalid)
    return read_subjects(records, args.captions, config.media, args.count)


def stand_in(path: str, reader: ReaderConfig) -> ReaderConfig:
    """The config's reader, or another model in its place, in process."""
    if not path:
        return reader
    small = {"dtype": "float32", "max_model_len": 2048, "kv_cache_gib": 0.5}
    return reader.replace(path=path, endpoint="", model="", **small)


def token_counter(path: str) -> Callable[[str], int]:
    """Counts tokens as the policy's tokenizer does; words and marks where it is not there."""
    if not (path and Path(path).is_dir()):
        return lambda text: len(re.findall(r"\w+|[^\w\s]", text))
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


@contextmanager
def process_group() -> Iterator[None]:
    """A group of one process, which an engine takes its place from."""
    import torch.distributed as dist

    from caprl_native.distributed.world import init_distributed

    init_distributed()
    yield
    if dist.is_initialized():  # an engine's shutdown may have ended it already
        dist.destroy_process_group()


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 1 where an attack gains too much, 2 for what cannot be used."""
    args, words = arguments(argv)
    try:
        config = load(Config, args.config, words)
        subjects = subjects_of(config, args)
    except ConfigError as error:
        exit_with_error(error)
    except (DataError, ValueError, OSError) as error:
        exit_with_error(ConfigError(str(error)))
    with ExitStack() as stack:

        def reader() -> Reader:
            chosen = stand_in(args.reader, config.reward.reader)
            if chosen.path:
                stack.enter_context(process_group())
            built = build_reader(chosen)
            stack.callback(built.close)
            return RememberingReader(built)

        rubric = rubric_of(config.reward, reader, args.seed)
        stack.callback(rubric.close)
        outcomes = try_attacks(rubric, subjects, token_counter(config.policy.path))
    print(table(outcomes, args.bound))
    if args.output:
        rows = [o.record() | {"exceeds": o.exceeds(args.bound)} for o in outcomes]
        report = {"config": args.config, "bound": args.bound, "attacks": rows}
        args.output.write_text(json.dumps(report, indent=1) + "\n")
    found = [o.attack for o in outcomes if o.exceeds(args.bound)]
    print(f"{len(found)} of {len(outcomes)} attacks gain more than {args.bound:g}")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
