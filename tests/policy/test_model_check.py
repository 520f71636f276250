"""What is said about a model directory before anything heavy loads, and what of its weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from caprl_native.config.cli import ConfigError
from caprl_native.config.schema import Config
from caprl_native.dry_run import check_machine
from caprl_native.policy.families import family_of
from caprl_native.policy.model import load_hf
from caprl_native.policy.model_check import ModelError, check_directory, check_reference
from caprl_native.policy.prompt import PromptBuilder
from caprl_native.testing.samples import MEDIA, noise_image, sample

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"
HEAD, EMBED = "lm_head.weight", "model.language_model.embed_tokens.weight"


@pytest.fixture
def model(tiny_policy: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_policy, tmp_path / "model")


def change(file: Path, **values) -> None:
    described = json.loads(file.read_text()) | values
    file.write_text(json.dumps({k: v for k, v in described.items() if v is not None}))


def rewrite(model: Path, edit) -> None:
    tensors = load_file(model / "model.safetensors")
    edit(tensors)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


def test_sound_directories_pass(tiny_policy, tiny_policy_2_5, tiny_reader, model):
    for path in (tiny_policy, tiny_policy_2_5):
        check_directory(path, processor=True)
        load_hf(path)
    check_directory(tiny_reader)
    check_reference(tiny_policy, model)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("config.json", "[1]", "config.json: expected a JSON object, found a list"),
        ("config.json", "", "config.json: is not JSON"),
        ("config.json", "{}", "config.json: model_type is missing"),
        ("config.json", "[" * 100_000, "config.json: is not JSON"),
        ("config.json", POINTER, "config.json: is a Git LFS pointer.*git lfs pull"),
        ("config.json", "\xff", "config.json: is not JSON"),
        ("model.safetensors", POINTER, "model.safetensors: is a Git LFS pointer"),
        ("model.safetensors", "short", "model.safetensors: is no safetensors file"),
        ("model.safetensors", "\0" * 8 + "{}", "is no safetensors file"),
        ("tokenizer.json", POINTER, "tokenizer.json: is a Git LFS pointer"),
        ("model.safetensors.index.json", "{}", "index.json: expected weight_map"),
        (
            "model.safetensors.index.json",
            '{"weight_map": {"a": "gone.safetensors"}}',
            "names gone.safetensors, which is not there",
        ),
        ("tokenizer_config.json", "7", "tokenizer_config.json: expected a JSON object"),
    ],
)
def test_files_that_are_not_what_they_seem(model, name, text, problem):
    (model / name).write_bytes(text.encode("latin-1"))
    if name == "tokenizer_config.json":
        (model / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match=problem):
        check_directory(model)


def test_weights_that_are_cut_short(model):
    file = model / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    with pytest.raises(ModelError, match=rf"is cut short, {len(data) - 1:,} of {len(data):,} byte"):
        check_directory(model)
    file.write_bytes(data[:100])
    with pytest.raises(ModelError, match="is cut short"):
        check_directory(model)
    file.unlink()
    with pytest.raises(ModelError, match="has no weights"):
        check_directory(model)


def test_a_config_that_says_tied_and_a_file_that_does_not(tiny_policy, tmp_path):
    from caprl_native.testing.tiny_models import write_tiny_vlm

    model = write_tiny_vlm(tmp_path / "m")
    rewrite(model, lambda t: t.update({HEAD: t[EMBED].clone()}))
    change(model / "config.json", tie_word_embeddings=True)
    check_directory(model)  # the same matrix twice does no harm
    rewrite(model, lambda t: t.update({HEAD: t[EMBED] * 1.01}))
    with pytest.raises(ModelError, match=f"tie_word_embeddings is true.*another {HEAD}"):
        check_directory(model)
    change(model / "config.json", tie_word_embeddings=False)
    check_directory(model)
    rewrite(model, lambda t: t.pop(HEAD))
    with pytest.raises(ModelError, match="tie_word_embeddings is false.*holds no lm_head.weight"):
        check_directory(model)


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda t: t.pop("model.visual.merger.norm.weight"), "missing in the.*visual.merger.norm"),
        (lambda t: t.update({"model.extra.weight": torch.ones(2)}), "no use .*model.extra.weight"),
        (lambda t: t.update({EMBED: torch.ones(2, 128)}), f"another shape.*{EMBED}"),
    ],
)
def test_weights_of_another_model(model, edit, problem):
    rewrite(model, edit)
    with pytest.raises(ModelError, match=problem):
        load_hf(model)


def test_where_a_chat_template_may_stand(model, tiny_reader, tmp_path):
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template"):
        check_directory(model, processor=True)
    (model / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    check_directory(model, processor=True)
    with pytest.raises(ModelError, match="has no chat template"):
        check_directory(model)  # a tokenizer alone does not look there
    (model / "chat_template.json").unlink()
    change(model / "tokenizer_config.json", chat_template=template)
    check_directory(model, processor=True)
    check_directory(model)
    assert len(PromptBuilder(str(model), MEDIA)(sample("image"), [noise_image(0)]))


def config_of(policy: Path, reader: Path, **kl) -> Config:
    config = Config()
    config.policy.path, config.reward.reader.path = str(policy), str(reader)
    config.algorithm.kl = {"type": "k3"} | kl
    return config


def test_a_reference_of_another_kind(model, tiny_policy, tiny_policy_2_5, tiny_reader):
    other = config_of(tiny_policy, tiny_reader, weight=0.1, reference=str(tiny_policy_2_5))
    with pytest.raises(
        ConfigError, match="algorithm.kl.reference: .*model_type differs: 'qwen2_5_vl"
    ):
        check_machine(other)
    config = config_of(tiny_policy, tiny_reader, weight=0.1, reference=str(model))
    check_machine(config)
    described = json.loads((model / "tokenizer.json").read_text())
    vocab = described["model"]["vocab"]
    first, second = list(vocab)[20:22]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (model / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(ConfigError, match="algorithm.kl.reference: .*the tokenizer differs"):
        check_machine(config)
    text = json.loads((model / "config.json").read_text())["text_config"]
    change(model / "config.json", text_config=text | {"vocab_size": 7})
    with pytest.raises(ConfigError, match="text_config.vocab_size differs: 7, not "):
        check_machine(config)


def test_a_reader_without_a_template_is_said_before_models_load(model, tiny_reader, tmp_path):
    reader = shutil.copytree(tiny_reader, tmp_path / "reader")
    (reader / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="reward.reader.path: .*has no chat template"):
        check_machine(config_of(model, reader))


def test_what_transformers_cannot_load_is_an_error_that_names_the_directory(model):
    for name in ("preprocessor_config.json", "processor_config.json"):
        (model / name).unlink()
    with pytest.raises(ModelError, match=f"^{model}: transformers cannot load its tokenizer and"):
        PromptBuilder(str(model), MEDIA)(sample("image"), [noise_image(0)])


def test_without_a_tokenizer_transformers_would_make_an_empty_one(model):
    (model / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=f"^{model}: has no tokenizer \\(tokenizer.json, "):
        check_directory(model)
    check_directory(model, chat=False)


def test_a_family_needs_a_config_that_is_one(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="expected a JSON object"):
        family_of(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": ["qwen3_vl"]}')
    with pytest.raises(ModelError, match="is not one of"):
        family_of(tmp_path)
