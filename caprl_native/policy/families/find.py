"""The family of a model directory, by the `model_type` of its config."""

from __future__ import annotations

from pathlib import Path

from caprl_native.messages import shown
from caprl_native.policy.families.base import FAMILIES, Family
from caprl_native.policy.model_check import ModelError, read_config

_OTHER_ATTENTION = (
    "another maker's: attention in windows, and of images both ways, is not computed here"
)
# Directories that somebody is likely to bring, and what to bring instead.
NEAREST = {
    "internvl_chat": "the same model in transformers' own format, whose name ends in -HF (its "
    "model_type is internvl), or make one of it with tools/convert_internvl.py",
    "interns1": "an InternVL directory whose name ends in -HF (model_type internvl)",
    "llava": "a LLaVA-OneVision directory (model_type llava_onevision)",
    "llava_next": "a LLaVA-OneVision directory (model_type llava_onevision)",
    "llava_next_video": "a LLaVA-OneVision directory (model_type llava_onevision)",
    "llava_qwen": "the same model in transformers' own format, converted with transformers' "
    "convert_llava_onevision_weights_to_hf.py (model_type llava_onevision)",
    "llava_onevision2": "a LLaVA-OneVision directory of the first version (model_type "
    "llava_onevision)",
    "qwen2_vl": "a Qwen2.5-VL directory (model_type qwen2_5_vl)",
    "qwen3_5_moe": "a dense Qwen3.5 directory (model_type qwen3_5), or Qwen3-VL-MoE's "
    "(qwen3_vl_moe)",
    "gemma3": _OTHER_ATTENTION,
    "gemma4": _OTHER_ATTENTION,
}


def family_of(path: str | Path, *, or_text: bool = False) -> Family:
    """The family of a model directory; `or_text`: any causal language model will do.

    Raises:
        ModelError: there is no usable `config.json`, or its `model_type` is not registered.
    """
    model_type = read_config(path).get("model_type")
    if isinstance(model_type, str) and model_type in FAMILIES:
        return FAMILIES[model_type].value
    file = Path(path) / "config.json"
    if isinstance(model_type, str) and model_type in NEAREST:
        raise ModelError(
            f"{file}: model_type {shown(model_type)} is not supported; use {NEAREST[model_type]}"
        )
    if isinstance(model_type, str) and or_text:
        from caprl_native.policy.families.text import Text

        return Text(model_type)
    raise ModelError(
        f"{file}: model_type {shown(model_type)} is not one of {', '.join(FAMILIES)}; a file that "
        "registers another is named in plugins"
    )
