"""What a reader in this process answers. Argument: its model directory."""

from __future__ import annotations

import sys

import torch.distributed as dist

from caprl_native.config.models import ReaderConfig
from caprl_native.distributed.world import init_distributed
from caprl_native.rewards.readers.base import answers_to
from caprl_native.rewards.readers.engine import EngineReader
from tests.ranks import report
from tests.rewards.asking import ask

init_distributed()
config = ReaderConfig(path=sys.argv[1], max_model_len=256, max_num_seqs=4, kv_cache_gib=0.25)
reader = EngineReader(config)
asks = [ask(text, seed) for seed, text in enumerate(["the image", "a video", "the picture", ""])]


def answers(asks) -> list[tuple[str | None, str | None]]:
    return [(a.text, a.failure) for a in answers_to(reader, asks)]


first = answers(asks)
answers([ask("the image and more of it", seed) for seed in range(7)])
reader.reset()
again = answers(asks)
reader.reset()
too_long = answers([asks[0], ask("word " * 400), asks[1]])
seeds = answers([ask("the image", seed) for seed in range(8)])

reader.ask(asks)
reader.reset()  # what was never finished leaves nothing behind
after_open = answers(asks)
several = [ask(text, seed) for text in ("the image", "a video") for seed in range(7)]
all_at_once = answers(several)
reader.reset()
first_part = reader.ask(several[:7])
reader.work()
answered, left = sum(a.done() for a in first_part), reader.engine.unfinished
second_part = reader.ask(several[7:])
reader.finish()
bit_by_bit = [(a.result().text, a.result().failure) for a in first_part + second_part]


def cached_tokens(asks) -> list[int]:
    """Of every prompt, how many tokens the engine found in its cache."""
    engine, counts = reader.engine.llm.llm_engine, []
    original = engine.step

    def step():
        outputs = original()
        counts.extend(out.num_cached_tokens for out in outputs if out.finished)
        return outputs

    engine.step = step
    reader.reset()
    answers(asks)
    engine.step = original
    return counts


report(
    {
        "first": first,
        "again": again,
        "too long": too_long,
        "seeds": seeds,
        "after open questions": after_open,
        "none": answers([]),
        "all at once": all_at_once,
        "bit by bit": bit_by_bit,
        "answered by work": answered,
        "left by work": left,
        "at one time": config.max_num_seqs,
        "cached": cached_tokens([ask("the image " * 70, seed) for seed in range(3)]),
    }
)
reader.close()
if dist.is_initialized():
    dist.destroy_process_group()
