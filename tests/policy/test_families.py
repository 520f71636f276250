"""A family is one file; what the trainer cannot compute of a text model is refused, not ignored."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from caprl_native.config.schema import AlgorithmConfig, PolicyConfig, SftDataConfig
from caprl_native.data.loader import build_loader
from caprl_native.data.records import read_records
from caprl_native.policy.examples import ExampleBuilder, scored_row
from caprl_native.policy.families import FAMILIES, family_of
from caprl_native.policy.fsdp import full_tensor, load_policy
from caprl_native.policy.learner import Learner
from caprl_native.policy.model import load_hf
from caprl_native.policy.model_check import ModelError
from caprl_native.policy.optim import build_optimizer
from caprl_native.policy.packing import PackedRow, collate
from caprl_native.policy.prompt import PromptBuilder, text_prompt
from caprl_native.policy.supervised import SupervisedLearner
from caprl_native.registry import load_plugin
from caprl_native.testing.media_files import write_noise
from caprl_native.testing.samples import MEDIA, group, prompt, responses
from caprl_native.testing.tiny_models import IMAGE_PAD, build_tokenizer, chat_template
from tests.ranks import ROOT

PARTS = {"vision", "projector", "language"}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory) -> Path:
    """A tiny model of a family that one file adds."""
    load_plugin(str(Path(__file__).with_name("tiles_family.py")))
    tiles_family = sys.modules["tiles_family"]
    path, tokenizer = tmp_path_factory.mktemp("models") / "tiles", build_tokenizer()
    tokenizer.chat_template = chat_template("qwen3_vl")
    vocab = tokenizer.get_vocab()
    config = tiles_family.TilesConfig(
        vocab_size=len(vocab), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, head_dim=32, tie_word_embeddings=True,
        tile_token_id=vocab[IMAGE_PAD],
    )  # fmt: skip
    torch.manual_seed(0)
    tiles_family.TilesForCaptioning(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def words(policy, n: int, seed: int) -> list[list[int]]:
    return responses(policy.config, policy.banned, n, seed)


def test_a_family_of_one_file_is_found(tiles):
    assert {"qwen2_5_vl", "qwen3_vl", "tiles"} <= set(FAMILIES)
    assert family_of(tiles) is FAMILIES["tiles"].value


def test_its_log_probs_are_those_of_the_plain_model(tiles, dims):
    policy = load_policy(PolicyConfig(path=str(tiles), dtype="float32"), dims)
    hf, given = load_hf(tiles), prompt(tiles, "images")
    assert policy.positions(given).shape == (1, len(given))
    tokens = words(policy, 2, 0)
    batch = collate([PackedRow(given, tokens, [0, 1])], policy.positions)
    with torch.no_grad():
        ours = policy(batch, ban=False).logprobs
        features = policy.family.media_features(hf, given.media).embeds
        assert len(features) == 6 * 4 + 4 * 8
        theirs = []
        for response in tokens:
            ids = torch.cat([given.ids, torch.tensor(response)])
            embeds = hf.get_input_embeddings()(ids)
            embeds[: len(given)][given.token_types > 0] = features
            logits = hf(inputs_embeds=embeds[None]).logits[0, len(given) - 1 : -1]
            theirs.append(logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0])
    assert (ours - torch.cat(theirs)).abs().max() < 1e-5


@pytest.mark.parametrize("freeze", [[], ["vision"]])
@pytest.mark.parametrize("kind", ["grpo", "supervised"])
def test_it_trains(tiles, dims, kind, freeze):
    """A step on an image and a text, in micro-batches of their own."""
    config = PolicyConfig(
        path=str(tiles), dtype="float32", lr=1e-2, freeze=freeze, micro_batch_tokens=1
    )
    policy = load_policy(config, dims)
    before = {n: full_tensor(p.detach()).clone() for n, p in policy.hf.named_parameters()}
    optimizer = build_optimizer(policy, config)
    prompts = [prompt(tiles, "image"), prompt(tiles, "text")]
    if kind == "grpo":
        learner = Learner(policy, None, optimizer, config, AlgorithmConfig(), 1.0, 12, 10, dims)
        metrics = learner.update(
            [group(p, words(policy, 3, i), i) for i, p in enumerate(prompts)], 0
        )
    else:
        rows = [scored_row(p, words(policy, 1, i)[0], (), "all") for i, p in enumerate(prompts)]
        metrics = SupervisedLearner(policy, optimizer, config, 10, dims).update(rows, 1)
    assert all(math.isfinite(value) for value in metrics.values())
    moved = {
        policy.family.part_of(n)
        for n, p in policy.hf.named_parameters()
        if not torch.equal(full_tensor(p.detach()), before[n])
    }
    assert moved == PARTS - set(freeze)


def test_a_family_that_is_registered_twice_is_an_error(tiles):
    with pytest.raises(ValueError, match="model_type 'tiles' is registered twice"):
        FAMILIES.add("tiles", FAMILIES["qwen3_vl"].value)


def test_families_are_known_without_torch():
    """Else a dry run would take seconds to say which parts are frozen."""
    code = (
        "import sys; from caprl_native.policy.families import FAMILIES; "
        "assert FAMILIES['qwen3_vl'].value.part_of('lm_head.weight') == 'language'; "
        "print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert out.stdout.strip() == "set()", out.stderr


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 8,
          "layer_types": None}, "not all of its layers attend to all tokens"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping = 30.0 changes its logits"),
        ({"attention_dropout": 0.1}, "attention has a dropout"),
        ({"model_type": "vit"}, "'vit' is neither a family of captioners .* nor a causal"),
        ({"model_type": "nothing"}, "'nothing' is neither a family of captioners"),
    ],
)  # fmt: skip
def test_a_text_model_that_would_be_computed_wrongly_is_refused(
    tiny_reader, tmp_path, dims, change, problem
):
    path = shutil.copytree(tiny_reader, tmp_path / "model")
    described = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(described | change))
    with pytest.raises(ModelError, match=problem):
        policy = load_policy(PolicyConfig(path=str(path), dtype="float32"), dims)
        policy(collate([scored_row(text_prompt([10, 11]), [9], (), "all")], policy.positions))


def test_a_part_that_a_model_lacks_cannot_be_frozen(tiny_reader, dims):
    config = PolicyConfig(path=str(tiny_reader), dtype="float32", freeze=["vision"])
    with pytest.raises(ModelError, match="policy.freeze .*qwen3 has no vision"):
        load_policy(config, dims)


def test_a_text_model_without_a_family_is_no_captioner(tiny_reader):
    with pytest.raises(
        ModelError, match="model_type 'qwen3' is not one of .*qwen2_5_vl, .*qwen3_vl"
    ):
        family_of(tiny_reader)
    assert family_of(tiny_reader, or_text=True).part_of("model.norm.weight") == "language"


def test_worker_processes_know_it_too(tiles, tmp_path):
    rows = [{"image": str(write_noise(tmp_path / f"{i}.png", seed=i)), "prompt": "Describe it.",
             "response": "a picture"} for i in range(2)]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = SftDataConfig(files=[str(tmp_path / "rows.jsonl")], batch_size=2, workers=1)
    records = read_records(data.files, "", kind="response")
    prepare = ExampleBuilder(PromptBuilder(str(tiles), MEDIA))
    loader = build_loader(records, data, MEDIA, seed=0, shard=0, num_shards=1, prepare=prepare)
    try:
        assert all(item.prepared.prompt.media["tiles"].ndim == 2 for item in next(loader))
    finally:
        loader.close()
