"""Tiny random models of every family with a tower, as complete Hugging Face directories."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from caprl_native.convert_internvl.chat import turns
from caprl_native.testing.tiny_models import (
    IM_END,
    IMAGE_PAD,
    PAD,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
    build_tokenizer,
    finish,
    write_processor,
    write_tiny_vlm,
)

HIDDEN, LAYERS, TOWER = 64, 2, 64


def _text(vocab: dict[str, int], **more: Any) -> dict[str, Any]:
    """The language model's part of a config: heads of 32."""
    own: dict[str, Any] = dict(
        vocab_size=len(vocab), hidden_size=HIDDEN, intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS, num_attention_heads=HIDDEN // 32,
        num_key_value_heads=HIDDEN // 32, head_dim=32, max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, rms_norm_eps=1e-6,
        bos_token_id=None, eos_token_id=vocab[IM_END], pad_token_id=vocab[PAD],
        tie_word_embeddings=False,
    )  # fmt: skip
    return own | more


def _shake(model: torch.nn.Module) -> None:
    """Small random numbers where a new model has zeros (positions, biases, class tokens), so that
    what is left out of a sum shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)


def write_internvl(
    path: Path, seed: int = 0, text: str = "qwen3", tied: bool = False, **tower: Any
) -> Path:
    """Tiles of 56 x 56 pixels, 4 tokens each; the video's mark, which was added to the tokenizer
    alone, has no embedding. `tower`: settings of another one."""
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    marks = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
    }
    tokenizer = build_tokenizer(["Frame"], marks, {"video_token": "<video>"})
    vocab = tokenizer.get_vocab()
    del vocab["<video>"]  # which is the last
    vision = dict(
        hidden_size=TOWER, num_hidden_layers=LAYERS, num_attention_heads=TOWER // 32,
        intermediate_size=2 * TOWER, image_size=[56, 56], patch_size=[14, 14], attention_bias=True,
    )  # fmt: skip
    config = InternVLConfig(
        vision_config=vision | tower,
        text_config=_text(vocab, model_type=text, tie_word_embeddings=tied),
        image_token_id=vocab["<IMG_CONTEXT>"],
        image_seq_length=4,
        tie_word_embeddings=tied,
    )
    pixels = dict(
        size={"height": 56, "width": 56},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    template = turns("<IMG_CONTEXT>", "<video>")
    tokenizer.chat_template = template
    image, video = GotOcr2ImageProcessor(**pixels), InternVLVideoProcessor(**pixels)
    processor = InternVLProcessor(
        image, tokenizer, video, image_seq_length=4, chat_template=template
    )
    processor.save_pretrained(path)
    _write(InternVLForConditionalGeneration, config, path, vocab, seed)
    return path


def write_llava_onevision(path: Path, seed: int = 0) -> Path:
    """Tiles of 56 x 56 pixels, 16 features each, in grids of up to 3 x 3."""
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    marks = {"image_token": "<image>", "video_token": "<video>"}
    tokenizer = build_tokenizer((), marks)
    vocab = tokenizer.get_vocab()
    grids = [[56 * i, 56 * j] for i in (1, 2, 3) for j in (1, 2, 3)]
    config = LlavaOnevisionConfig(
        vision_config=dict(
            model_type="siglip_vision_model", hidden_size=TOWER, intermediate_size=2 * TOWER,
            num_hidden_layers=LAYERS, num_attention_heads=TOWER // 32, image_size=56, patch_size=14,
            vision_use_head=False,
        ),
        text_config=_text(vocab, model_type="qwen2"),
        image_token_index=vocab["<image>"],
        video_token_index=vocab["<video>"],
        image_grid_pinpoints=grids,
        tie_word_embeddings=False,
    )  # fmt: skip
    pixels: dict[str, Any] = dict(size={"height": 56, "width": 56})
    template = turns("<image>", "<video>")
    tokenizer.chat_template = template
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(image_grid_pinpoints=grids, **pixels),
        tokenizer,
        LlavaOnevisionVideoProcessor(**pixels),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=template,
    )
    processor.save_pretrained(path)
    _write(LlavaOnevisionForConditionalGeneration, config, path, vocab, seed)
    return path


def write_qwen3_5(path: Path, seed: int = 0) -> Path:
    """Three linear language layers and one with attention."""
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    tokenizer = build_tokenizer()
    vocab = tokenizer.get_vocab()
    text = _text(vocab) | dict(
        num_hidden_layers=4, linear_num_key_heads=2, linear_num_value_heads=4,
        linear_key_head_dim=128, linear_value_head_dim=128,  # vLLM for CPUs knows no 32
        rope_parameters={
            "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
            "mrope_section": [4, 4, 4], "mrope_interleaved": True,
        },
    )  # fmt: skip
    config = Qwen3_5Config(
        text_config=text,
        vision_config=dict(
            depth=LAYERS, hidden_size=TOWER, intermediate_size=2 * TOWER, num_heads=TOWER // 32,
            out_hidden_size=HIDDEN, patch_size=16, num_position_embeddings=64,
        ),
        image_token_id=vocab[IMAGE_PAD],
        video_token_id=vocab[VIDEO_PAD],
        vision_start_token_id=vocab[VISION_START],
        vision_end_token_id=vocab[VISION_END],
        tie_word_embeddings=False,
    )  # fmt: skip
    write_processor(path, "qwen3_vl", tokenizer)
    _write(Qwen3_5ForConditionalGeneration, config, path, vocab, seed)
    return path


def _write(kind: Any, config: Any, path: Path, vocab: dict[str, int], seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config)
        _shake(model)
    finish(model, path, vocab)


def _qwen(kind: Any) -> Callable[[Path], Path]:
    return lambda path: write_tiny_vlm(path, kind)


WRITERS: dict[str, Callable[[Path], Path]] = {
    "qwen3_vl": _qwen("qwen3_vl"),
    "qwen2_5_vl": _qwen("qwen2_5_vl"),
    "qwen3_vl_moe": _qwen("qwen3_vl_moe"),
    "internvl": write_internvl,
    "llava_onevision": write_llava_onevision,
    "qwen3_5": write_qwen3_5,
}
"""A model's directory, written into the folder that is given, by `model_type`."""
