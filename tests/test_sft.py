"""Supervised training: what is learnt, and that a model that was trained says it."""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from pathlib import Path

import psutil
import pytest
import torch

from caprl_native import checkpoint
from caprl_native.config.cli import dump
from caprl_native.config.schema import SftConfig
from caprl_native.data.records import DataError
from caprl_native.policy.prompt import PromptBuilder, text_prompt
from caprl_native.sft import IGNORED, Example, ExampleBuilder, chat_tokens, collate
from caprl_native.testing.media_files import write_noise
from caprl_native.testing.samples import MEDIA, noise_image, sample
from caprl_native.testing.tiny_models import build_tokenizer, chat_template
from tests.ranks import Forked, run_module

TURNS = [
    {"role": "system", "content": "The picture"},
    {"role": "user", "content": "What is it?"},
    {"role": "assistant", "content": "a picture"},
    {"role": "user", "content": "Describe it."},
]


def test_a_chats_tokens_are_the_templates_and_the_assistants_are_marked() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = chat_template()
    ids, spoken = chat_tokens(tokenizer, TURNS)
    whole = tokenizer.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True)
    assert ids == tokenizer(whole, add_special_tokens=False).input_ids
    said = tokenizer.decode([i for i, s in zip(ids, spoken, strict=True) if s])
    assert said.split() == ["a", "picture", "<|im_end|>"]


@pytest.mark.parametrize("loss_on", ["response", "all"])
def test_labels(loss_on: str) -> None:
    """Every token of the assistant is learnt; of the others only with "all", padding never."""
    first = Example(text_prompt([1, 2, 3, 4]), [5, 6], torch.tensor([False, False, True, False]))
    second = Example(text_prompt([7]), [8])
    inputs, labels, spoken = collate([first, second], loss_on, pad=0)
    assert inputs["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6], [7, 8, 0, 0, 0, 0]]
    assert inputs["attention_mask"].sum(1).tolist() == [6, 2]
    assert spoken.int().tolist() == [[0, 0, 1, 0, 1, 1], [0, 1, 0, 0, 0, 0]]
    x = IGNORED
    expected = {
        "response": [[x, x, 3, x, 5, 6], [x, 8, x, x, x, x]],
        "all": [[x, 2, 3, 4, 5, 6], [x, 8, x, x, x, x]],
    }
    assert labels.tolist() == expected[loss_on]


def test_media_for_a_model_that_reads_text_are_an_error(tiny_reader: Path) -> None:
    seen = dataclasses.replace(sample("image"), response="a picture", source="rows.jsonl:3")
    build = ExampleBuilder(PromptBuilder(str(tiny_reader), MEDIA), text_only=True)
    with pytest.raises(
        DataError, match="rows.jsonl:3: the sample has image media.* reads text only"
    ):
        build(seen, [noise_image(0)])


def write_run(folder: Path, model: Path, rows: list[dict], steps: int) -> Path:
    """The config of a run on `rows`, written beside them."""
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = SftConfig()
    config.run.dir, config.run.steps, config.run.threads = str(folder / "run"), steps, 1
    config.data.files, config.data.batch_size, config.data.workers = [str(file)], 4, 0
    config.policy.path, config.policy.dtype, config.policy.lr = str(model), "float32", 1e-2
    config.log.progress = False
    (folder / "sft.toml").write_text(dump(config))
    return folder / "sft.toml"


def train(
    folder: Path, model: Path, rows: list[dict], steps: int, ranks: int = 1, *settings: str
) -> list[dict]:
    """A run on `rows`; returns its lines of metrics."""
    file = write_run(folder, model, rows, steps)
    arguments = ["--config", file, *settings]
    code, output = run_module("caprl_native.sft", ranks, *arguments, timeout=300)
    assert code == 0, output[-6000:]
    return [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]


def test_a_reader_learns_all_of_the_assistants_turns(tiny_reader: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prompt = [m for m in TURNS if m["role"] != "system"]
    lines = train(tmp_path, tiny_reader, [{"prompt": prompt, "response": "the video"}] * 4, 50)
    assert lines[-1]["policy/loss"] < 0.2 < lines[0]["policy/loss"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run/export")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run/export")
    for turns, answer in ((prompt[:1], "a picture"), (prompt, "the video")):
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        given = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        out = model.generate(**given, do_sample=False, max_new_tokens=4)
        said = tokenizer.decode(out[0, given.input_ids.shape[1] :], skip_special_tokens=True)
        assert said.strip() == answer


def test_a_run_that_is_resumed_goes_on_as_if_unbroken(tiny_reader: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "What is it?", "response": text} for text in ["a", "the", "it", "is"] * 3]
    found = []
    for name, parts in (("unbroken", [6]), ("broken", [2, 6])):
        (tmp_path / name).mkdir()
        for steps in parts:
            resumed = ["--resume"] if steps == 6 and len(parts) == 2 else []
            lines = train(tmp_path / name, tiny_reader, rows, steps, 1, *resumed)
        found.append([{k: v for k, v in line.items() if "perf/" not in k} for line in lines])
        found.append((tmp_path / name / "run/export/model.safetensors").read_bytes())
    assert found[:2] == found[2:]


def test_a_captioner_learns_the_same_on_one_rank_and_on_two(
    tiny_policy: Path, tmp_path: Path
) -> None:
    names = [write_noise(tmp_path / f"{i}.png", seed=i) for i in range(4)]
    rows = [
        {"image": str(name), "prompt": "Describe it.", "response": text}
        for name, text in zip(names, ["a", "the picture", "the", "an image of it"], strict=True)
    ]
    losses = []
    for ranks in (1, 2):
        (tmp_path / str(ranks)).mkdir()
        lines = train(tmp_path / str(ranks), tiny_policy, rows, 3, ranks)
        losses.append([line["policy/loss"] for line in lines])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-1] < losses[0][0]


def test_a_run_that_is_stopped_is_not_lost_or_taken_for_done(
    tiny_reader: Path, tmp_path: Path
) -> None:
    """One signal; then it goes on, with other settings, to a step that ruins the weights."""
    rows = [{"prompt": "What is it?", "response": text} for text in ["a", "the", "it", "is"]]
    file, folder = write_run(tmp_path, tiny_reader, rows, 100_000), tmp_path / "run"
    metrics, saved = folder / "metrics.jsonl", folder / "checkpoints"
    given = ["--config", file, "--run.save_every=100000", "--log.wandb=disabled"]
    process = Forked("caprl_native.sft", 1, *given, log=tmp_path / "log")
    try:
        while not metrics.exists():
            assert process.poll() is None, (tmp_path / "log").read_text()[-4000:]
            time.sleep(0.02)
        (rank,) = psutil.Process(process.pid).children()
        rank.send_signal(signal.SIGUSR1)
        assert process.wait(60) == 128 + signal.SIGUSR1
    finally:
        process.end()
    (step,) = checkpoint.steps(saved)
    assert len(metrics.read_text().splitlines()) == step
    said = f"stopped: SIGUSR1 came, and step {step} of 100000 is done and saved in {saved}"
    assert said in (tmp_path / "log").read_text()
    changed = ["--resume", "--policy.lr=1e39", "--policy.weight_decay=0.5", "--run.save_every=1"]
    code, output = run_module("caprl_native.sft", 1, *given, *changed)
    assert code == 1 and "Traceback" not in output, output[-4000:]
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert f"step {step + 1}: " in error and "not finite after the optimizer's step" in error
    assert "policy.lr: 0.01 -> 1e+39" in output and "policy.weight_decay: 0.0 -> 0.5" in output
    assert (folder / f"config.step_{step:06d}.toml").exists()
    assert checkpoint.steps(saved) == [step] and not (folder / "export").exists()
    assert len(metrics.read_text().splitlines()) == step
