"""A model from parts: what each part computes afterwards, and parts that do not fit."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from caprl_native.distributed.errors import RunError
from caprl_native.init_vlm import PartsDiffer, Request, build
from caprl_native.policy.families import family_of
from caprl_native.policy.model_check import ModelError, tensors
from caprl_native.testing.tiny_models import write_tiny_language, write_tiny_vlm
from tests.ranks import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import init_vlm  # noqa: E402

FAMILIES = ["qwen3_vl", "qwen2_5_vl"]


@pytest.fixture(scope="module", params=FAMILIES)
def parts(request, tmp_path_factory) -> tuple[Path, Path]:
    """A vision-language model, and a language model that fits it."""
    folder = tmp_path_factory.mktemp(request.param)
    vision = write_tiny_vlm(folder / "vision", request.param, seed=1)
    return vision, write_tiny_language(folder / "language", vision, seed=2)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t for f in folder.glob("*.safetensors") for n, t in load_file(f).items()}


def test_each_part_computes_what_it_did(parts, tmp_path: Path) -> None:
    """To the bit, in several files, loaded by transformers alone; each tensor filled once."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

    vision, language = parts
    target = tmp_path / "Qwen2.5-like"
    request = Request(vision, language, target, dtype="float32", shard_bytes=2**20)
    report = build(request, say=lambda _: None)
    assert report["verified"]["text_logprobs"] == report["verified"]["tower"] == 0.0
    assert report["verified"]["projector"] > 0.0
    made, seen, read = weights(target), weights(vision), weights(language)
    assert len(list(target.glob("model-*.safetensors"))) > 1
    assert made.keys() == tensors(target).keys() == seen.keys()
    family, used = family_of(vision), set()
    for name, tensor in made.items():
        part = family.part_of(name)
        if part == "language":
            own = name.replace("model.language_model.", "model.")
            used.add(own)
            assert torch.equal(tensor, read[own])
        else:
            same = torch.equal(tensor, seen[name])
            assert same == (part == "vision") or tensor.ndim < 2
    assert used == read.keys()
    assert sum(p["tensors"] for p in report["parts"].values()) == len(made)
    ids = torch.tensor([[8, 9, 20, 30, 11]])
    alone = AutoModelForCausalLM.from_pretrained(language, dtype=torch.float32)(input_ids=ids)
    whole = AutoModelForImageTextToText.from_pretrained(target, dtype=torch.float32)
    assert torch.equal(whole(input_ids=ids).logits, alone.logits)
    assert AutoProcessor.from_pretrained(target).chat_template
    assert json.loads((target / "init.json").read_text()) == report
    assert json.loads((target / "config.json").read_text()) == json.loads(
        (vision / "config.json").read_text()
    )


def test_a_projector_is_drawn_from_its_seed_or_kept(parts, tmp_path: Path) -> None:
    vision, language = parts
    family, found = family_of(vision), {}
    for name, options in {
        "a": {"seed": 1}, "b": {"seed": 1}, "c": {"seed": 2}, "normal": {"init": "normal"},
        "keep": {"projector": "keep"},
    }.items():  # fmt: skip
        build(
            Request(vision, language, tmp_path / name, dtype="float32", **options), lambda _: None
        )
        made = weights(tmp_path / name)
        found[name] = {n: t for n, t in made.items() if family.part_of(n) == "projector"}
    same = {
        name: all(torch.equal(found["a"][n], t) for n, t in tensors.items())
        for name, tensors in found.items()
    }
    assert same == {"a": True, "b": True, "c": False, "normal": False, "keep": False}
    seen = weights(vision)
    assert all(torch.equal(seen[n], t) for n, t in found["keep"].items())
    for name, tensor in found["normal"].items():
        if tensor.ndim == 2:
            assert tensor.std().item() == pytest.approx(0.02, rel=0.05)
            inputs = tensor.shape[1]
            even = found["a"][name]
            assert even.abs().max() <= inputs**-0.5 < even.abs().max() * 1.01
        else:
            assert tensor.unique().tolist() in ([0.0], [1.0])


def test_wrong_pairs_are_refused_with_all_that_is_wrong(tmp_path: Path, capsys) -> None:
    """Another family, other sizes, another head; the list names every tensor."""
    models = {f: write_tiny_vlm(tmp_path / f, f) for f in FAMILIES}
    texts = {f: write_tiny_language(tmp_path / f"{f}_text", m) for f, m in models.items()}
    small = write_tiny_vlm(tmp_path / "small", layers=3, vocab_words=["more"])
    target = tmp_path / "made"
    with pytest.raises(PartsDiffer) as told:
        build(Request(models["qwen3_vl"], texts["qwen2_5_vl"], target))
    missing = [p for p in told.value.problems if "q_norm" in p or "k_norm" in p]
    biases = [p for p in told.value.problems if p.endswith("has no place") and ".bias" in p]
    assert len(missing) == 2 * 4 and len(biases) == 3 * 4
    words = ["--vision", str(small), "--language", str(texts["qwen3_vl"]), "--to", str(target)]
    assert init_vlm.main(words) == 2
    said = capsys.readouterr().err
    assert "num_hidden_layers: 3 in the vision model's config, 4 in the language" in said
    assert "vocab_size" in said and "embed_tokens.weight: " in said
    assert "model.layers.3.mlp.up_proj.weight: of the language model, has no place" in said
    for path, change in (
        (texts["qwen3_vl"], {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
        (texts["qwen2_5_vl"], {"rms_norm_eps": 1e-5}),
    ):
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(PartsDiffer, match=next(iter(change)).replace("parameters", "theta")):
            build(Request(models[path.name.removesuffix("_text")], path, target))
    with pytest.raises(ModelError, match="model_type 'qwen3' is not one of"):
        build(Request(texts["qwen3_vl"], texts["qwen3_vl"], target))
    assert not list(tmp_path.glob("made*"))


def test_what_fails_leaves_nothing(parts, tmp_path: Path) -> None:
    """An interrupt when all is written but the end, and weights that are cut short; the remains of
    one that was killed are cleared away."""
    vision, language = parts
    target = tmp_path / "made"
    (tmp_path / "made.tmp").mkdir()
    (tmp_path / "made.tmp/init.json").write_text("{}")

    def interrupt(said: str) -> None:
        assert (tmp_path / "made.tmp/model.safetensors").exists() and not target.exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(Request(vision, language, target), interrupt)
    assert list(tmp_path.iterdir()) == []
    build(Request(vision, language, target), lambda _: None)
    with pytest.raises(RunError, match="exists"):
        build(Request(vision, language, target), lambda _: None)
    broken = Path(shutil.copytree(language, tmp_path / "broken"))
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cut short"):
        build(Request(vision, broken, tmp_path / "other"), lambda _: None)
    assert {f.name for f in tmp_path.iterdir()} == {"made", "broken"}
