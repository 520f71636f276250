"""One side of step.py: `python benchmarks/step_side.py ours|trl SHAPE FOLDER`.

Each line on stdin asks for one step; what it took comes back as a line of JSON. FOLDER holds the
model.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from common import MEDIA, PROMPTS, SHAPES, N, Shape, Watch

from caprl_native.testing.samples import noise_image

TEXT = f"Describe the {' '.join(['picture'] * 24)}."


def messages_of(shape: Shape) -> list[dict[str, Any]]:
    parts = [{"type": "image"} for _ in range(pictures_of(shape))]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": TEXT}]}]


def pictures_of(shape: Shape) -> int:
    """A video's tokens are those of half its frames as images."""
    return {"text": 0, "image": 1, "video": shape.frames // 2}[shape.kind]


def images_of(shape: Shape, seed: int) -> list[Any]:
    count = pictures_of(shape)
    return [noise_image(1000 * seed + i, shape.size).image for i in range(count)]


def reward(text: str) -> float:
    return len(set(text)) / (1 + len(text))


class Ours:
    """The verbs of caprl_native.train, with the reward above in the reader's place."""

    mode = "caprl_native"

    def __init__(self, path: str, shape: Shape, checkpointing: bool = False) -> None:
        from transformers import GenerationConfig

        from caprl_native.config.models import EngineConfig
        from caprl_native.config.schema import AlgorithmConfig, PolicyConfig
        from caprl_native.distributed.world import init_distributed
        from caprl_native.policy.fsdp import load_policy
        from caprl_native.policy.learner import Learner
        from caprl_native.policy.optim import build_optimizer
        from caprl_native.policy.prompt import PromptBuilder, processor_kwargs
        from caprl_native.rollout.captioner import Captioner
        from caprl_native.rollout.engine import Engine, EngineSettings, Sampling
        from caprl_native.rollout.weight_sync import sync
        from caprl_native.types import MediaRef, Sample

        self.shape, self.layout = shape, init_distributed()
        dtype = "bfloat16" if torch.cuda.is_available() else "float32"
        self.prepare = PromptBuilder(path, MEDIA)
        media = tuple(MediaRef("image", "noise") for _ in range(pictures_of(shape)))
        self.samples = [
            (Sample(str(i), media, tuple(messages_of(shape))), images_of(shape, i))
            for i in range(PROMPTS)
        ]
        length = len(self._prompt(0)) + shape.response
        group = length + (N - 1) * shape.response
        config = PolicyConfig(
            path=path,
            dtype=dtype,
            activation_checkpointing=checkpointing,
            micro_batch_tokens=shape.at_once * group,
        )
        self.policy = load_policy(config, self.layout)
        ends = GenerationConfig.from_pretrained(path).eos_token_id
        self.engine = Engine(
            EngineSettings(
                EngineConfig(
                    max_model_len=length + 8,
                    max_num_seqs=N * PROMPTS,
                    kv_cache_gib=2.0,
                    gpu_memory_utilization=0.3,
                ),
                path=path,
                dtype=dtype,
                mm_processor_kwargs=processor_kwargs(path, MEDIA),
                media_per_prompt=pictures_of(shape),
            )
        )
        sampling = Sampling(
            n=N,
            max_tokens=shape.response,
            banned=(*self.policy.banned, *ends),  # so captions have one length
        )
        self.captioner = Captioner(self.engine, sampling, seed=0)
        self.updater = Learner(
            policy=self.policy,
            reference=None,
            optimizer=build_optimizer(self.policy, config),
            config=config,
            algorithm=AlgorithmConfig(),
            temperature=1.0,
            max_tokens=shape.response,
            total_steps=10_000,
            layout=self.layout,
        )
        self.sync: Callable[..., None] = sync
        self.step_number, self.phases, self.peak = 0, {}, 0
        self.prompt_tokens = length - shape.response

    def _prompt(self, i: int) -> Any:
        from caprl_native.data.media import DecodedImage

        sample, images = self.samples[i]
        return self.prepare(sample, [DecodedImage(image) for image in images])

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.phases[phase] = time.perf_counter() - began

    def step(self) -> None:
        from caprl_native.data.loader import LoadedSample
        from caprl_native.policy.advantages import assign_advantages

        self.step_number += 1
        with self._timed("prompts"):
            items = [
                LoadedSample(self.samples[i][0], self._prompt(i), index=i) for i in range(PROMPTS)
            ]
        with self._timed("rollout"):
            groups = self.captioner.write(items, self.step_number)
        for group in groups:
            for rollout in group.rollouts:
                assert len(rollout.token_ids) == self.shape.response
                rollout.total = reward(rollout.text)
        assign_advantages(groups, self.updater.algorithm, {})
        with self._timed("train"), Watch() as watch:
            self.updater.update(groups, self.step_number - 1)
        self.peak = watch.extra
        with self._timed("sync"):
            self.sync(self.policy, self.engine)

    def serve(self, answer: Callable[[dict[str, Any]], None]) -> None:
        for _ in sys.stdin:
            began = time.perf_counter()
            self.step()
            seconds = time.perf_counter() - began
            answer({"seconds": seconds, "phases": self.phases, "peak_bytes": self.peak})
        self.engine.close()


class Trl:
    """TRL's GRPOTrainer with transformers' generation.

    Its colocated vLLM mode gives new weights to the model's `load_weights`, which fails on a CPU,
    and its continuous batching takes no images.
    """

    mode = "transformers generate"

    def __init__(self, path: str, shape: Shape) -> None:
        from datasets import Dataset, Image, List
        from transformers import AutoProcessor
        from trl import GRPOConfig, GRPOTrainer

        cuda = torch.cuda.is_available()
        count = pictures_of(shape)
        columns: dict[str, Any] = {"prompt": [[{"role": "user", "content": TEXT}]] * PROMPTS}
        if count:
            columns["images"] = [images_of(shape, i) for i in range(PROMPTS)]
        dataset = Dataset.from_dict(columns)
        if count:
            dataset = dataset.cast_column("images", List(Image()))
        processor = AutoProcessor.from_pretrained(path, padding_side="left")
        config = GRPOConfig(
            output_dir=os.path.join(path, "trl"),
            per_device_train_batch_size=N * shape.at_once,
            gradient_accumulation_steps=PROMPTS // shape.at_once,
            num_generations=N,
            max_completion_length=shape.response,
            generation_kwargs={"min_new_tokens": shape.response},
            learning_rate=1e-6,
            lr_scheduler_type="constant",
            beta=0.0,
            bf16=cuda,
            use_cpu=not cuda,
            gradient_checkpointing=False,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            max_steps=10_000,
            remove_unused_columns=False,
            shuffle_dataset=False,
            model_init_kwargs={"dtype": "float32"},  # master weights, as ours
        )
        self.trainer = GRPOTrainer(
            model=path,
            reward_funcs=_trl_reward,
            args=config,
            train_dataset=dataset,
            processing_class=processor,
        )
        self.prompt_tokens = len(self.trainer._tokenize_prompts([_with_images(dataset[0])])[0][0])

    def serve(self, answer: Callable[[dict[str, Any]], None]) -> None:
        from transformers import TrainerCallback

        trainer, watches = self.trainer, []
        original = trainer._generate_and_score_completions

        def generate(*args: Any) -> Any:
            began = time.perf_counter()
            found = original(*args)
            self.rollout = time.perf_counter() - began
            watches.append(Watch())
            watches[-1].__enter__()
            return found

        class Turns(TrainerCallback):
            found: dict[str, Any] | None = None

            def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
                if self.found:  # told now: the next step's data have been read
                    answer(self.found)
                if not sys.stdin.readline():
                    raise SystemExit
                self.began = time.perf_counter()

            def on_step_end(turns, *args: Any, **kwargs: Any) -> None:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                seconds = time.perf_counter() - turns.began
                watch = watches.pop()
                watch.__exit__()
                phases = {"rollout": self.rollout, "train": seconds - self.rollout}
                found = {"seconds": seconds, "phases": phases, "peak_bytes": watch.extra}
                turns.found = found

        trainer._generate_and_score_completions = generate
        trainer.add_callback(Turns())
        try:
            trainer.train()
        except SystemExit:
            return


def _with_images(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The row's prompt as the trainer makes it."""
    images = [{"type": "image", "image": image} for image in row.get("images", ())]
    (message,) = row["prompt"]
    return [{**message, "content": [*images, {"type": "text", "text": message["content"]}]}]


def _trl_reward(completions: list[Any], **_: Any) -> list[float]:
    return [reward(c if isinstance(c, str) else c[0]["content"]) for c in completions]


def main() -> None:
    side, name, path = sys.argv[1:4]
    answers = os.fdopen(os.dup(1), "w")  # libraries print to stdout
    os.dup2(2, 1)

    def answer(found: dict[str, Any]) -> None:
        print(json.dumps(found), file=answers, flush=True)

    worker = {"ours": Ours, "trl": Trl}[side](path, SHAPES[name])
    answer({"prompt": worker.prompt_tokens, "mode": worker.mode})
    worker.serve(answer)


if __name__ == "__main__":
    main()
