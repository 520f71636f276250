"""GRPO training of a captioner: `torchrun -m caprl_native.train --config video.toml`.

The algorithm is the loop in `train`; what each verb does stands under its name in `run.py`.
"""

from __future__ import annotations

import logging
import sys

import torch.distributed as dist

from caprl_native.config import Config
from caprl_native.config_io import ConfigError, dump, exit_with_error, parse_cli, print_once
from caprl_native.failures import one_voice
from caprl_native.interrupt import die_with_launcher
from caprl_native.plan import check_machine, plan, world_size
from caprl_native.policy.parallel import init_distributed
from caprl_native.run import EXPLAINED, Run


def train(run: Run) -> None:
    """Captions are sampled, read, rewarded, and made likelier where they beat their group."""
    run.begin()
    if run.step == 0:
        run.evaluate(0)
    for step in run.steps():
        prompts = run.next_prompts()
        groups = run.write_captions(prompts, step)
        run.score(groups, step)
        groups = run.refill(groups, step)
        batch = run.assign_advantages(groups, step)
        metrics = run.update(batch, step)
        run.sync_weights()
        run.report(step, groups, metrics)
        run.evaluate(step)
        run.save(step)
    run.finish()


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
    die_with_launcher()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    layout = init_distributed(args.config.rollout.tensor_parallel_size, args.config.run.threads)
    run = None
    try:
        with one_voice(*EXPLAINED):
            run = Run(args.config, layout)
            train(run)
    finally:
        if run is not None:
            run.close()
        if dist.is_initialized():  # vLLM's shutdown may have ended it already
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
