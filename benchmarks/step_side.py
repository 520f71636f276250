"""One side of step.py: `python benchmarks/step_side.py ours|trl SHAPE FOLDER`.

Each line on stdin asks for one step; what it took comes back as a line of JSON. FOLDER holds the
model.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import MEDIA, PROMPTS, SHAPES, N, Shape, Watch

from caprl_native.config.schema import Config
from caprl_native.rewards.base import Caption
from caprl_native.rewards.terms.custom import CustomOptions
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


def text_reward(caption: Caption) -> float:
    """The same as a reward term."""
    return reward(caption.text)


class Ours:
    """The verbs of caprl_native.train on a trainer of its own; no reader, the reward above."""

    mode = "caprl_native"

    def __init__(self, path: str, shape: Shape, checkpointing: bool = False) -> None:
        from transformers import GenerationConfig

        from caprl_native.distributed.world import init_distributed
        from caprl_native.policy.prompt import PromptBuilder
        from caprl_native.trainer import Trainer
        from caprl_native.types import MediaRef, Sample

        self.folder = Path(tempfile.mkdtemp(prefix="step_side"))
        self.shape = shape
        self.prepare = PromptBuilder(path, MEDIA)
        media = tuple(MediaRef("image", "noise") for _ in range(pictures_of(shape)))
        self.samples = [
            (Sample(str(i), media, tuple(messages_of(shape))), images_of(shape, i))
            for i in range(PROMPTS)
        ]
        self.prompt_tokens = len(self._prompt(0))
        config = self._config(path, shape, checkpointing)
        self.trainer = Trainer(config, init_distributed())
        ends = GenerationConfig.from_pretrained(path).eos_token_id
        captioner = self.trainer.captioner
        banned = (*captioner.sampling.banned, *ends)  # so captions have one length
        captioner.sampling = dataclasses.replace(captioner.sampling, banned=banned)
        self.trainer.begin()
        self.step_number, self.phases, self.peak = 0, {}, 0

    def _config(self, path: str, shape: Shape, checkpointing: bool) -> Config:
        length = self.prompt_tokens + shape.response
        config = Config()
        config.run.dir, config.run.steps, config.run.export = (
            str(self.folder / "run"),
            10_000,
            False,
        )
        config.data.files = [str(write_records(self.folder))]
        config.data.batch_size, config.data.workers = PROMPTS, 0
        config.media = MEDIA.model_copy(update={"max_per_prompt": max(1, pictures_of(shape))})
        config.policy.path, config.policy.lr = path, 1e-6
        config.policy.dtype = "bfloat16" if torch.cuda.is_available() else "float32"
        config.policy.activation_checkpointing = checkpointing
        group = length + (N - 1) * shape.response
        config.policy.micro_batch_tokens = shape.at_once * group
        config.rollout.n, config.rollout.max_tokens = N, shape.response
        config.rollout.max_model_len, config.rollout.max_num_seqs = length + 8, N * PROMPTS
        config.rollout.kv_cache_gib, config.rollout.gpu_memory_utilization = 2.0, 0.3
        text = CustomOptions(import_path=f"{__file__}:text_reward")
        config.reward.terms = {"text": text}
        config.eval.every, config.log.wandb, config.log.progress = 0, "disabled", False
        return config

    def _prompt(self, i: int) -> Any:
        from caprl_native.data.media import DecodedImage

        sample, images = self.samples[i]
        return self.prepare(sample, [DecodedImage(image) for image in images])

    def step(self) -> None:
        from caprl_native.data.loader import LoadedSample

        trainer = self.trainer
        self.step_number += 1
        trainer.log.take_seconds()
        with trainer.log.timed("prompts"):
            numbered = enumerate(self.samples)
            prompts = [LoadedSample(s, self._prompt(i), index=i) for i, (s, _) in numbered]
        batch = trainer.rollout(prompts, self.step_number)
        for rollout in (r for g in batch.groups for r in g.rollouts):
            assert len(rollout.token_ids) == self.shape.response
        trainer.score(batch)
        trainer.assign_advantages(batch)
        with Watch() as watch:
            trainer.update(batch)
        self.peak = watch.extra
        trainer.sync_weights()
        _, times = trainer.log.take_seconds()
        self.phases = {name.removeprefix("time/"): spent for name, spent in times.items()}

    def serve(self, answer: Callable[[dict[str, Any]], None]) -> None:
        for _ in sys.stdin:
            began = time.perf_counter()
            self.step()
            seconds = time.perf_counter() - began
            answer({"seconds": seconds, "phases": self.phases, "peak_bytes": self.peak})
        self.close()

    def close(self) -> None:
        self.trainer.close()
        shutil.rmtree(self.folder)


def write_records(folder: Path) -> Path:
    """Data for the trainer's loader; prompts are made as both sides need them, without it."""
    noise_image(0).image.save(folder / "noise.png")
    row = json.dumps({"image": "noise.png", "prompt": "Describe it."})
    file = folder / "noise.jsonl"
    file.write_text(f"{row}\n" * PROMPTS)
    return file


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
