"""The family of a model directory, by the `model_type` of its config."""

from __future__ import annotations

from pathlib import Path

from caprl_native.messages import shown
from caprl_native.policy.families.base import FAMILIES, Family
from caprl_native.policy.model_check import ModelError, read_config


def family_of(path: str | Path, *, or_text: bool = False) -> Family:
    """The family of a model directory; `or_text`: any causal language model will do.

    Raises:
        ModelError: there is no usable `config.json`, or its `model_type` is not registered.
    """
    model_type = read_config(path).get("model_type")
    if isinstance(model_type, str) and model_type in FAMILIES:
        return FAMILIES[model_type].value
    if isinstance(model_type, str) and or_text:
        from caprl_native.policy.families.text import Text

        return Text(model_type)
    file = Path(path) / "config.json"
    raise ModelError(
        f"{file}: model_type {shown(model_type)} is not one of {', '.join(FAMILIES)}; a file that "
        "registers another is named in plugins"
    )
