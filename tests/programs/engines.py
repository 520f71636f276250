"""A trainer and its engine side by side; every rank reports what it found.

Arguments: the model directory, the engine's dtype, the tensor-parallel size, and "all" for every
check or "agreement" for the one that belongs to each pair of family and dtype.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from typing import Any

import torch
import torch.distributed as dist

from caprl_native.config.models import EngineConfig
from caprl_native.config.schema import PolicyConfig
from caprl_native.data.loader import LoadedSample
from caprl_native.distributed.world import init_distributed
from caprl_native.policy.fsdp import freeze, load_policy
from caprl_native.policy.optim import build_optimizer
from caprl_native.policy.packing import PackedRow, collate
from caprl_native.policy.prompt import Prompt, PromptBuilder, processor_kwargs
from caprl_native.rollout.captioner import Captioner, PromptMismatch, grouped
from caprl_native.rollout.engine import (
    BIAS_OF_BANNED,
    Engine,
    EngineSettings,
    Generated,
    Sampling,
)
from caprl_native.rollout.self_check import WeightsDiffer, compare, measure
from caprl_native.rollout.weight_sync import sync, trainable_parts
from caprl_native.testing.samples import MEDIA, prompt, sample
from tests.ranks import report

KINDS = ["image", "images", "video", "mixed", "text"]


class Checks:
    """The parts under test, and the checks, each of which returns what was found."""

    def __init__(self, path: str, dtype: str, tensor_parallel: int) -> None:
        self.dims = init_distributed(tensor_parallel)
        self.path = path
        self.policy = load_policy(PolicyConfig(path=path, dtype=dtype), self.dims)
        build_optimizer(self.policy, PolicyConfig())
        # Every data rank has prompts of its own; ranks of one engine have the same.
        self.prompts = [prompt(path, k, 10 * self.dims.data_rank + i) for i, k in enumerate(KINDS)]
        self.engine = Engine(
            EngineSettings(
                EngineConfig(
                    max_model_len=1024,
                    max_num_seqs=80,  # all captions of `passes` at a time
                    kv_cache_gib=0.05,
                    gpu_memory_utilization=0.3,
                ),
                path=path,
                dtype=dtype,
                tensor_parallel_size=tensor_parallel,
                float32_head=True,
                mm_processor_kwargs=processor_kwargs(path, MEDIA),
                media_per_prompt=2,
            )
        )
        self.generator = torch.Generator().manual_seed(self.dims.rank)

    def move(self, *parts: str) -> None:
        """Changes the weights of these parts at random, each rank its own shards."""
        with torch.no_grad():
            for name, parameter in self.policy.hf.named_parameters():
                if self.policy.family.part_of(name) in parts:
                    local = parameter.to_local()
                    local.add_(0.02 * torch.randn(local.shape, generator=self.generator))

    def write(self, seed: int = 5, prompts: list[Prompt] | None = None, **sampling: Any):
        prompts = self.prompts if prompts is None else prompts
        settings = {"n": 4, "max_tokens": 24, "banned": tuple(self.policy.banned), **sampling}
        seeds = [seed + 100 * i for i in range(len(prompts))]
        return self.engine.generate([p.for_engine() for p in prompts], Sampling(**settings), seeds)

    @torch.no_grad()
    def trainer(self, given: Prompt, out: Generated, temperature: float = 1.0) -> list[float]:
        """The trainer's log-probs of all completions' tokens, one after the other."""
        tokens = [c.token_ids for c in out.completions]
        batch = collate([PackedRow(given, tokens, list(range(len(tokens))))], self.policy.positions)
        return self.policy(batch, temperature)[0].tolist()

    def gaps(self, outputs: list[Generated], temperature: float = 1.0) -> dict[str, list[float]]:
        """Mean and largest |log p(trainer) - log p(engine)| by kind of prompt."""
        found = {}
        for given, kind, out in zip(self.prompts, KINDS, outputs, strict=True):
            assert out.prompt_ids == given.ids.tolist(), f"{kind}: other prompt tokens"
            ours = torch.tensor(self.trainer(given, out, temperature))
            gap = (ours - torch.tensor(engine_logprobs(out))).abs()
            found[kind] = [gap.mean().item(), gap.max().item()]
        return found

    def agreement(self) -> dict[str, Any]:
        """After each of two changes of all weights; `stale`: the second one before it is sent."""
        self.move("vision", "projector", "language")
        sync(self.policy, self.engine, everything=True)
        outputs = self.write()
        gaps = [self.gaps(outputs)]
        self.move("vision", "projector", "language")
        stale = self.gaps(outputs)
        sync(self.policy, self.engine)
        outputs = self.write()
        return {
            "gaps": [*gaps, self.gaps(outputs)],
            "stale": stale,
            "tokens": tokens(outputs),
            "head": self.head(),
        }

    def head(self) -> list[str]:
        """The precision of the engine's logits, as its own layer has it."""
        runner = self.engine.llm.llm_engine.model_executor.driver_worker.worker.model_runner
        layers = runner.get_model().modules()
        return [str(m.head_dtype) for m in layers if type(m).__name__ == "LogitsProcessor"]

    def temperatures(self) -> Any:
        return self.gaps(self.write(temperature=0.6), temperature=0.6)

    def truncation(self) -> Any:
        """With a tiny nucleus, or k = 1, one token is left and its log-prob is 0."""
        return {
            "top_p": engine_logprobs(*self.write(top_p=1e-4, prompts=self.prompts[:1])),
            "top_k": engine_logprobs(*self.write(top_k=1, prompts=self.prompts[:1])),
            "same": tokens(self.write(top_k=1, prompts=self.prompts[:1]))
            == tokens(self.write(top_p=1e-4, prompts=self.prompts[:1])),
            "first": self.first_tokens(temperature=0.7, top_k=20, top_p=0.8),
        }

    @torch.no_grad()
    def first_tokens(self, temperature: float, top_k: int, top_p: float) -> list[list[float]]:
        """Of the tokens that open a text: the engine's log-prob, the trainer's, and the log of the
        probability that the cuts leave, the k likeliest first."""
        cuts = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        (out,) = self.write(n=8, max_tokens=1, prompts=self.prompts[:1], **cuts)
        vocabulary = range(self.policy.config.text_config.vocab_size)
        row = PackedRow(self.prompts[0], [[token] for token in vocabulary], list(vocabulary))
        ours = self.policy(collate([row], self.policy.positions), temperature)[0]
        best = ours.exp().sort(descending=True).values[:top_k]
        before = best.cumsum(0) / best.sum() - best / best.sum()
        left = best[before < top_p].sum().log().item()
        first = [(c.logprobs[0], c.token_ids[0]) for c in out.completions]
        return [[engine, ours[token].item(), left] for engine, token in first]

    def greedy(self) -> Any:
        """Is every first token the one that the trainer finds likeliest?"""
        outputs = self.write(n=1, temperature=0.0)
        vocabulary = range(self.policy.config.text_config.vocab_size)
        right = []
        for given, out in zip(self.prompts, outputs, strict=True):
            row = PackedRow(given, [[token] for token in vocabulary], list(vocabulary))
            with torch.no_grad():
                logprobs = self.policy(collate([row], self.policy.positions))[0]
            right.append(int(logprobs.argmax()) == out.completions[0].token_ids[0])
        return right

    def pads(self) -> Any:
        """How many banned tokens are among hot samples, with and without the ban."""
        counts = []
        for banned in (tuple(self.policy.banned), ()):
            drawn = tokens(self.write(n=16, max_tokens=64, temperature=2.0, banned=banned))
            flat = [t for completions in drawn for c in completions for t in c]
            counts.append(sum(t in self.policy.banned for t in flat))
        return counts

    def seeds(self) -> Any:
        """Same seed, same bits: at once, after other work, and after the caches were emptied."""
        first = self.write()
        again = self.write()
        self.write(seed=77, n=2, prompts=self.prompts[::-1])
        self.engine.reset_caches()
        later = self.write()
        alone = self.write(prompts=self.prompts[:1])
        second = self.write(seed=6, n=1, prompts=self.prompts[:1])
        return {
            "again": first == again,
            "later": first == later,
            "alone": first[0] == alone[0],
            "other": tokens(first) != tokens(self.write(seed=1234)),
            "n counts on": first[0].completions[1].token_ids == second[0].completions[0].token_ids,
        }

    def texts(self) -> Any:
        """The texts of greedy completions of some lengths, and those by vLLM's own detokenizer."""
        from vllm import SamplingParams

        prompts, ours, theirs = [p.for_engine() for p in self.prompts], [], []
        bias = dict.fromkeys(self.policy.banned, BIAS_OF_BANNED)
        for length in (1, 8, 24):
            found = self.write(n=1, temperature=0.0, max_tokens=length)
            ours += [out.completions[0].text for out in found]
            params = SamplingParams(temperature=0.0, max_tokens=length, logit_bias=bias)
            done = self.engine.llm.generate(prompts, params, use_tqdm=False)
            theirs += [out.outputs[0].text for out in done]
        return ours, theirs

    def vision(self) -> Any:
        """Only the vision tower changes: the same picture is seen with new eyes."""
        before = self.write()
        self.move("vision")
        sync(self.policy, self.engine)
        after = self.write()
        changed = [a != b for a, b in zip(before, after, strict=True)]
        return {"changed": dict(zip(KINDS, changed, strict=True)), "gaps": self.gaps(after)}

    def frozen(self) -> Any:
        """A frozen vision tower may be left out: the outputs are those of a full sync."""
        freeze(self.policy, ["vision"])
        parts = sorted(trainable_parts(self.policy))
        self.move("projector", "language")
        sync(self.policy, self.engine)
        partial = self.write()
        gaps = self.gaps(partial)
        sync(self.policy, self.engine, everything=True)
        whole = self.write()
        freeze(self.policy, [])
        return {"parts": parts, "same": partial == whole, "gaps": gaps}

    def self_check(self) -> Any:
        """Passes after a sync; fails when the trainer moved on without one."""
        prepare = PromptBuilder(self.path, MEDIA)
        gap = compare(self.policy, self.engine, prepare, alarm=0.01, stop=0.01)
        found: dict[str, Any] = {"gap": gap, "tokens": self.probed(prepare)}
        for part in ("vision", "projector", "language"):
            self.move(part)
            try:
                compare(self.policy, self.engine, prepare, alarm=1e-3, stop=1e-3)
                found[part] = "no error"
            except WeightsDiffer as error:
                found[part] = str(error)
            sync(self.policy, self.engine)
        return found

    def probed(self, prepare: PromptBuilder) -> int:
        """How many tokens the probe compares."""
        lengths = []
        original = self.engine.generate

        def spy(*args: Any, **kwargs: Any) -> list[Generated]:
            outputs = original(*args, **kwargs)
            lengths.append(sum(len(c.token_ids) for out in outputs for c in out.completions))
            return outputs

        self.engine.generate = spy  # type: ignore[method-assign]
        measure(self.policy, self.engine, prepare)
        self.engine.generate = original  # type: ignore[method-assign]
        return sum(lengths)

    def mismatch(self) -> Any:
        """A prompt whose tokens differ from the engine's stops with the sample's name."""
        captioner = Captioner(self.engine, Sampling(max_tokens=2), seed=0)
        fine = self.prompts[0]
        pad = (fine.ids == self.policy.config.image_token_id).nonzero()[0].item()
        keep = torch.arange(len(fine)) != pad  # one pad token fewer
        short = dataclasses.replace(fine, ids=fine.ids[keep], token_types=fine.token_types[keep])
        item = LoadedSample(sample("image", name="cat 17"), fine, index=0)
        (group,) = captioner.write([item], step=1)
        try:
            captioner.write([dataclasses.replace(item, prepared=short)], step=1)
            return [group.sample.id, "no error"]
        except PromptMismatch as error:
            return [group.sample.id, str(error)]

    def passes(self) -> Any:
        """Captions come as they end; writing that was given up half-way leaves no trace."""
        captioner = Captioner(self.engine, Sampling(n=16, max_tokens=48, temperature=2.0), seed=0)
        items = [
            LoadedSample(sample(kind, name=kind), given, index=i)
            for i, (kind, given) in enumerate(zip(KINDS, self.prompts, strict=True))
        ]
        passes = list(captioner.stream(items, step=3))
        in_order = sorted((w.place, w.index) for ended in passes for w in ended)
        early = captioner.stream(items, step=3)
        next(early)
        open_requests = self.engine.unfinished
        early.close()
        left = self.engine.unfinished
        late = {ahead: self.late(items, ahead) for ahead in (0, 2)}
        rollouts = [g.rollouts for g in captioner.write(items, step=3)]
        return {
            "passes": len(passes),
            "with captions": sum(map(bool, passes)),
            "each once": in_order == [(p, i) for p in range(len(items)) for i in range(16)],
            "same": rollouts == [g.rollouts for g in grouped(w for p in passes for w in p)],
            "open, left": [open_requests, left],
            "late": {ahead: found == rollouts for ahead, (found, _) in late.items()},
            "late, open at first": [open_at_first for _, open_at_first in late.values()],
        }

    def late(self, items: list[LoadedSample], ahead: int) -> tuple[list[Any], int]:
        """The same captions where a pass has room for one prompt: each is submitted a pass later,
        rendered in a thread with `ahead`. A stream that is given up while prompts are rendered
        leaves no trace. Also what is open after the first pass."""
        captioner = Captioner(
            self.engine, Sampling(n=16, max_tokens=48, temperature=2.0), seed=0, ahead=ahead
        )
        room = Engine.batch_tokens
        Engine.batch_tokens = 1  # type: ignore[assignment]
        try:
            given_up = captioner.stream(items, step=3)
            next(given_up)
            given_up.close()
            stream = captioner.stream(items, step=3)
            written = next(stream)
            open_at_first = self.engine.unfinished
            written += [w for ended in stream for w in ended]
        finally:
            Engine.batch_tokens = room  # type: ignore[method-assign]
        return [g.rollouts for g in grouped(written)], open_at_first

    def positions(self) -> Any:
        """Do the engine's own positions of each prompt equal the trainer's?"""
        runner = self.engine.llm.llm_engine.model_executor.driver_worker.worker.model_runner
        model = type(runner.get_model())
        original, seen = model.get_mrope_input_positions, []

        def spy(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            seen.append(result[0].tolist())
            return result

        model.get_mrope_input_positions = spy
        self.engine.reset_caches()
        same = []
        for given in self.prompts:
            seen.clear()
            self.write(n=1, max_tokens=1, prompts=[given])
            same.append(seen[0] == self.policy.positions(given).tolist())
        model.get_mrope_input_positions = original
        return same


def tokens(outputs: list[Generated]) -> list[list[list[int]]]:
    return [[c.token_ids for c in out.completions] for out in outputs]


def engine_logprobs(out: Generated) -> list[float]:
    return [value for c in out.completions for value in c.logprobs]


ALL = [
    "agreement", "temperatures", "truncation", "greedy", "pads", "seeds", "texts", "passes",
    "positions", "vision", "frozen", "self_check", "mismatch",
]  # fmt: skip


def main(path: str, dtype: str, tensor_parallel: str, which: str) -> None:
    checks = Checks(path, dtype, int(tensor_parallel))
    found = {}
    for name in ALL if which == "all" else which.split(","):
        found[name] = copy.deepcopy(getattr(checks, name)())
        dist.barrier()
    report(found)
    checks.engine.close()
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
