"""The authors' InternVL for tests: a config class without their code, and a directory by hand.

Names, shapes and settings are those of a published model (InternVL3-1B), made smaller; nothing here
comes from the converter. vLLM reads such a directory with its own class.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from transformers import CONFIG_MAPPING, PreTrainedConfig

from caprl_native.testing.tiny_models import build_tokenizer

MARKS = {"start": "<img>", "end": "</img>", "context": "<IMG_CONTEXT>"}
PLAIN_TURNS = (  # as Qwen's: it adds a turn's content to a text
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' "
    "+ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
BLOCK = {
    "ls1": [64], "ls2": [64], "attn.qkv.weight": [192, 64], "attn.qkv.bias": [192],
    "attn.proj.weight": [64, 64], "attn.proj.bias": [64], "norm1.weight": [64],
    "norm1.bias": [64], "norm2.weight": [64], "norm2.bias": [64], "mlp.fc1.weight": [128, 64],
    "mlp.fc1.bias": [128], "mlp.fc2.weight": [64, 128], "mlp.fc2.bias": [64],
}  # fmt: skip
LAYER = {
    "self_attn.q_proj.weight": [64, 64], "self_attn.q_proj.bias": [64],
    "self_attn.k_proj.weight": [32, 64], "self_attn.k_proj.bias": [32],
    "self_attn.v_proj.weight": [32, 64], "self_attn.v_proj.bias": [32],
    "self_attn.o_proj.weight": [64, 64], "mlp.gate_proj.weight": [96, 64],
    "mlp.up_proj.weight": [96, 64], "mlp.down_proj.weight": [64, 96],
    "input_layernorm.weight": [64], "post_attention_layernorm.weight": [64],
}  # fmt: skip


class ChatConfig(PreTrainedConfig):
    """What vLLM asks of the authors' config class; that one is code of a directory."""

    model_type = "internvl_chat"
    has_no_defaults_at_init = True

    def __init__(self, vision_config: Any = None, llm_config: Any = None, **more: Any) -> None:
        self.vision_config = PreTrainedConfig(**(vision_config or {}))
        text = llm_config or {"model_type": "qwen2"}
        self.llm_config = CONFIG_MAPPING[text["model_type"]](**text)
        super().__init__(**more)


def write_published(path: Path, room: int = 0) -> Path:
    """A directory in the authors' format; `room`: rows of the embedding beyond the vocabulary."""
    tokenizer = build_tokenizer(["Frame", "image", "video"], MARKS)
    tokenizer.chat_template = PLAIN_TURNS
    tokenizer.save_pretrained(path)
    file = path / "tokenizer_config.json"
    told = json.loads(file.read_text())
    file.write_text(json.dumps({n: v for n, v in told.items() if n not in MARKS}))
    size = len(tokenizer) + room
    shapes = {
        "vision_model.embeddings.class_embedding": [1, 1, 64],
        "vision_model.embeddings.position_embedding": [1, 17, 64],
        "vision_model.embeddings.patch_embedding.weight": [64, 3, 14, 14],
        "vision_model.embeddings.patch_embedding.bias": [64],
        **{f"vision_model.encoder.layers.{i}.{n}": s for i in (0, 1) for n, s in BLOCK.items()},
        "mlp1.0.weight": [256], "mlp1.0.bias": [256], "mlp1.1.weight": [64, 256],
        "mlp1.1.bias": [64], "mlp1.3.weight": [64, 64], "mlp1.3.bias": [64],
        "language_model.model.embed_tokens.weight": [size, 64],
        **{f"language_model.model.layers.{i}.{n}": s for i in (0, 1) for n, s in LAYER.items()},
        "language_model.model.norm.weight": [64],
        "language_model.lm_head.weight": [size, 64],
    }  # fmt: skip
    draw = torch.Generator().manual_seed(0)
    weights = {n: 0.1 * torch.randn(s, generator=draw) for n, s in shapes.items()}
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text(json.dumps(_config(size, tokenizer.eos_token_id)))
    (path / "modeling_internvl_chat.py").write_text("raise SystemExit('this code was run')\n")
    (path / "configuration_internvl_chat.py").write_text("raise SystemExit('this code was run')\n")
    return path


def _config(vocabulary: int, end: int) -> dict[str, Any]:
    return {
        "architectures": ["InternVLChatModel"],
        "auto_map": {
            "AutoConfig": "configuration_internvl_chat.InternVLChatConfig",
            "AutoModel": "modeling_internvl_chat.InternVLChatModel",
        },
        "downsample_ratio": 0.5, "dynamic_image_size": True, "force_image_size": 56,
        "hidden_size": 64, "image_fold": None, "max_dynamic_patch": 6, "min_dynamic_patch": 1,
        "model_type": "internvl_chat", "output_attentions": False, "pad2square": False,
        "ps_version": "v2", "select_layer": -1, "template": "internvl2_5",
        "tie_word_embeddings": False, "torch_dtype": "float32", "transformers_version": None,
        "use_backbone_lora": 0, "use_llm_lora": 0, "use_thumbnail": True,
        "llm_config": {
            "_name_or_path": "./pretrained/Qwen2.5-0.5B", "architectures": ["Qwen2ForCausalLM"],
            "attention_dropout": 0.0, "bos_token_id": None, "eos_token_id": end,
            "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02,
            "intermediate_size": 96, "max_position_embeddings": 32768, "max_window_layers": 70,
            "model_type": "qwen2", "moe_config": None, "num_attention_heads": 2,
            "num_hidden_layers": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-6,
            "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
            "rope_theta": 1000000.0, "sliding_window": None, "torch_dtype": "float32",
            "use_bfloat16": True, "use_cache": False, "use_sliding_window": False,
            "vocab_size": vocabulary,
        },
        "vision_config": {
            "architectures": ["InternVisionModel"], "attention_dropout": 0.0,
            "capacity_factor": 1.2, "drop_path_rate": 0.1, "dropout": 0.0, "hidden_act": "gelu",
            "hidden_size": 64, "image_size": 56, "initializer_factor": 0.1,
            "initializer_range": 1e-10, "intermediate_size": 128, "layer_norm_eps": 1e-6,
            "model_type": "intern_vit_6b", "norm_type": "layer_norm", "num_attention_heads": 2,
            "num_channels": 3, "num_experts": 8, "num_hidden_layers": 2, "patch_size": 14,
            "qk_normalization": False, "qkv_bias": True, "torch_dtype": "float32",
            "use_flash_attn": True, "use_moe": False,
        },
    }  # fmt: skip


def vllm_features(path: Path, pixels: torch.Tensor) -> torch.Tensor:
    """What vLLM's own class computes of tiles, from a directory in the authors' format; it raises
    where a tensor is missing, unknown or of another shape. In a process group of one."""
    from transformers import AutoConfig
    from vllm.config import set_current_vllm_config
    from vllm.distributed import (
        destroy_distributed_environment,
        destroy_model_parallel,
        ensure_model_parallel_initialized,
        init_distributed_environment,
    )
    from vllm.engine.arg_utils import EngineArgs
    from vllm.forward_context import set_forward_context
    from vllm.model_executor.model_loader import get_model
    from vllm.model_executor.models.internvl import InternVLChatModel

    AutoConfig.register("internvl_chat", ChatConfig, exist_ok=True)
    args = EngineArgs(str(path), dtype="float32", max_model_len=512, enforce_eager=True)
    config = args.create_engine_config()
    with set_current_vllm_config(config):
        meeting = f"file://{path}.{os.getpid()}.group"
        init_distributed_environment(1, 0, meeting, 0, "gloo")
        ensure_model_parallel_initialized(1, 1)
        try:
            with ExitStack() as patched:
                if not torch.accelerator.is_available():  # as vLLM's worker has it on a CPU
                    none = patch.object(torch.accelerator, "empty_cache", lambda: None)
                    patched.enter_context(none)
                model = get_model(vllm_config=config)
            assert isinstance(model, InternVLChatModel)
            with torch.no_grad(), set_forward_context(None, config):
                pixels = pixels.to(next(model.parameters()).device)
                features: torch.Tensor = model.extract_feature(pixels)
                return features.cpu()
        finally:
            destroy_model_parallel()
            destroy_distributed_environment()
