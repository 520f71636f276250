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
from safetensors.torch import load_file

from caprl_native import checkpoint
from caprl_native.config.cli import dump
from caprl_native.config.schema import SftConfig
from caprl_native.data.records import DataError
from caprl_native.policy.examples import ExampleBuilder, chat_tokens, scored_row
from caprl_native.policy.families import FAMILIES
from caprl_native.policy.packing import ASSISTANT, NOBODY, OTHERS, collate
from caprl_native.policy.prompt import PromptBuilder, text_prompt
from caprl_native.testing.media_files import write_noise
from caprl_native.testing.samples import MEDIA, noise_image, prompt, sample
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
def test_which_tokens_are_scored_and_whose_they_are(loss_on: str) -> None:
    """Every token of the assistant is learnt; of the others only with "all", padding never."""
    first = scored_row(text_prompt([1, 2, 3, 4]), [5, 6], [False, False, True, False], loss_on)
    second = scored_row(text_prompt([7]), [8], (), loss_on)
    batch = collate([first, second], lambda prompt: torch.arange(len(prompt))[None])
    assert batch.ids.tolist() == [[1, 2, 3, 4, 5, 6], [7, 8, 0, 0, 0, 0]]
    labels, speakers = torch.zeros_like(batch.ids), torch.full_like(batch.ids, NOBODY)
    labels.view(-1)[batch.sources + 1] = batch.targets
    speakers.view(-1)[batch.sources + 1] = batch.speakers
    expected = {
        "response": [[0, 0, 3, 0, 5, 6], [0, 8, 0, 0, 0, 0]],
        "all": [[0, 2, 3, 4, 5, 6], [0, 8, 0, 0, 0, 0]],
    }
    assert labels.tolist() == expected[loss_on]
    assert len(batch.sources) == sum(label > 0 for row in expected[loss_on] for label in row)
    spoken = [[0, 0, 1, 0, 1, 1], [0, 1, 0, 0, 0, 0]]
    assert (speakers == ASSISTANT).int().tolist() == spoken
    assert ((speakers == OTHERS) == (labels > 0) & (speakers != ASSISTANT)).all()


def test_media_placeholders_are_never_scored(tiny_policy: Path) -> None:
    given = prompt(tiny_policy, "image")
    row = scored_row(given, [5], (), "all")
    assert (given.token_types > 0).any()
    assert torch.equal(row.scored == OTHERS, given.token_types == 0)


def test_media_for_a_model_that_reads_text_are_an_error(tiny_reader: Path) -> None:
    seen = dataclasses.replace(sample("image"), response="a picture", source="rows.jsonl:3")
    build = ExampleBuilder(PromptBuilder(str(tiny_reader), MEDIA))
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

    asked = [m for m in TURNS if m["role"] != "system"]
    lines = train(tmp_path, tiny_reader, [{"prompt": asked, "response": "the video"}] * 4, 50)
    assert lines[-1]["policy/loss"] < 0.2 < lines[0]["policy/loss"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run/export")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run/export")
    for turns, answer in ((asked[:1], "a picture"), (asked, "the video")):
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        given = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        out = model.generate(**given, do_sample=False, max_new_tokens=4)
        said = tokenizer.decode(out[0, given.input_ids.shape[1] :], skip_special_tokens=True)
        assert said.strip() == answer


@pytest.mark.parametrize("model", ["tiny_reader", "tiny_policy"])
def test_a_run_that_is_resumed_goes_on_as_if_unbroken(
    model: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """One of them has a vision tower that sees nothing in the whole run."""
    rows = [{"prompt": "What is it?", "response": text} for text in ["a", "the", "it", "is"] * 3]
    path, found = request.getfixturevalue(model), []
    for name, parts in (("unbroken", [6]), ("broken", [2, 6])):
        (tmp_path / name).mkdir()
        for steps in parts:
            resumed = ["--resume"] if steps == 6 and len(parts) == 2 else []
            lines = train(tmp_path / name, path, rows, steps, 1, *resumed)
        found.append([{k: v for k, v in line.items() if "perf/" not in k} for line in lines])
        found.append((tmp_path / name / "run/export/model.safetensors").read_bytes())
    assert found[:2] == found[2:]


def pictured(folder: Path) -> list[dict]:
    names = [write_noise(folder / f"{i}.png", seed=i) for i in range(4)]
    return [
        {"image": str(name), "prompt": "Describe it.", "response": text}
        for name, text in zip(names, ["a", "the picture", "the", "an image of it"], strict=True)
    ]


def test_a_captioner_learns_the_same_on_one_rank_and_on_two(
    tiny_policy: Path, tmp_path: Path
) -> None:
    """From records of pictures and of text, so that a rank may have only the ones or the others.

    Two are LLaVA's and OpenAI's; one is wrong, and left out.
    """
    rows = pictured(tmp_path)
    rows += [{"prompt": "What is it?", "response": text} for text in ("it is", "a")]
    asked = {"from": "human", "value": "What is it?"}
    rows += [{"conversations": [asked, {"from": "gpt", "value": "the"}]}]
    said = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "of"}]
    rows += [{"messages": said}, {"messages": said[1:]}]
    losses, wish = [], ["--data.invalid_records=drop", "--data.max_dropped_share=0.2"]
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        lines = train(folder, tiny_policy, rows, 4, ranks, "--data.batch_size=2", *wish)
        assert [line.get("data/dropped_records") for line in lines] == [1, None, None, None]
        (dropped,) = (folder / "run/dropped.jsonl").read_text().splitlines()
        assert json.loads(dropped)["reason"] == "first turn the assistant's"
        losses.append([line["policy/loss"] for line in lines])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-1] < losses[0][0]


def test_frozen_parts_are_exported_as_they_came(tiny_policy: Path, tmp_path: Path) -> None:
    """And the other settings of the policy are obeyed as well."""
    settings = ["--policy.freeze=['vision', 'projector']", "--policy.micro_batch_tokens=1"]
    settings += ["--policy.activation_checkpointing=false", "--policy.dtype=bfloat16"]
    train(tmp_path, tiny_policy, pictured(tmp_path), 2, 1, *settings)
    before = load_file(tiny_policy / "model.safetensors")
    after = load_file(tmp_path / "run/export/model.safetensors")
    family = FAMILIES["qwen3_vl"].value
    still = {n for n, t in before.items() if torch.equal(t.bfloat16(), after[n])}
    frozen = {n for n in before if family.part_of(n) != "language"}
    assert frozen <= still and not any("layers" in n and "proj" in n for n in still - frozen)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_batch_without_a_usable_sample_is_counted_and_changes_nothing(
    tiny_policy: Path, tmp_path: Path, ranks: int
) -> None:
    """On one rank a whole batch is lost; on two one rank's part of it, then both ranks' parts."""
    rows = pictured(tmp_path)
    for row in rows[1 : 1 + 2 * (ranks - 1) + 1]:
        row["image"] = str(tmp_path / "gone.png")
    settings = ["--data.max_skipped_share=1", "--data.shuffle=false", "--run.save_every=1"]
    lines = train(
        tmp_path, tiny_policy, rows, 4 // ranks, ranks, f"--data.batch_size={ranks}", *settings
    )
    lost = [line["step"] for line in lines if line.get("policy/skipped_steps")]
    assert lost == [2]
    assert all(("policy/loss" in line) == (line["step"] not in lost) for line in lines)
    assert checkpoint.steps(tmp_path / "run/checkpoints")[-1] == 4 // ranks


def test_a_run_that_is_stopped_is_not_lost_or_taken_for_done(
    tiny_reader: Path, tmp_path: Path
) -> None:
    """One signal; then it goes on, not with settings of another model, and with others to a step
    that ruins the weights."""
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
        assert process.wait(60) == 0  # all is saved: a scheduler starts it again
    finally:
        process.end()
    (step,) = checkpoint.steps(saved)
    assert len(metrics.read_text().splitlines()) == step
    said = f"stopped: SIGUSR1 came, and step {step} of 100000 is done and saved in {saved}"
    assert said in (tmp_path / "log").read_text()
    own = (folder / "config.toml").read_text()
    code, output = run_module("caprl_native.sft", 1, *given, "--resume", "--policy.lora.rank=2")
    assert code == 1 and "was saved without an adapter: restore policy.lora.rank" in output
    assert (folder / "config.toml").read_text() == own and not list(folder.glob("config.step*"))
    changed = ["--resume", "--policy.lr=1e39", "--policy.weight_decay=0.5", "--run.save_every=1"]
    code, output = run_module("caprl_native.sft", 1, *given, *changed)
    assert code == 1 and "Traceback" not in output, output[-4000:]
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert f"step {step + 1}: " in error and "not finite after the optimizer's step" in error
    assert "policy.lr: 0.01 -> 1e+39" in output and "policy.weight_decay: 0.0 -> 0.5" in output
    assert (folder / f"config.step_{step:06d}.toml").exists()
    assert checkpoint.steps(saved) == [step] and not (folder / "export").exists()
    assert len(metrics.read_text().splitlines()) == step
