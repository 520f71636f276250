"""vLLM in this very process: start, generate, take new weights, sleep, wake, stop."""

from __future__ import annotations

import copy
import gc
import itertools
import logging
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from caprl_native.config.models import EngineConfig, SamplingConfig
from caprl_native.policy.model_check import ModelError, has_linear_layers
from caprl_native.rollout.adapter import AdapterRoom, request, take
from caprl_native.rollout.cpu_experts import packed_again, plain_experts
from caprl_native.rollout.sleeping import SLEEPERS, TAGS
from caprl_native.text.thoughts import CLOSES, OPENS, thought_span

CPU_BATCH_TOKENS = 4096  # of one engine step on a CPU, where that is enough for a whole prompt
CPU_BLOCK_TOKENS = 32  # of the KV cache; prompts share whole blocks, and 128, the default, is long
BIAS_OF_BANNED = -100.0  # the least that vLLM takes: e^-100 is 0 beside 1 in float32


@dataclass(frozen=True)
class EngineSettings:
    """What an engine needs to know at its start: its table of the config, and what the run adds."""

    config: EngineConfig
    path: str
    dtype: str
    tensor_parallel_size: int = 1
    sleep: bool = False
    float32_head: bool = False  # logits are not rounded to `dtype`, as the trainer's are not
    seed: int = 0
    mm_processor_kwargs: dict[str, Any] | None = None
    media_per_prompt: int = 0
    adapter: AdapterRoom | None = None


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. `temperature` 0 is greedy; `top_k` 0 means all."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256
    banned: tuple[int, ...] = ()
    logprobs: bool = True  # False: completions come without
    ignore_end: bool = False  # go on to `max_tokens` past a token that ends the text
    scored: tuple[int, ...] = ()  # tokens whose log-probs are wanted, too; then `max_tokens` is 1
    repetition_penalty: float = 1.0  # of inference; the trainer knows of none

    @classmethod
    def of(
        cls,
        config: SamplingConfig,
        *,
        n: int = 1,
        banned: tuple[int, ...] = (),
        logprobs: bool = True,
    ) -> Sampling:
        """As a table of the config says."""
        return cls(
            n,
            config.temperature,
            config.top_p,
            config.top_k,
            config.max_tokens,
            banned,
            logprobs,
            repetition_penalty=getattr(config, "repetition_penalty", 1.0),
        )


@dataclass
class Completion:
    token_ids: list[int]
    logprobs: list[float]  # nats, of the distribution that was sampled from
    finish_reason: str
    text: str
    scored: dict[int, float] = field(default_factory=dict)  # the same of `Sampling.scored`
    thoughts: tuple[int, int] = (0, 0)  # its tokens from .. to that are thought


@dataclass
class Generated:
    """One request's answer: the prompt as the engine saw it, and its completions."""

    prompt_ids: list[int]
    completions: list[Completion]


@dataclass
class Finished:
    """A completion that has just ended: number `index` of the request that `submit` named."""

    request: str
    index: int
    prompt_ids: list[int]
    completion: Completion


def prepare_environment() -> None:
    """Settings that vLLM reads when its modules are imported: call this before the first is."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine core in this process
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # ranks share the cores
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if not torch.cuda.is_available():
        from vllm.platforms import current_platform

        # Else every start compiles one sum, in the sampler, for longer than all its calls take.
        current_platform.simple_compile_backend = "eager"
        # Says at every start that Triton has nothing for a CPU, which nobody asked it for.
        logging.getLogger("vllm.triton_utils.importing").setLevel(logging.ERROR)


class Engine:
    """One vLLM engine per tensor-parallel group, run by all ranks of the group in step."""

    def __init__(self, settings: EngineSettings) -> None:
        prepare_environment()
        from vllm import LLM

        self.settings, config = settings, settings.config
        cuda = torch.cuda.is_available()
        memory = (
            {"gpu_memory_utilization": config.gpu_memory_utilization}
            if cuda
            else {
                "kv_cache_memory_bytes": int(config.kv_cache_gib * 2**30),
                # vLLM 0.32 rewinds a seeded request's generator after a part of a prefill, which
                # CPU generators cannot do ("does not use offset"); so prompts are never cut there.
                "enable_chunked_prefill": False,
                "block_size": CPU_BLOCK_TOKENS,
                "max_num_batched_tokens": max(config.max_model_len, CPU_BATCH_TOKENS),
            }
            | _for_linear_layers(settings)
        )
        media = settings.media_per_prompt
        multimodal = {
            "limit_mm_per_prompt": {"image": media, "video": media},
            "mm_processor_kwargs": settings.mm_processor_kwargs,
        }
        threads = torch.get_num_threads()
        shares_memory = settings.tensor_parallel_size > 1 and not cuda
        self.sleeps = settings.sleep and cuda
        rounds = settings.float32_head and settings.dtype != "float32"
        with (
            _own_shared_memory() if shares_memory else nullcontext(),
            SLEEPERS.starting() if self.sleeps else nullcontext(),
            plain_experts() if settings.adapter else nullcontext(),
        ):
            self.llm = LLM(
                model=settings.path,
                dtype=settings.dtype,
                max_model_len=config.max_model_len,
                max_num_seqs=config.max_num_seqs,
                tensor_parallel_size=settings.tensor_parallel_size,
                distributed_executor_backend="external_launcher",
                enforce_eager=config.enforce_eager or not cuda,
                enable_sleep_mode=self.sleeps,
                hf_overrides={"head_dtype": "float32"} if rounds else {},
                seed=settings.seed,
                stream_interval=config.max_model_len,  # outputs: a first token, and all the rest
                logprobs_mode="processed_logprobs",
                disable_log_stats=True,
                use_tqdm_on_load=False,
                **memory,
                **(multimodal if media else {}),
                **(settings.adapter.options(settings.path) if settings.adapter else {}),
            )
        self._lora_request = request() if settings.adapter else None
        if self.sleeps:
            SLEEPERS.add(self.llm)
        torch.set_num_threads(threads)
        # A copy: the renderer's may be encoding in another thread ("Already borrowed").
        self._tokenizer = copy.deepcopy(self.llm.get_tokenizer())
        self._names = map(str, itertools.count())
        self._left: dict[str, int] = {}  # of each request, completions that have not ended
        self._parts: dict[tuple[str, int], list[Any]] = {}

    def generate(
        self, prompts: Sequence[dict[str, Any]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Generated]:
        """Completions of each prompt, in order. With `n` > 1 completion i draws from seed + i."""
        names = [
            self.submit(prompt, sampling, seed) for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        found: dict[str, list[Finished]] = {name: [] for name in names}
        while self.unfinished:
            for finished in self.step():
                found[finished.request].append(finished)
        ended = (sorted(found[name], key=lambda f: f.index) for name in names)
        return [Generated(all_n[0].prompt_ids, [f.completion for f in all_n]) for all_n in ended]

    @property
    def batch_tokens(self) -> int:
        """The most tokens of one engine step."""
        return int(self.llm.llm_engine.vllm_config.scheduler_config.max_num_batched_tokens)

    def submit(self, prompt: dict[str, Any], sampling: Sampling, seed: int) -> str:
        """Queues a request for `step` to work on, and returns the name that it goes by."""
        return self.add(self.render(prompt), sampling, seed)

    def render(self, prompt: dict[str, Any]) -> Any:
        """A prompt as `add` takes it: tokens, pixels. In any thread, in the order of `add`."""
        (rendered,) = self.llm.llm_engine.renderer.render_cmpl([prompt])
        return rendered

    def add(self, rendered: Any, sampling: Sampling, seed: int) -> str:
        """Queues a rendered prompt."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            n=sampling.n,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_tokens,
            repetition_penalty=sampling.repetition_penalty,
            seed=seed % 2**62,
            logprobs=0 if sampling.logprobs else None,
            logprob_token_ids=list(sampling.scored) or None,
            flat_logprobs=True,
            logit_bias=dict.fromkeys(sampling.banned, BIAS_OF_BANNED) or None,
            ignore_eos=sampling.ignore_end,
            detokenize=False,  # vLLM would do it token by token; `_end` does it once
            output_kind=RequestOutputKind.DELTA,  # completions one by one, not n together
        )
        if self.sleeps:
            SLEEPERS.require_awake()
        name = next(self._names)
        self.llm.llm_engine.add_request(name, rendered, params, lora_request=self._lora_request)
        self._left[name] = sampling.n
        return name

    @property
    def unfinished(self) -> int:
        """Completions that were asked for and have not ended."""
        return sum(self._left.values())

    def step(self) -> list[Finished]:
        """One pass of the model over the queue; returns the completions that ended with it."""
        ended = []
        for out in self.llm.llm_engine.step():
            for part in out.outputs:
                parts = self._parts.setdefault((out.request_id, part.index), [])
                parts.append(part)
                if part.finish_reason is not None:
                    ended.append(self._end(out, part.index))
        return ended

    def _end(self, out: Any, index: int) -> Finished:
        name = out.request_id
        parts = self._parts.pop((name, index))
        self._left[name] -= 1
        if not self._left[name]:
            del self._left[name]
        tokens = [token for part in parts for token in part.token_ids]
        logprobs = [value for part in parts if part.logprobs for value in part.logprobs.logprobs]
        of = [t for part in parts if part.logprobs for t in part.logprobs.token_ids]
        if logprobs and of[: len(tokens)] != tokens:
            raise RuntimeError(f"request {name}: vLLM gave log-probs of other tokens than sampled")
        scored = dict(zip(of, logprobs, strict=True)) if len(of) > len(tokens) else {}
        said = tokens[:-1] if parts[-1].finish_reason == "stop" else tokens
        # A text that was cut off may end within a character.
        text = self._tokenizer.decode(said, skip_special_tokens=True).rstrip("\ufffd")
        completion = Completion(
            tokens,
            logprobs[: len(tokens)],
            parts[-1].finish_reason,
            text,
            scored,
            self._thoughts(tokens, text),
        )
        return Finished(name, index, list(out.prompt_token_ids), completion)

    def _thoughts(self, tokens: list[int], text: str) -> tuple[int, int]:
        if OPENS not in text and CLOSES not in text:
            return 0, 0
        return thought_span(self._tokenizer.convert_ids_to_tokens(tokens))

    def abort(self) -> None:
        """Forgets all that has not ended."""
        self.llm.llm_engine.abort_request(list(self._left))
        self._left, self._parts = {}, {}

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Takes tensors under Hugging Face names, and forgets all that the old weights computed."""
        with packed_again():
            self.llm.collective_rpc(
                "reload_weights",
                kwargs={"weights_iterator": iter(weights), "is_checkpoint_format": True},
            )
        self.reset_caches()

    def load_adapter(self, settings: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Takes an adapter in peft's form, with which all requests are answered from here on, and
        forgets all that the last one computed."""
        self.llm.collective_rpc(take, args=(settings, tensors))
        self.reset_caches()

    def reset_caches(self) -> None:
        """Drops the encoder, multimodal and prefix caches; the next request starts from nothing."""
        self.llm.llm_engine.reset_encoder_cache()
        self.llm.reset_mm_cache()
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("the engine's prefix cache could not be reset: requests still run")

    def forget_media(self) -> None:
        """Drops the multimodal cache; no request may run."""
        self.llm.reset_mm_cache()

    def sleep(self) -> None:
        """On CUDA, gives weights' and cache's memory back; elsewhere does nothing.

        So do all engines of this process that sleep: they share vLLM's allocator.
        """
        if self.sleeps:
            SLEEPERS.sleep()

    def wake(self, *tags: str) -> None:
        """Takes the memory of "weights" or "kv_cache" again (none named: both, in this order)."""
        if self.sleeps:
            for tag in tags or TAGS:
                SLEEPERS.wake(tag)

    def close(self) -> None:
        """Stops the engine; must come before the process group is destroyed."""
        with SLEEPERS.closing(self.llm) if self.sleeps else nullcontext():
            self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        gc.collect()


def _for_linear_layers(settings: EngineSettings) -> dict[str, Any]:
    """What an engine on a CPU has to be told where layers carry a state in place of attention: it
    caches states at the ends of a prefill's parts alone, of which there is one.

    Raises ModelError for a precision that vLLM has no such layers in.
    """
    if not has_linear_layers(settings.path):
        return {}
    if settings.dtype != "bfloat16":
        raise ModelError(
            f"{settings.path}: on a CPU vLLM computes linear layers in bfloat16 alone, not in "
            f"{settings.dtype}"
        )
    return {"enable_prefix_caching": False}


@contextmanager
def _own_shared_memory() -> Iterator[None]:
    """Names the memory that ranks of a CPU engine share, the same on all ranks of the run.

    vLLM 0.32 names it after the last part of the executor's init method, which is the same for all
    engines with an external launcher: two runs on a machine would meet there, and after a run that
    was killed no other could start ("create shm in SHMManager failed. errno: 17").
    """
    from vllm.v1.executor.uniproc_executor import ExecutorWithExternalLauncher as Executor

    name = [uuid.uuid4().hex]
    dist.broadcast_object_list(name)
    original = Executor._distributed_args
    Executor._distributed_args = lambda self: (f"env://:{name[0]}", *original(self)[1:])
    try:
        yield
    finally:
        Executor._distributed_args = original
