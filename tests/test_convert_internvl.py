"""InternVL from one format to the other: nothing is lost, and vLLM reads both."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from caprl_native.convert_internvl import NotConvertible, Request, convert, files
from caprl_native.distributed.errors import RunError
from caprl_native.policy.model_check import ModelError, tensors
from caprl_native.testing.samples import noise_image, noise_video
from caprl_native.testing.tiny_families import write_internvl
from tests.internvl_chat import write_published
from tests.ranks import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import convert_internvl  # noqa: E402

KINDS: dict[str, dict[str, Any]] = {
    "qwen3, InternViT-300M": {},
    "qwen2, tied, InternViT-6B": {
        "text": "qwen2", "tied": True, "attention_bias": False, "use_qk_norm": True,
        "norm_type": "rms_norm",
    },
}  # fmt: skip
CHAT = [
    {
        "role": "user",
        "content": [{"type": "image"}, {"type": "video"}, {"type": "text", "text": "What is it?"}],
    }
]


@pytest.fixture(scope="module", params=KINDS)
def own(request, tmp_path_factory) -> Path:
    """A directory in transformers' format."""
    folder = tmp_path_factory.mktemp("models") / "own"
    return write_internvl(folder, seed=1, **KINDS[request.param])


@pytest.fixture(scope="module")
def authors(own) -> Path:
    """The same in the authors', in several files."""
    report = convert(Request(own, own.with_name("authors"), shard_bytes=2**18))
    assert report.format == "internvl_chat" and "the authors' code is not in it" in report.notes[0]
    return own.with_name("authors")


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A directory in the authors' format that no converter made."""
    return write_published(tmp_path_factory.mktemp("models") / "published", room=3)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t for f in folder.glob("*.safetensors") for n, t in load_file(f).items()}


def loaded(folder: Path) -> Any:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def inputs(folder: Path) -> dict[str, Any]:
    """Of an image of several tiles, a video and a text, by the directory's own processor."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    text = processor.apply_chat_template(CHAT, add_generation_prompt=True)
    media = {"images": [noise_image(0, (150, 100)).image], "videos": [noise_video(1).frames]}
    return dict(processor(text=[text], **media, return_tensors="pt"))


@torch.no_grad()
def features(folder: Path, pixels: torch.Tensor) -> torch.Tensor:
    out = loaded(folder).model.get_image_features(pixel_values=pixels, return_dict=True)
    return out.pooler_output


def test_there_and_back_nothing_is_lost(own: Path, authors: Path, tmp_path: Path) -> None:
    """Tensors to the bit, what transformers makes of the config, tokens, pixels, log-probs."""
    back = tmp_path / "back"
    report = convert(Request(authors, back))
    before, after = weights(own), weights(back)
    assert (report.format, report.notes) == ("internvl", [])
    assert len(list(authors.glob("model-*.safetensors"))) > 1
    assert report.read == len(tensors(authors)) < report.written == len(after)
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    one, other = loaded(own), loaded(back)
    told = [{**model.config.to_dict(), "_name_or_path": ""} for model in (one, other)]
    assert told[0] == told[1]
    given, again = inputs(own), inputs(back)
    assert given.keys() == again.keys() and len(given["pixel_values"]) > 6
    assert all(torch.equal(given[name], again[name]) for name in given)
    with torch.no_grad():
        assert torch.equal(one(**given).logits, other(**given).logits)
    name = "generation_config.json"
    assert (own / name).read_text() == (back / name).read_text()


def test_vllm_reads_what_is_written_and_sees_the_same(own: Path, authors: Path) -> None:
    from tests.internvl_chat import vllm_features

    pixels = torch.randn((3, 3, 56, 56), generator=torch.Generator().manual_seed(0))
    wanted = features(own, pixels)
    assert wanted.abs().max() > 0.01
    torch.testing.assert_close(vllm_features(authors, pixels), wanted, atol=1e-6, rtol=1e-5)


def test_what_the_authors_publish_is_the_same_model_afterwards(
    published: Path, tmp_path: Path
) -> None:
    """vLLM runs the directory as it was, transformers the converted one; no code of it is run."""
    from tests.internvl_chat import vllm_features

    own = tmp_path / "own"
    report = convert(Request(published, own))
    assert report.notes == ["its chat template takes no media: plain ChatML turns replace it"]
    assert not list(own.glob("*.py"))
    pixels = torch.randn((2, 3, 56, 56), generator=torch.Generator().manual_seed(0))
    wanted = vllm_features(published, pixels)
    torch.testing.assert_close(features(own, pixels), wanted, atol=1e-5, rtol=1e-5)
    model, given = loaded(own), inputs(own)
    with torch.no_grad():
        assert model(**given).logits.isfinite().all()
    rope = model.config.text_config.rope_parameters
    assert rope == {"rope_theta": 1e6, "rope_type": "dynamic", "factor": 2.0}
    assert model.config.image_seq_length == 4 and model.generation_config.eos_token_id == 2
    image = json.loads((own / "processor_config.json").read_text())["image_processor"]
    assert (image["min_patches"], image["max_patches"]) == (1, 6)
    convert(Request(own, tmp_path / "again", code=published))
    assert weights(tmp_path / "again").keys() == weights(published).keys()
    kept = ("llm_config", "vision_config")
    told, was = (
        json.loads((f / "config.json").read_text()) for f in (tmp_path / "again", published)
    )
    for name in kept:
        changed = {k for k in was[name].keys() & told[name].keys() if was[name][k] != told[name][k]}
        assert changed <= {"use_cache", "max_window_layers", "drop_path_rate"}
    alike = was.keys() & told.keys() - {*kept, "auto_map"}
    assert {k: was[k] for k in alike} == {k: told[k] for k in alike}
    assert (tmp_path / "again/modeling_internvl_chat.py").exists()


def test_a_video_has_a_token_with_an_embedding(tmp_path: Path, published: Path) -> None:
    """`<video>` where there is a row for it, else the one that Qwen's vocabulary has."""
    from transformers import AutoProcessor

    full = write_published(tmp_path / "full")
    for source, wanted in ((published, "<video>"), (full, "<|video_pad|>")):
        own = tmp_path / f"{source.name}-HF"
        convert(Request(source, own))
        processor = AutoProcessor.from_pretrained(own)
        rows = json.loads((own / "config.json").read_text())["text_config"]["vocab_size"]
        assert processor.video_token == wanted
        assert processor.tokenizer.convert_tokens_to_ids(wanted) < rows
        assert processor.apply_chat_template(CHAT).count(wanted) == 1


def test_names_of_modules_are_read_like_those_of_files(own: Path, tmp_path: Path) -> None:
    """As other programs write them."""
    other = Path(shutil.copytree(own, tmp_path / "modules"))
    state = {n: t for n, t in loaded(own).state_dict().items()}
    if json.loads((own / "config.json").read_text())["tie_word_embeddings"]:
        state["lm_head.weight"] = state["lm_head.weight"].clone()  # beside what it is tied to
    assert all(name.startswith(("model.", "lm_head.")) for name in state)
    save_file(state, other / "model.safetensors")
    convert(Request(other, tmp_path / "a"))
    convert(Request(own, tmp_path / "b"))
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def changed(source: Path, target: Path, change: dict[str, Any]) -> Path:
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    for name, value in change.items():
        section, _, key = name.rpartition(".")
        (config[section] if section else config)[key] = value
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"select_layer": -4}, "select_layer is -4: "),
        ({"ps_version": "v1"}, "v1 joins patches in another order"),
        ({"downsample_ratio": 0.25}, "join 2 x 2 patches"),
        ({"architectures": ["InternVideo"]}, "only InternVLChatModel is converted"),
        ({"llm_config.vocab_size": 5}, "<img>: has no row in an embedding of 5"),
        ({"pad2square": True}, "pads nothing"),
        ({"use_llm_lora": 16}, "merge the adapter"),
        ({"use_thumbnail": False}, "use_thumbnail is False"),
        ({"force_image_size": 28}, "interpolated"),
        ({"llm_config.quantization_config": {}}, "not quantized"),
        ({"llm_config.model_type": "internlm2"}, "'internlm2' .*: transformers has no class"),
        ({"llm_config.architectures": ["Qwen2MoeForCausalLM"]}, "its experts are not converted"),
        ({"llm_config.model_type": "phi3"}, "'phi3' .*: only Qwen2.5 and Qwen3"),
        ({"llm_config": None}, "config.json has no llm_config"),
        ({"vision_config.model_type": "siglip"}, "'siglip': transformers has no class"),
        ({"vision_config.use_moe": True}, "use_moe is True"),
        ({"vision_config.norm_type": "batch"}, "norm_type is 'batch'"),
        ({"vision_config.num_attention_heads": 3}, "3 heads do not share 64"),
        (
            {"vision_config.qk_normalization": True, "vision_config.layer_norm_eps": 1e-5},
            "of queries and keys transformers takes 1e-06",
        ),
    ],
)  # fmt: skip
def test_what_transformers_cannot_say_is_refused(published, tmp_path, change, reason):
    with pytest.raises(NotConvertible, match=reason):
        convert(Request(changed(published, tmp_path / "source", change), tmp_path / "made"))
    assert [f.name for f in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"vision_feature_layer": -2}, "vision_feature_layer is -2"),
        ({"projector_hidden_act": "relu"}, "projector_hidden_act is 'relu', not gelu"),
        ({"image_token_id": 7}, "image_token_id is 7, the tokenizer's 9"),
        ({"vision_config.use_mean_pooling": False}, "the authors' tower knows True alone"),
        ({"vision_config.image_size": [56, 28]}, "is square"),
        ({"model_type": "qwen3_vl"}, "is neither internvl_chat"),
    ],
)  # fmt: skip
def test_what_the_authors_cannot_say_is_refused(own, tmp_path, change, reason):
    with pytest.raises(ModelError, match=reason):
        convert(Request(changed(own, tmp_path / "source", change), tmp_path / "made"))
    assert [f.name for f in tmp_path.iterdir()] == ["source"]


def test_other_pixels_or_marks_than_the_authors_are_refused(own: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(own, tmp_path / "source"))
    for name, old, new in (
        ("processor_config.json", "0.485", "0.5"),
        ("tokenizer_config.json", '"</img>"', '"<|vision_end|>"'),
    ):
        (source / name).write_text((source / name).read_text().replace(old, new))
    with pytest.raises(NotConvertible) as told:
        convert(Request(source, tmp_path / "made", code=tmp_path))
    assert [re.split(" is |, the| has no", p)[0] for p in told.value.problems] == [
        "end_image_token",
        "image processor: image_mean",
        f"--code {tmp_path}:",
        f"--code {tmp_path}:",
    ]


def test_a_directory_without_its_marks_or_processor_is_refused(own, published, tmp_path) -> None:
    plain = Path(shutil.copytree(published, tmp_path / "plain"))
    for file in (plain / "tokenizer.json", plain / "tokenizer_config.json"):
        file.write_text(file.read_text().replace("<IMG_CONTEXT>", "<OTHER>"))
    with pytest.raises(NotConvertible, match="<IMG_CONTEXT>: is no token"):
        convert(Request(plain, tmp_path / "made"))
    bare = Path(shutil.copytree(own, tmp_path / "bare"))
    (bare / "processor_config.json").unlink()
    with pytest.raises(ModelError, match="the processor cannot be read"):
        convert(Request(bare, tmp_path / "made"))


def test_every_tensor_that_does_not_fit_is_named(published: Path, tmp_path: Path, capsys) -> None:
    """And the command line ends with 2, with 1 where the target is there, else with 0."""
    source = Path(shutil.copytree(published, tmp_path / "source"))
    state = load_file(source / "model.safetensors")
    qkv = "vision_model.encoder.layers.1.attn.qkv.weight"
    state[qkv] = state[qkv][:64].clone()
    state["mlp1.4.weight"] = state.pop("mlp1.3.weight")
    save_file(state, source / "model.safetensors")
    words = ["--from", str(source), "--to", str(tmp_path / "made")]
    assert convert_internvl.main(words) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[1:] == [
        "mlp1.3.weight: is not in the weights",
        f"{qkv}: 64 x 64 in the weights, 192 x 64 by config.json",
        "mlp1.4.weight: has no place",
    ]
    assert [f.name for f in tmp_path.iterdir()] == ["source"]
    words[1] = str(published)
    assert convert_internvl.main([*words, "--shard-gb", "0.0001"]) == 0
    said = capsys.readouterr().out
    assert "internvl: 73 tensors of 65\n" in said and str(tmp_path / "made") in said
    assert len(list((tmp_path / "made").glob("*.safetensors"))) > 2
    assert convert_internvl.main(words) == 1
    assert "exists: give a new directory" in capsys.readouterr().err


def test_heads_that_differ_from_what_is_said_are_refused(own: Path, tmp_path: Path) -> None:
    """A tied head that is another matrix; none where there should be one."""
    tied = json.loads((own / "config.json").read_text())["tie_word_embeddings"]
    source = Path(shutil.copytree(own, tmp_path / "source"))
    state, head = load_file(own / "model.safetensors"), "language_model.lm_head.weight"
    if tied:
        state[head] = state["language_model.model.embed_tokens.weight"] + 1
    else:
        del state[head]
    save_file(state, source / "model.safetensors")
    with pytest.raises(ModelError, match="another .*lm_head" if tied else "holds no lm_head"):
        convert(Request(source, tmp_path / "made"))


def test_what_is_interrupted_leaves_nothing(own, authors, tmp_path, monkeypatch) -> None:
    """In both directions, when all weights are written; the remains of a killed one are cleared."""
    target = tmp_path / "made"
    (tmp_path / "made.tmp").mkdir()
    (tmp_path / "made.tmp/config.json").write_text("{}")

    def interrupt(*args: Any) -> str:
        assert list((tmp_path / "made.tmp").glob("*.safetensors")) and not target.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "_template", interrupt)
    for source in (own, authors):
        with pytest.raises(KeyboardInterrupt):
            convert(Request(source, target))
        assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    convert(Request(own, target))
    with pytest.raises(RunError, match="exists"):
        convert(Request(own, target))
