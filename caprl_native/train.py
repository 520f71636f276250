"""GRPO training of a captioner: `torchrun -m caprl_native.train --config video.toml`.

The algorithm is the loop in `train`; what each verb does stands under its name in `trainer.py`.
"""

from __future__ import annotations

import logging
import sys

import torch.distributed as dist

from caprl_native.config.cli import ConfigError, dump, exit_with_error, parse_cli, print_once
from caprl_native.config.schema import Config
from caprl_native.distributed.errors import report_failure_once
from caprl_native.distributed.signals import set_parent_death_signal
from caprl_native.distributed.world import init_distributed
from caprl_native.dry_run import check_machine, plan, world_size
from caprl_native.trainer import EXPLAINED, Trainer


def train(trainer: Trainer) -> None:
    """Captions are sampled, read, rewarded, and made likelier where they beat their group."""
    trainer.begin()
    if trainer.step == 0:
        trainer.evaluate(0)
    for step in trainer.steps():
        prompts = trainer.next_prompts()
        batch = trainer.rollout(prompts, step)
        trainer.score(batch)
        trainer.refill(batch)
        trainer.assign_advantages(batch)
        metrics = trainer.update(batch)
        trainer.sync_weights()
        trainer.report(batch, metrics)
        trainer.evaluate(step)
        trainer.save(step)
    trainer.finish()


def main(argv: list[str] | None = None) -> None:
    """The command line: exits 2 on a config that cannot be used, 1 on any other failure."""
    args = parse_cli(Config, sys.argv[1:] if argv is None else argv, "caprl_native.train")
    try:
        overview = plan(args.config, world_size(), args.origins)
        if args.dry_run:
            print_once(dump(args.config, args.origins), overview)
            return
        check_machine(args.config, args.origins)
    except ConfigError as error:
        exit_with_error(error)
    set_parent_death_signal()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    dims = init_distributed(args.config.rollout.tensor_parallel_size, args.config.run.threads)
    trainer = None
    try:
        with report_failure_once(*EXPLAINED):
            trainer = Trainer(args.config, dims)
            train(trainer)
    finally:
        if trainer is not None:
            trainer.close()
        if dist.is_initialized():  # vLLM's shutdown may have ended it already
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
