"""What a reader in this process answers. Argument: its model directory."""

from __future__ import annotations

import sys

import torch.distributed as dist

from caprl_native.config import ReaderConfig
from caprl_native.policy.parallel import init_distributed
from caprl_native.rewards.reader import EngineReader
from tests.ranks import report
from tests.rewards.asking import ask

init_distributed()
reader = EngineReader(ReaderConfig(path=sys.argv[1], max_model_len=256, kv_cache_gib=0.25))
asks = [ask(text, seed) for seed, text in enumerate(["the image", "a video", "the picture", ""])]


def answers(asks) -> list[tuple[str | None, str | None]]:
    return [(a.text, a.failure) for a in reader.answer(asks)]


first = answers(asks)
answers([ask("the image and more of it", seed) for seed in range(7)])
reader.forget()
again = answers(asks)
reader.forget()
too_long = answers([asks[0], ask("word " * 400), asks[1]])
seeds = answers([ask("the image", seed) for seed in range(8)])
report(
    {
        "first": first,
        "again": again,
        "too long": too_long,
        "seeds": seeds,
        "none": answers([]),
    }
)
reader.close()
if dist.is_initialized():
    dist.destroy_process_group()
