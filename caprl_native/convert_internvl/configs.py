"""config.json in both formats. What only one of them can say is refused, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caprl_native.messages import shown

LANGUAGES = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
DOWNSAMPLE = 0.5  # one side of the patches that are joined, over that of the token
_NO_CLASS = "transformers has no class for its tower"
_WHY = {  # settings of the authors' that have to be so, and why
    "select_layer": (-1, "the trainer and the engine read the last block"),
    "ps_version": ("v2", "v1 joins patches in another order, which transformers does not know"),
    "downsample_ratio": (DOWNSAMPLE, "the trainer and the engine join 2 x 2 patches"),
    "pad2square": (False, "transformers' image processor pads nothing"),
    "use_backbone_lora": (0, "merge the adapter into the weights first"),
    "use_llm_lora": (0, "merge the adapter into the weights first"),
}
# What the authors' classes take where a config.json leaves it out.
_CHAT: dict[str, Any] = {
    "select_layer": -1, "ps_version": "v1", "downsample_ratio": 0.5, "pad2square": False,
    "use_thumbnail": False, "dynamic_image_size": False, "min_dynamic_patch": 1,
    "max_dynamic_patch": 6, "force_image_size": None, "use_backbone_lora": 0, "use_llm_lora": 0,
}  # fmt: skip
_VISION: dict[str, Any] = {
    "num_channels": 3, "patch_size": 14, "image_size": 224, "qkv_bias": False, "hidden_size": 3200,
    "num_attention_heads": 25, "intermediate_size": 12800, "qk_normalization": True,
    "num_hidden_layers": 48, "hidden_act": "gelu", "norm_type": "rms_norm", "layer_norm_eps": 1e-6,
    "dropout": 0.0, "attention_dropout": 0.0, "initializer_range": 0.02, "initializer_factor": 0.1,
}  # fmt: skip
_SAME = (  # of both towers
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "num_channels",
    "hidden_act", "norm_type", "layer_norm_eps", "attention_dropout", "initializer_range",
)  # fmt: skip
_RENAMED = {  # the authors' tower, and transformers'
    "qkv_bias": "attention_bias",
    "qk_normalization": "use_qk_norm",
    "dropout": "projection_dropout",
    "initializer_factor": "layer_scale_init_value",
}
_OWN = {  # of transformers' tower, which the authors' is alone
    "use_absolute_position_embeddings": True,
    "use_mask_token": False,
    "use_mean_pooling": True,
    "hidden_dropout_prob": 0.0,
}
QK_EPS = 1e-6  # of the norms of queries and keys, in transformers whatever a config says
MODEL = "InternVLChatModel"
CODE = {
    "AutoConfig": "configuration_internvl_chat.InternVLChatConfig",
    "AutoModel": "modeling_internvl_chat.InternVLChatModel",
    "AutoModelForCausalLM": "modeling_internvl_chat.InternVLChatModel",
}
TEMPLATE = "internvl2_5"  # of the authors' conversation.py, for 2.5, 3 and 3.5


def chat_problems(chat: Mapping[str, Any]) -> list[str]:
    """What keeps an authors' config.json from being converted."""
    for name in ("vision_config", "llm_config"):
        if not isinstance(chat.get(name), dict):
            return [f"config.json has no {name}"]
    told = _CHAT | dict(chat)
    found = [
        f"{name} is {shown(told[name])}: {why}"
        for name, (wanted, why) in _WHY.items()
        if told[name] != wanted
    ]
    if (named := chat.get("architectures") or [MODEL])[0] != MODEL:
        found.append(f"architectures is {shown(named)}: only {MODEL} is converted")
    if not told["use_thumbnail"] and told["dynamic_image_size"] and told["max_dynamic_patch"] > 1:
        found.append("use_thumbnail is False: transformers' image processor always adds one")
    tower, language = chat["vision_config"], chat["llm_config"]
    side = (_VISION | tower)["image_size"]
    if told["force_image_size"] not in (None, side):
        found.append(
            f"force_image_size is {told['force_image_size']}, the tower's image_size {side}: the "
            "positions would have to be interpolated"
        )
    if any("quantization_config" in section for section in (chat, tower, language)):
        found.append("quantization_config: take the weights that were not quantized")
    return found + _tower_problems(_VISION | tower) + _language_problems(language)


def _tower_problems(tower: Mapping[str, Any]) -> list[str]:
    """`tower` in the authors' words."""
    found = []
    if (kind := tower.get("model_type", "intern_vit_6b")) != "intern_vit_6b":
        found.append(f"vision_config: model_type is {shown(kind)}: {_NO_CLASS}")
    if tower.get("use_moe"):
        found.append(f"vision_config: use_moe is {shown(tower['use_moe'])}: {_NO_CLASS}")
    if tower["norm_type"] not in ("layer_norm", "rms_norm"):
        found.append(f"vision_config: norm_type is {shown(tower['norm_type'])}: {_NO_CLASS}")
    if tower["num_channels"] != 3:
        found.append(f"vision_config: num_channels is {tower['num_channels']}: the authors have 3")
    if tower["hidden_size"] % tower["num_attention_heads"]:
        found.append(
            f"vision_config: {tower['num_attention_heads']} heads do not share "
            f"{tower['hidden_size']} numbers evenly"
        )
    if tower["qk_normalization"] and tower["layer_norm_eps"] != QK_EPS:
        found.append(
            f"vision_config: layer_norm_eps is {tower['layer_norm_eps']}: of queries and keys "
            f"transformers takes {QK_EPS}"
        )
    return found


def _language_problems(language: Mapping[str, Any]) -> list[str]:
    named = language.get("architectures") or [None]
    kind, architecture = language.get("model_type"), named[0]
    if kind in LANGUAGES and architecture in (None, LANGUAGES[kind]):
        return []
    reason = "only Qwen2.5 and Qwen3 (qwen2, qwen3) are converted"
    if "moe" in f"{kind} {architecture}".lower() or kind == "gpt_oss":
        reason = f"its experts are not converted; {reason}"
    elif "internlm2" in f"{kind} {architecture}".lower():
        reason = f"transformers has no class for it; {reason}"
    return [f"llm_config: {shown(kind)} ({architecture}): {reason}"]


def tiles(chat: Mapping[str, Any]) -> tuple[int, int]:
    """The least and the most that an authors' config.json has an image cut into."""
    told = _CHAT | dict(chat)
    if not told["dynamic_image_size"]:
        return 1, 1
    return told["min_dynamic_patch"], told["max_dynamic_patch"]


def own_config(chat: Mapping[str, Any], image_token_id: int) -> Any:
    """transformers' config of an authors' config.json that has no problems."""
    from transformers import CONFIG_MAPPING, InternVLConfig

    tower, language = _VISION | chat["vision_config"], chat["llm_config"]
    side, patch = tower["image_size"], tower["patch_size"]
    vision = {name: tower[name] for name in _SAME}
    vision |= {other: tower[name] for name, other in _RENAMED.items()} | _OWN
    vision |= {"image_size": [side, side], "patch_size": [patch, patch]}
    kind = CONFIG_MAPPING[language["model_type"]]
    text = _known(language, kind) | {"model_type": language["model_type"], "use_cache": True}
    tied = bool(language.get("tie_word_embeddings", False))  # as Qwen's classes have it
    config = InternVLConfig(
        vision_config=vision,
        text_config=text | {"tie_word_embeddings": tied},
        image_token_id=image_token_id,
        image_seq_length=int((side // patch) ** 2 * DOWNSAMPLE**2),
        downsample_ratio=DOWNSAMPLE,
        tie_word_embeddings=tied,
    )
    config.architectures = ["InternVLForConditionalGeneration"]
    config.dtype = next((d for d in map(_dtype, (chat, language, tower)) if d), None)
    return config


def _known(language: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """The settings of a language model that its class reads."""
    from transformers import PreTrainedConfig

    names = kind().to_dict().keys() - PreTrainedConfig().to_dict().keys()
    names |= {"head_dim", "rope_theta", "rope_scaling"}  # which not all classes list
    found = {name: value for name, value in language.items() if name in names}
    if isinstance(found.get("rope_scaling"), dict):
        scaling = dict(found["rope_scaling"])
        scaling.setdefault("rope_type", scaling.pop("type", "default"))
        scaling.pop("type", None)
        found["rope_scaling"] = scaling
    return found


def _dtype(config: Mapping[str, Any]) -> Any:
    return config.get("dtype") or config.get("torch_dtype")


def own_problems(config: Any) -> list[str]:
    """What keeps transformers' config from being the authors'."""
    vision = config.vision_config
    found = [
        f"vision_config: {name} is {shown(value)}: the authors' tower knows {wanted} alone"
        for name, wanted in _OWN.items()
        if (value := getattr(vision, name)) != wanted
    ]
    for name in ("image_size", "patch_size"):
        if len({*getattr(vision, name)}) != 1:
            found.append(
                f"vision_config: {name} is {getattr(vision, name)}: the authors' is square"
            )
    if config.projector_hidden_act != "gelu":
        found.append(f"projector_hidden_act is {shown(config.projector_hidden_act)}, not gelu")
    if getattr(config, "quantization_config", None) is not None:
        found.append("quantization_config: take the weights that were not quantized")
    language = {"model_type": config.text_config.model_type}
    return found + _tower_problems(_authors_tower(vision)) + _language_problems(language)


def _authors_tower(vision: Any) -> dict[str, Any]:
    found = {name: getattr(vision, name) for name in _SAME}
    found |= {name: getattr(vision, other) for name, other in _RENAMED.items()}
    return found | {"image_size": vision.image_size[0], "patch_size": vision.patch_size[0]}


def chat_config(config: Any, cut: tuple[int, int]) -> dict[str, Any]:
    """The authors' config.json of a transformers config that has no problems; `cut`: the least and
    the most tiles of an image."""
    text, dtype = config.text_config, _dtype(config.to_dict())
    told = {"torch_dtype": dtype} if dtype else {}
    language = _known(text.to_dict(), type(text)) | _legacy_rope(text)
    language.pop("rope_parameters")
    side = config.vision_config.image_size[0]
    fixed = {name: value for name, (value, _) in _WHY.items()}
    return {
        "architectures": [MODEL],
        "auto_map": CODE,
        "model_type": "internvl_chat",
        **fixed,
        "dynamic_image_size": True,
        "force_image_size": side,
        "min_dynamic_patch": cut[0],
        "max_dynamic_patch": cut[1],
        "use_thumbnail": True,
        "template": TEMPLATE,
        "tie_word_embeddings": text.tie_word_embeddings,
        **told,
        "llm_config": {
            "architectures": [LANGUAGES[text.model_type]],
            "model_type": text.model_type,
            **language,
            **told,
        },
        "vision_config": {
            "architectures": ["InternVisionModel"],
            "auto_map": {
                "AutoConfig": "configuration_intern_vit.InternVisionConfig",
                "AutoModel": "modeling_intern_vit.InternVisionModel",
            },
            "model_type": "intern_vit_6b",
            **_authors_tower(config.vision_config),
            "drop_path_rate": 0.0,
            "use_flash_attn": True,
            **told,
        },
    }


def _legacy_rope(text: Any) -> dict[str, Any]:
    """The rotary embedding as the authors' code, of transformers 4, reads it."""
    rope = dict(text.rope_parameters)
    theta, kind = rope.pop("rope_theta"), rope.pop("rope_type", "default")
    scaling = None if kind == "default" else {"type": kind, "rope_type": kind, **rope}
    return {"rope_theta": theta, "rope_scaling": scaling}
