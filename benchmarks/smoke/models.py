"""The model that the parts share: random weights in Qwen3-VL-2B's shapes, tiny on a CPU."""

from __future__ import annotations

import fcntl
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig

from caprl_native.testing.tiny_models import write_tiny_vlm
from smoke.findings import Options

TEXT = dict(
    hidden_size=2048, intermediate_size=6144, num_hidden_layers=28, num_attention_heads=16,
    num_key_value_heads=8, head_dim=128, vocab_size=151_936,
)  # fmt: skip
VISION = dict(
    depth=24, hidden_size=1024, intermediate_size=4096, num_heads=16, out_hidden_size=2048,
    num_position_embeddings=2304, deepstack_visual_indexes=[5, 11, 17],
)  # fmt: skip
ROTARY = {"mrope_section": [24, 20, 20], "rope_theta": 5e6}
# Of the final norm: logits are then as large as a trained model's, and bfloat16 as coarse there.
LOUDNESS = 4.0


def write_model(folder: str | Path, *, layers: int = 28, depth: int = 24) -> Path:
    """Qwen3-VL-2B's shapes, with the tiny models' tokenizer and processors, in bfloat16; made on
    the GPU if there is one. With other numbers of layers and vision blocks, its widths alone."""
    write_tiny_vlm(folder)
    config = AutoConfig.from_pretrained(folder)
    taps = [i for i in VISION["deepstack_visual_indexes"] if i < depth] or [0]
    shapes = (
        (config.text_config, TEXT | {"num_hidden_layers": layers}),
        (config.vision_config, VISION | {"depth": depth, "deepstack_visual_indexes": taps}),
    )
    for part, values in shapes:
        for name, value in values.items():
            setattr(part, name, value)
    config.text_config.rope_parameters |= ROTARY
    Path(folder, "model.safetensors").unlink()
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        model.model.language_model.norm.weight.fill_(LOUDNESS)
    ends = GenerationConfig.from_pretrained(folder).eos_token_id
    model.generation_config.update(eos_token_id=ends)
    model.save_pretrained(folder)
    return Path(folder)


def shared_model(options: Options) -> str:
    """The folder of the model that updates and engines use; the first part to ask writes it."""
    folder, done = options.scratch / "model", options.scratch / "model.done"
    with (options.scratch / "model.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():  # else it is there, or a part was killed while it wrote
            write_tiny_vlm(folder) if options.cpu else write_model(folder)
            done.touch()
    return str(folder)
