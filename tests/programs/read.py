"""What a reader in this process answers. Argument: its model directory."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from caprl_native.config.models import ReaderConfig
from caprl_native.distributed.world import init_distributed
from caprl_native.rewards.prompts import ANSWER_PREFIX
from caprl_native.rewards.readers import openings
from caprl_native.rewards.readers.base import answers_to
from caprl_native.rewards.readers.engine import EngineReader
from caprl_native.text.control_tokens import tokenized_chats
from tests.ranks import report
from tests.rewards.asking import ask

init_distributed()
config = ReaderConfig(path=sys.argv[1], max_model_len=256, max_num_seqs=4, kv_cache_gib=0.05)
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


# --- probabilities of choices, against transformers ---------------------------------------------

CHOICES = (("red", "the image"), ("the picture", "the image", "a video", "the"))
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16).eval()


@torch.no_grad()
def exact(ids: list[int], node: openings.Node, choice: int) -> float:
    """The probability that the reader goes on from `ids` as an opening of the choice."""
    logits = model(input_ids=torch.tensor([ids])).logits[0, -1].float()
    p = torch.softmax(logits / config.temperature, -1)
    inside = [
        p[t].item() * exact([*ids, t], n, choice)
        for t, n in node.children.items()
        if choice in n.choices and n.choices != {choice}
    ]
    alone = [p[t].item() for t, n in node.children.items() if n.choices == {choice}]
    ends = 1 - sum(p[t].item() for t in node.children) if node.ended == {choice} else 0.0
    return sum(inside) + sum(alone) + ends


openings.SHARED = 0.0  # a random model finds no token likely
weighed = [ask(text, seed=0, choices=choices) for text in ("the image", "") for choices in CHOICES]
plain = [ask("a video", seed) for seed in range(3)]
reader.reset()
together = answers_to(
    reader, [x for pair in zip(weighed, [*plain, plain[0]], strict=True) for x in pair]
)
chances = [a.probabilities for a in together[::2]]
reader.reset()
trees = [reader.tokens.tree(a.choices) for a in weighed]
prompts = tokenized_chats(reader.tokenizer, [a.messages for a in weighed], ANSWER_PREFIX)
expected = [
    [exact(ids, tree, i) for i in range(len(a.choices))]
    for a, ids, tree in zip(weighed, prompts, trees, strict=True)
]

report(
    {
        "chances": chances,
        "expected": expected,
        "texts beside": [a.text for a in together[1::2]],
        "texts alone": [a.text for a in answers_to(reader, [*plain, plain[0]])],
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
