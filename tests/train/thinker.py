"""A tiny mixture of experts that thinks, then writes a memory as JSON: a chain of some words."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

OPENS, ENDS = '</think>{"description": "', '"}'
THOUGHTS = ("Hm", "Wait")
WHO = ("<face_1>", "<face_2>", "Somebody", "face 1")  # the last is no name of a face
DOES = ("waves", "sings", "sleeps", "cooks", "reads", "runs", "paints", "writes")
# What comes after each kind of token, and about how often; a memory of two closing tags has a wrong
# form.
NEXT: dict[str, dict[tuple[str, ...], float]] = {
    "prompt": {THOUGHTS: 1.0},
    "thought": {THOUGHTS: 0.3, (OPENS,): 0.7},
    "opened": {WHO[:3]: 0.95, WHO[3:]: 0.05},
    "who": {DOES: 1.0},
    "does": {(ENDS,): 0.99, (OPENS,): 0.01},
    "ended": {("<|im_end|>",): 1.0},
}
KINDS = {"thought": THOUGHTS, "opened": (OPENS,), "who": WHO, "does": DOES, "ended": (ENDS,)}
LOUD, SURE = 8.0, 14.0


def write_thinker(path: Path, words: Iterable[str]) -> Path:
    """A tiny Qwen3-VL-MoE that knows these words beside its own.

    A token's embedding is loud on its kind's axis, and the head reads off that axis what comes
    next. On the other axes the layers' random weights add what they make of the whole prompt.
    """
    from safetensors.torch import load_file, save_file

    from caprl_native.testing.tiny_models import write_tiny_vlm

    write_tiny_vlm(path, "qwen3_vl_moe", [*words, *WHO, *DOES, *THOUGHTS], init=0.06)
    vocab = _with_whole_tokens(path / "tokenizer.json")
    weights = load_file(path / "model.safetensors")
    embeddings, head = (weights[name] for name in (_EMBEDDINGS, "lm_head.weight"))
    kind_of = {vocab[token]: kind for kind, tokens in KINDS.items() for token in tokens}
    axes = {kind: axis for axis, kind in enumerate(NEXT)}
    head *= 0.4
    embeddings[:, : len(axes)], head[:, : len(axes)] = 0.0, -SURE / len(embeddings[0]) ** 0.5
    head[[*kind_of, vocab["<|im_end|>"]], : len(axes)] = 0.0
    for token in range(len(embeddings)):
        embeddings[token, axes[kind_of.get(token, "prompt")]] = LOUD
    for kind, following in NEXT.items():
        for tokens, chance in following.items():
            for token in tokens:
                logit = SURE + math.log(chance / len(tokens))
                head[vocab[token], axes[kind]] += logit / len(embeddings[0]) ** 0.5
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


_EMBEDDINGS = "model.language_model.embed_tokens.weight"


def _with_whole_tokens(file: Path) -> dict[str, int]:
    """The vocabulary, in which tokens that no prompt has are now those of several words."""
    described = json.loads(file.read_text())
    vocab = described["model"]["vocab"]
    free = [f"[00:0{i}]" for i in range(9)]
    whole = [OPENS, ENDS, *(who for who in WHO if who not in vocab)]
    for token, old in zip(whole, free, strict=False):
        vocab[token] = vocab.pop(old)
    file.write_text(json.dumps(described))
    return vocab
