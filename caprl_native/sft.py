"""Supervised training of captioners and readers: `torchrun -m caprl_native.sft --config X.toml`.

Records hold a prompt, its media and a `response`. The model is a vision-language model of a
registered family, or any causal language model when the records are text alone. Earlier turns of
the assistant in a text-only prompt are learnt like the response.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from caprl_native import checkpoint
from caprl_native.config.cli import ConfigError, dump, exit_with_error, parse_cli, print_once
from caprl_native.config.schema import SftConfig
from caprl_native.data.loader import LoadedSample, SkipLedger, TooManySkipped, build_loader
from caprl_native.data.media import DecodedImage, DecodedVideo
from caprl_native.data.records import DataError, read_records
from caprl_native.distributed.errors import RunError, report_failure_once
from caprl_native.distributed.signals import Interrupts, set_parent_death_signal
from caprl_native.distributed.world import ParallelDims, init_distributed, sum_over_ranks
from caprl_native.dry_run import check_sft_machine
from caprl_native.observe.log import RunLog
from caprl_native.policy.families import FAMILIES
from caprl_native.policy.fsdp import full_tensor, model_files
from caprl_native.policy.model import load_whole
from caprl_native.policy.model_check import ModelError, read_config
from caprl_native.policy.optim import (
    build_optimizer,
    check_finite,
    learning_rate,
    require_finite,
)
from caprl_native.policy.prompt import (
    Prompt,
    PromptBuilder,
    refuse_control_tokens,
    text_prompt,
)
from caprl_native.redact import redact
from caprl_native.run_folder import RunFolder
from caprl_native.types import Sample

IGNORED = -100  # the label of a position that is not learnt


@dataclass
class Example:
    """A prompt and the response to learn, its end-of-turn token included.

    `turns` (bool, `[prompt tokens]`) marks earlier turns of the assistant, learnt as well.
    """

    prompt: Prompt
    response: list[int]
    turns: Tensor | None = None


@dataclass(frozen=True)
class ExampleBuilder:
    """Sample and decoded media -> `Example`. Cheap to pickle; runs in loader workers.

    Raises DataError for a sample with media where the model reads text only.
    """

    prompts: PromptBuilder
    text_only: bool

    def __call__(self, sample: Sample, decoded: list[DecodedImage | DecodedVideo]) -> Example:
        tokenizer = _tokenizer(self.prompts.path)
        refuse_control_tokens(tokenizer, sample.response or "", "response")
        response = tokenizer(sample.response, add_special_tokens=False).input_ids
        response.append(tokenizer.eos_token_id)
        if not self.text_only:
            return Example(self.prompts(sample, decoded), response)
        if sample.media:
            raise DataError(
                f"{sample.source}: the sample has {sample.modality} media, and the model in "
                f"{self.prompts.path} reads text only; train a captioner, or leave the media out"
            )
        for part in (part for m in sample.messages for part in m["content"]):
            refuse_control_tokens(tokenizer, part["text"], "prompt")
        plain = [  # templates of text models want strings
            {**m, "content": "".join(part["text"] for part in m["content"])}
            for m in sample.messages
        ]
        ids, turns = chat_tokens(tokenizer, plain)
        return Example(text_prompt(ids), response, torch.tensor(turns))


def chat_tokens(tokenizer: Any, messages: list[dict[str, Any]]) -> tuple[list[int], list[bool]]:
    """Tokens of a chat that the assistant is to continue, and which of them it has spoken itself.

    What the assistant says is tokenized apart from what opens its turn, as it is when an engine
    generates it.
    """

    def render(count: int, opened: bool) -> str:
        return tokenizer.apply_chat_template(
            messages[:count], tokenize=False, add_generation_prompt=opened
        )

    cuts, end = [], 0  # texts with who speaks, in order
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            head, whole = render(i, True), render(i + 1, False)
            cuts += [(head[end:], False), (whole[len(head) :], True)]
            end = len(whole)
    cuts.append((render(len(messages), True)[end:], False))
    ids: list[int] = []
    turns: list[bool] = []
    for text, spoken in cuts:
        tokens = tokenizer(text, add_special_tokens=False).input_ids
        ids += tokens
        turns += [spoken] * len(tokens)
    return ids, turns


_TOKENIZERS: dict[str, Any] = {}


def _tokenizer(path: str) -> Any:
    """The directory's tokenizer, loaded once per process."""
    from transformers import AutoTokenizer

    if path not in _TOKENIZERS:
        _TOKENIZERS[path] = AutoTokenizer.from_pretrained(path)
    return _TOKENIZERS[path]


def is_text_only(path: str | Path) -> bool:
    """Whether the directory's model is of no registered vision-language family."""
    return read_config(path).get("model_type") not in FAMILIES


def load_model(path: str, text_only: bool) -> nn.Module:
    """The directory's model, in float32."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    kind = AutoModelForCausalLM if text_only else AutoModelForImageTextToText
    return load_whole(kind, path, dtype=torch.float32)


def collate(
    examples: Sequence[Example], loss_on: str, pad: int
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Model inputs padded on the right, labels `[B, L]`, and which of them the assistant speaks.

    `labels[b, t]` is the token at t, learnt from the position before it, or `IGNORED`. With
    `loss_on` "all" the prompt's text is learnt too; media placeholders never are.
    """
    length = max(len(e.prompt) + len(e.response) for e in examples)
    ids = torch.full((len(examples), length), pad)
    types = torch.zeros_like(ids)
    mask = torch.zeros_like(ids)
    spoken = torch.zeros_like(ids, dtype=torch.bool)
    labels = torch.full_like(ids, IGNORED)
    for b, e in enumerate(examples):
        p, end = len(e.prompt), len(e.prompt) + len(e.response)
        ids[b, :p], ids[b, p:end] = e.prompt.ids, torch.tensor(e.response)
        types[b, :p] = e.prompt.token_types
        mask[b, :end] = 1
        spoken[b, p:end] = True
        if e.turns is not None:
            spoken[b, :p] = e.turns
        labels[b, 1:end] = ids[b, 1:end]
    labels[types > 0] = IGNORED
    if loss_on == "response":
        labels[~spoken] = IGNORED
    inputs = {"input_ids": ids, "attention_mask": mask}
    if any(e.prompt.patches is not None for e in examples):
        inputs |= {"mm_token_type_ids": types, **_media(examples)}
    return inputs, labels, spoken


def _media(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Patches and grids of all images and of all videos, under the names that the models take."""
    names = {
        "image": ("pixel_values", "image_grid_thw"),
        "video": ("pixel_values_videos", "video_grid_thw"),
    }
    media: dict[str, Tensor] = {}
    for kind, (patches, grid) in names.items():
        prompts = [e.prompt for e in examples if e.prompt.kind == kind]
        if prompts:
            media[patches] = torch.cat([p.patches for p in prompts])
            media[grid] = torch.cat([p.grid for p in prompts])
    seconds = [s for e in examples for s in e.prompt.seconds_per_grid or []]
    return media | ({"second_per_grid_ts": torch.tensor(seconds)} if seconds else {})


class Sft:
    """A supervised run: data, model, optimizer, log. Close it at the end."""

    def __init__(self, config: SftConfig, dims: ParallelDims) -> None:
        self.config, self.dims = config, dims
        self.interrupts, self.stopping = Interrupts(), 0
        self.place = RunFolder(config.run, main=dims.is_main)
        self.folder, self.step = self.place.path, self.place.step
        path = config.policy.path
        torch.manual_seed(config.run.seed)
        text_only = is_text_only(path)
        self.pad = _tokenizer(path).pad_token_id or 0
        prompts = PromptBuilder(path, config.media, config.data.max_prompt_tokens)
        records = read_records(
            config.data.files,
            config.data.media_root,
            kind="response",
            prompt_override=config.data.prompt,
            max_media=config.media.max_per_prompt,
        )
        self.loader = build_loader(
            records,
            config.data,
            config.media,
            seed=config.run.seed,
            shard=dims.rank,
            num_shards=dims.world,
            prepare=ExampleBuilder(prompts, text_only),
        )
        self.ledger = SkipLedger(config.data.max_skipped_share)
        self.model = load_model(path, text_only).to(dims.device)
        if dims.world > 1:
            fully_shard(self.model)
        self.optimizer = build_optimizer(self.model, config.policy)
        epochs = config.run.epochs * self.loader.batches_per_epoch
        self.steps = config.run.steps or epochs
        resolved = redact(dump(config))
        self.place.write_config(resolved)
        self.log = RunLog(
            self.folder, config.log, main=dims.is_main, name=config.run.name, resolved=resolved
        )

    def begin(self) -> None:
        """Resumes where asked."""
        parts = {"loader": self.loader, "ledger": self.ledger}
        checkpoint.begin(self.place.checkpoints, self.step, self.model, self.optimizer, parts)
        self.log.start(self.step, self.steps)

    def train(self) -> None:
        """All steps until the last one or an interrupt, then the export."""
        self.begin()
        self.model.train()
        self.interrupts.finish_steps()
        while self.step < self.steps and not self.stopping:
            began = time.perf_counter()
            items = next(self.loader)
            self.ledger.update(items, reduce=self._sum)
            examples = [i.prepared for i in items if isinstance(i, LoadedSample)]
            metrics = self.update(examples, self.step)
            self.step += 1
            seconds = time.perf_counter() - began
            self.log.metrics(self.step, {**metrics, "perf/step_s": seconds})
            shown = {k: f"{metrics[f'policy/{k}']:.3f}" for k in ("loss", "accuracy")}
            self.log.progress(self.step, seconds, shown)
            self.save()
        if self.step < self.steps:
            self.log.close()
            self.place.stop(self.step, self.steps, self.stopping)
        if self.config.run.export:
            self.export(self.folder / "export")

    def save(self) -> None:
        """A checkpoint, when this step is due or the run is about to end."""
        every = self.config.run.save_every
        self.stopping = self.interrupts.requested()
        last = self.step == self.steps or self.stopping
        if not last and (not every or self.step % every):
            return
        state = {"loader": self.loader.state_dict(), "ledger": self.ledger.state_dict()}
        root, keep = self.place.checkpoints, self.config.run.keep
        checkpoint.save(root, self.step, self.model, self.optimizer, state, keep)

    def close(self) -> None:
        """Stops workers and logs."""
        self.loader.close()
        self.log.close()
        self.place.close()

    def update(self, examples: Sequence[Example], step: int) -> dict[str, float]:
        """One optimizer step; the loss is the mean over the assistant's tokens of all ranks.

        With `loss_on` "all" the mean over the prompts' text is added to it. One mean over both
        would drown a short answer: 1 token in 60 of a question that nobody could have guessed.
        """
        inputs, labels, spoken = collate(examples, self.config.data.loss_on, self.pad)
        device = self.dims.device
        labels = labels.to(device)[:, 1:]
        logits = self.model(**{k: v.to(device) for k, v in inputs.items()}).logits[:, :-1]
        response = spoken.to(device)[:, 1:] & (labels != IGNORED)
        loss = self._mean_loss(logits, labels, response)
        total = loss
        if self.config.data.loss_on == "all":
            total = loss + self._mean_loss(logits, labels, ~response & (labels != IGNORED))
        total.backward()
        config = self.config.policy
        norm = nn.utils.clip_grad_norm_(
            self.model.parameters(), config.max_grad_norm or float("inf")
        )
        loss_of_all = float(sum_over_ranks(loss.detach().clone())) / self.dims.world
        require_finite(step + 1, {"loss": loss_of_all, "gradient's norm": float(full_tensor(norm))})
        lr = learning_rate(config, step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad()
        check_finite(self.model, step + 1)
        hits = int((logits.argmax(-1) == labels)[response].sum())
        right, asked = self._sum([hits, int(response.sum())])
        return {
            "policy/loss": loss_of_all,
            "policy/accuracy": right / max(asked, 1),
            "policy/grad_norm": float(full_tensor(norm)),
            "policy/lr": lr,
        }

    def _mean_loss(self, logits: Tensor, labels: Tensor, where: Tensor) -> Tensor:
        """Cross-entropy over the positions `where` `[B, L]`, so scaled that ranks' gradients, once
        averaged, are those of the mean over all ranks' positions."""
        total = nn.functional.cross_entropy(logits[where].float(), labels[where], reduction="sum")
        return total * self.dims.world / max(self._sum([int(where.sum())])[0], 1)

    def export(self, target: Path) -> None:
        """A Hugging Face directory with everything that the source has beside its weights."""
        state = {k: full_tensor(v).cpu() for k, v in self.model.state_dict().items()}
        dtype = getattr(torch, self.config.policy.dtype)

        def write(folder: Path) -> None:
            weights = {k: v.to(dtype) for k, v in state.items()}
            self.model.save_pretrained(folder, state_dict=weights)
            for file in model_files(self.config.policy.path):
                if file.name != "config.json":
                    shutil.copy(file, folder)
            described = json.loads((folder / "config.json").read_text())
            described["dtype"] = self.config.policy.dtype
            (folder / "config.json").write_text(json.dumps(described, indent=2))

        if self.dims.is_main:
            checkpoint.write_export(target, write)

    def _sum(self, values: list[int]) -> list[int]:
        """The sums over all ranks."""
        return sum_over_ranks(torch.tensor(values)).tolist()


def main(argv: list[str] | None = None) -> None:
    """The command line: exits 2 on a config that cannot be used."""
    args = parse_cli(SftConfig, sys.argv[1:] if argv is None else argv, "caprl_native.sft")
    if args.dry_run:
        print_once(dump(args.config, args.origins))
        return
    try:
        check_sft_machine(args.config, args.origins)
    except ConfigError as error:
        exit_with_error(error)
    set_parent_death_signal()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    dims = init_distributed(threads=args.config.run.threads)
    run = None
    try:
        with report_failure_once(
            DataError, TooManySkipped, FileNotFoundError, FloatingPointError, ModelError, RunError
        ):
            run = Sft(args.config, dims)
            run.train()
    finally:
        if run is not None:
            run.close()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
