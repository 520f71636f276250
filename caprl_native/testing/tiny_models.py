"""Tiny models with random weights, written as complete Hugging Face directories.

The demo's policy and reader start from these, and the tests run the real engine on them. Every
word is one token; words that are not in the vocabulary become `<unk>`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from caprl_native.policy.families import FAMILIES

PAD, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
SPECIAL = (PAD, IM_START, IM_END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD)
UNKNOWN = "<unk>"

# A time stamp such as [00:02] is one token; so are labels such as A), digits, line breaks.
_PIECE = r"\[\d+:\d\d\]|\b[A-Z]\)|\d|[^\W\d]+|\n|[^\w\s]"
_ALWAYS = ["\n", *"0123456789.,:;?!()<>[]-/'\"", "system", "user", "assistant", "seconds"]
_WORDS = [
    "A",
    "B",
    "C",
    "D",
    "E",
    "F",
    "G",
    "H",
    "I",
    "J",
    "K",
    "L",
    "M",
    "N",
    "O",
    "P",
    "Q",
    "R",
    "S",
    "T",
    "U",
    "V",
    "W",
    "X",
    "Y",
    "Z",
    "a",
    "an",
    "the",
    "The",
    "is",
    "it",
    "of",
    "in",
    "on",
    "and",
    "Describe",
    "picture",
    "image",
    "video",
    "caption",
    "Caption",
    "Question",
    "question",
    "Answer",
    "answer",
    "What",
    "Which",
    "[00:00]",
    "[00:01]",
    "[00:02]",
    "[00:03]",
    "[00:04]",
    "[00:05]",
    "[00:06]",
    "[00:07]",
    "[00:08]",
    "[00:09]",
]

_TEMPLATE = """{%- for m in messages -%}
<|im_start|>{{ m.role }}
{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content -%}
{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'video' -%}%VIDEO%
{%- else -%}{{ part.text }}{%- endif -%}
{%- endfor %}{% endif %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""

Family = Literal["qwen3_vl", "qwen3_vl_moe", "qwen2_5_vl"]


def pieces(text: str) -> list[str]:
    """The tokens of `text`, as strings."""
    return re.findall(_PIECE, text)


def build_tokenizer(
    vocab_words: Iterable[str] = (),
    marks: Mapping[str, str] | None = None,
    late: Mapping[str, str] | None = None,
) -> PreTrainedTokenizerFast:
    """A word-level tokenizer; `vocab_words` may be whole texts, they are cut into words here.

    `marks`: further special tokens, by the names that the tokenizer has them under; `late`: more of
    them, after all words.
    """
    marks, late = marks or {}, late or {}
    special = (*SPECIAL, *marks.values())
    words = dict.fromkeys([*_ALWAYS, *_WORDS, *(p for text in vocab_words for p in pieces(text))])
    vocab = {token: i for i, token in enumerate([*special, UNKNOWN, *words, *late.values()])}
    backend = Tokenizer(WordLevel(vocab, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECE), behavior="isolated"),
            pre_tokenizers.Split(Regex(r"[^\S\n]+"), behavior="removed"),
        ]
    )
    # Words get a space before them; punctuation that closes does not, nor what follows an opening.
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace(Regex(r"^(?=[^\s.,:;?!)\]>])"), " "),
            decoders.Fuse(),
            decoders.Replace(Regex(r"(?<=[\n(<]) |^ "), ""),
        ]
    )
    special += tuple(late.values())
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=IM_END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
        **({"extra_special_tokens": named} if (named := {**marks, **late}) else {}),
    )


def chat_template(family: Family | None = None) -> str:
    """ChatML; a video's placeholder is bare in Qwen3-VL, whose processor brackets every frame."""
    bare = "<|vision_start|><|video_pad|><|vision_end|>"
    return _TEMPLATE.replace("%VIDEO%", bare if family else "")


def _mrope(head_dim: int, theta: float, interleaved: bool) -> dict[str, Any]:
    side = head_dim // 6
    return {
        "rope_type": "default",
        "rope_theta": theta,
        "mrope_section": [head_dim // 2 - 2 * side, side, side],
        "mrope_interleaved": interleaved,  # read by vLLM alone
    }


def _vlm_config(
    family: Family,
    vocab: dict[str, int],
    hidden: int,
    layers: int,
    vision: int,
    init: float,
    vocab_size: int,
) -> Any:
    """The config of a family; heads of 32, vision blocks that two ranks can share."""
    from transformers import Qwen2_5_VLConfig, Qwen3VLConfig, Qwen3VLMoeConfig

    heads = hidden // 32
    text = dict(
        vocab_size=max(vocab_size, len(vocab)), hidden_size=hidden, intermediate_size=hidden * 2,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads,
        max_position_embeddings=32768, rope_parameters=_mrope(32, 10000.0, _is_3(family)),
        rms_norm_eps=1e-6, bos_token_id=None, eos_token_id=vocab[IM_END], pad_token_id=vocab[PAD],
        initializer_range=init,
    )  # fmt: skip
    tower: dict[str, Any] = dict(
        depth=3, hidden_size=vision, intermediate_size=vision * 2, num_heads=max(vision // 32, 1),
        out_hidden_size=hidden, spatial_merge_size=2, temporal_patch_size=2, initializer_range=init,
    )  # fmt: skip
    ids = dict(
        image_token_id=vocab[IMAGE_PAD],
        video_token_id=vocab[VIDEO_PAD],
        vision_start_token_id=vocab[VISION_START],
        vision_end_token_id=vocab[VISION_END],
        tie_word_embeddings=True,
    )
    if _is_3(family):
        text |= dict(head_dim=32)
        tower |= dict(patch_size=16, num_position_embeddings=64, deepstack_visual_indexes=[0, 1])
    if family == "qwen3_vl":
        return Qwen3VLConfig(text_config=text, vision_config=tower, **ids)
    if family == "qwen3_vl_moe":  # as published: its head is not tied, and weights add up to 1
        text |= dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=hidden * 3 // 4)
        text |= dict(norm_topk_prob=True, tie_word_embeddings=False)
        ids["tie_word_embeddings"] = False
        return Qwen3VLMoeConfig(text_config=text, vision_config=tower, **ids)
    tower |= dict(patch_size=14, window_size=112, fullatt_block_indexes=[1], tokens_per_second=2)
    return Qwen2_5_VLConfig(text_config=text, vision_config=tower, **ids)


def _is_3(family: str) -> bool:
    """Whether tower, processors and positions are Qwen3-VL's."""
    return family.startswith("qwen3_vl")


def _balance_vision(visual: Any) -> None:
    """Makes patches and their positions equally loud.

    As drawn, 1,500 pixels shout down a position of the same small weights: captions named every
    colour after 1,200 steps, and no place.
    """
    patches = visual.patch_embed.proj.weight
    torch.nn.init.normal_(patches, std=patches[0].numel() ** -0.5)
    if hasattr(visual, "pos_embed"):
        torch.nn.init.normal_(visual.pos_embed.weight, std=0.5)


def write_processor(path: Path, family: Family, tokenizer: PreTrainedTokenizerFast) -> None:
    from transformers import (
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    patch = 16 if _is_3(family) else 14
    side: dict[str, Any] = dict(patch_size=patch, merge_size=2, temporal_patch_size=2)
    least, most = (2 * patch) ** 2, (2 * patch) ** 2 * 1024
    size = {"shortest_edge": least, "longest_edge": most}
    if _is_3(family):  # vLLM normalises videos with the image processor's numbers
        side |= dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    image = Qwen2VLImageProcessor(size=size, **side)
    if _is_3(family):
        video = Qwen3VLVideoProcessor(
            size={"shortest_edge": least, "longest_edge": most * 16}, **side
        )
        processor: Any = Qwen3VLProcessor(
            image, tokenizer, video, chat_template=chat_template(family)
        )
    else:
        video = Qwen2VLVideoProcessor(size=size, **side)
        processor = Qwen2_5_VLProcessor(
            image, tokenizer, video, chat_template=chat_template(family)
        )
    tokenizer.chat_template = chat_template(family)
    processor.save_pretrained(path)
    # The engine and older readers of such directories look for these two files.
    image.save_pretrained(path)
    (path / "video_preprocessor_config.json").write_text(
        json.dumps({**video.to_dict(), "video_processor_type": type(video).__name__}, indent=2)
    )


def finish(model: Any, path: Path, vocab: dict[str, int]) -> None:
    model.generation_config.update(
        eos_token_id=[vocab[IM_END], vocab[PAD]], pad_token_id=vocab[PAD], bos_token_id=None
    )
    kind = model.config.model_type
    family = FAMILIES[kind].value if kind in FAMILIES else None  # readers are of none
    if family is None or not family.stores_otherwise:
        model.save_pretrained(path)
        return
    stored = {
        family.stored_name(n): family.as_stored(n, p).contiguous()
        for n, p in model.state_dict().items()
    }
    model.save_pretrained(path, state_dict=stored, save_original_format=False)


def write_tiny_vlm(
    path: str | Path,
    family: Family = "qwen3_vl",
    vocab_words: Iterable[str] = (),
    seed: int = 0,
    hidden: int = 128,
    layers: int = 4,
    vision: int = 128,
    init: float = 0.02,
    vocab_size: int = 0,
) -> Path:
    """Writes a random vision-language model of the family, with processors; returns its folder.

    `init`: standard deviation of the weights; models this narrow learn faster from 0.06.
    `vocab_size`: of the embedding, where it is to be larger than the tokenizer's.
    """
    from transformers import (
        Qwen2_5_VLForConditionalGeneration,
        Qwen3VLForConditionalGeneration,
        Qwen3VLMoeForConditionalGeneration,
    )

    path = Path(path)
    tokenizer = build_tokenizer(vocab_words)
    vocab = tokenizer.get_vocab()
    config = _vlm_config(family, vocab, hidden, layers, vision, init, vocab_size)
    classes = {
        "qwen3_vl": Qwen3VLForConditionalGeneration,
        "qwen3_vl_moe": Qwen3VLMoeForConditionalGeneration,
        "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = classes[family](config)
        _balance_vision(model.model.visual)
    write_processor(path, family, tokenizer)
    finish(model, path, vocab)
    return path


def write_tiny_reader(
    path: str | Path,
    vocab_words: Iterable[str] = (),
    seed: int = 0,
    hidden: int = 128,
    layers: int = 4,
    init: float = 0.02,
) -> Path:
    """Writes a random text-only Qwen3 that knows the reader prompt's words; returns its folder."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from caprl_native.rewards import prompts

    path = Path(path)
    asked = [prompts.SYSTEM, prompts.INSTRUCTION, prompts.CANNOT_ANSWER, prompts.ANSWER_PREFIX]
    asked.append(" ".join(f"{letter})" for letter in prompts.LETTERS))
    tokenizer = build_tokenizer([*asked, *prompts.CAPTION_OF.values(), *vocab_words])
    tokenizer.chat_template = chat_template()
    vocab = tokenizer.get_vocab()
    heads = hidden // 32
    config = Qwen3Config(
        vocab_size=len(vocab), hidden_size=hidden, intermediate_size=hidden * 2,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads,
        head_dim=32, max_position_embeddings=4096, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=None, eos_token_id=vocab[IM_END], pad_token_id=vocab[PAD],
        initializer_range=init,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    tokenizer.save_pretrained(path)
    finish(model, path, vocab)
    return path


def write_tiny_language(
    path: str | Path, vlm: str | Path, seed: int = 0, init: float = 0.02
) -> Path:
    """Writes a random text-only model that fits the language part of the model `vlm` (Qwen3-VL or
    Qwen2.5-VL), with its tokenizer; returns its folder."""
    from transformers import (
        AutoConfig,
        AutoTokenizer,
        Qwen2Config,
        Qwen2ForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    path, whole = Path(path), AutoConfig.from_pretrained(vlm)
    text = whole.get_text_config()
    names = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "rms_norm_eps",
        "num_attention_heads", "num_key_value_heads", "max_position_embeddings", "hidden_act",
    )  # fmt: skip
    theta = text.rope_parameters["rope_theta"]
    given: dict[str, Any] = {name: getattr(text, name) for name in names} | dict(
        tie_word_embeddings=whole.tie_word_embeddings, initializer_range=init,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        bos_token_id=None, eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(vlm)
    tokenizer.chat_template = chat_template()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if _is_3(whole.model_type):
            model: Any = Qwen3ForCausalLM(Qwen3Config(**given, head_dim=text.head_dim))
        else:
            model = Qwen2ForCausalLM(Qwen2Config(**given))
    tokenizer.save_pretrained(path)
    finish(model, path, tokenizer.get_vocab())
    return path
