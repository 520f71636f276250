"""Judges behind a real server for the tests, some of them easy to talk into things."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from caprl_native.rewards.base import Caption, Score, TermContext
from caprl_native.rewards.judges.options import JudgeOptions
from caprl_native.rewards.judges.reply import KEYS
from caprl_native.rewards.rubric import Rubric, WeightedTerm
from caprl_native.rewards.terms.judge import JudgeTerm
from caprl_native.testing.chat_server import Reply
from caprl_native.testing.media_files import write_mp4, write_png
from caprl_native.types import MediaRef, Sample

KEY = "0123456789abcdef0123456789abcdef"  # as Azure's are: like nothing else

HONEST = dict.fromkeys(KEYS["video"], 0.25)
BEST = json.dumps(dict.fromkeys(KEYS["video"], 1.0))


def image_sample(folder: Path, name: str = "s0") -> Sample:
    return sample_of(write_png(folder / f"{name}.png"), "image")


def video_sample(folder: Path, name: str = "v0") -> Sample:
    return sample_of(write_mp4(folder / f"{name}.mp4", 20, 10.0), "video")


def sample_of(file: Path, kind: Literal["image", "video"]) -> Sample:
    """The sample of a file that is there already."""
    return Sample(file.stem, (MediaRef(kind, str(file)),), (), source=f"data:{file.stem}")


def caption(sample: Sample, text: str = "a red picture", index: int = 0, media=None) -> Caption:
    return Caption(sample, text, len(text.split()), (0, 1, sample.id, index), media)


def options(**settings: Any) -> JudgeOptions:
    given = {"model": "judge", "timeout_s": 10.0, "retries": 0, **settings}
    return JudgeOptions(**given)


def judged(captions: list[Caption], **settings: Any) -> list[Score]:
    """The scores of a judge that is closed again."""
    with closing(JudgeTerm(options(**settings), TermContext(lambda: None))) as term:
        weighted = WeightedTerm("judge", 1.0, term)
        term.begin(1)
        futures = [weighted.submit(c) for c in captions]
        term.finish()
        return [weighted.outcome(f) for f in futures]


def said_to(request: dict[str, Any]) -> str:
    """All text of a request's user turn."""
    parts = request["messages"][-1]["content"]
    return "\n".join(p["text"] for p in parts if p["type"] == "text")


def honest(request: dict[str, Any]) -> Reply:
    return Reply(json.dumps(HONEST))


def parrot(request: dict[str, Any]) -> Reply:
    """Repeats the last JSON object of what it is shown; without one it judges by itself."""
    found = re.findall(r"\{[^{}]*\}", said_to(request))
    return Reply(found[-1] if found else json.dumps(HONEST))


def scanner(request: dict[str, Any]) -> Reply:
    """Takes scores that it is shown anywhere for its own."""
    text, values = said_to(request), {}
    for key in KEYS["video"]:
        found = re.search(rf"{key}\W{{0,9}}([\d.]+)", text, re.IGNORECASE)
        values[key] = float(found[1]) if found else 0.25
    return Reply(json.dumps(values))


def obedient(request: dict[str, Any]) -> Reply:
    """Does what any line says that is not marked as the caption's, and what a system turn says."""
    orders = [m["content"] for m in request["messages"][1:] if m["role"] != "user"]
    orders += [line for line in re.split(r"[\n\r]", said_to(request)) if line[:2] != "| "]
    told = any("give 1.0" in str(order) for order in orders)
    return Reply(BEST if told else json.dumps(HONEST))


def write_judge(path: Path, reply: dict[str, Any], after: str = "", before: str = "") -> Path:
    """A tiny Qwen3-VL, one of whose tokens is a whole judgement, which it says after anything.

    `after` and `before`: what else that token says.

    Of the last hidden state only axis 0 counts, which is about 4 after every token, and that token
    has 8 there where the others have 4.
    """
    import torch
    from safetensors.torch import load_file, save_file

    from caprl_native.testing.tiny_models import write_tiny_vlm

    write_tiny_vlm(path)
    file = path / "tokenizer.json"
    described = json.loads(file.read_text())
    vocab = described["model"]["vocab"]
    said = vocab[before + json.dumps(reply) + after] = vocab.pop("[00:09]")
    file.write_text(json.dumps(described))
    weights = load_file(path / "model.safetensors")
    embeddings = weights["model.language_model.embed_tokens.weight"]
    embeddings[:, 0] = 4.0
    embeddings[said, 0] = 8.0
    norm = weights["model.language_model.norm.weight"] = torch.zeros_like(
        weights["model.language_model.norm.weight"]
    )
    norm[0] = 1.0
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


def rubric_of(term: JudgeTerm) -> Rubric:
    return Rubric([WeightedTerm("judge", 1.0, term)], term.context)
