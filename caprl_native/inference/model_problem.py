"""What is wrong with a model's table of settings, before anything is started."""

from __future__ import annotations

from pathlib import Path

from caprl_native.config.models import ModelConfig
from caprl_native.inference.endpoint import key_problem, settings_problem
from caprl_native.policy.model_check import ModelError, check_directory


def model_problem(table: str, model: ModelConfig, *, sees: bool) -> tuple[str, str] | None:
    """The key that cannot be meant, and why; None where the table can be used, or is empty.

    `sees`: the model is shown media, so that its directory needs a processor.
    """
    if model.path and model.endpoint:
        return f"{table}.endpoint", f"{table}.path is set, too; give one of them"
    if model.endpoint and not model.model:
        return f"{table}.model", f"{table}.endpoint needs the name of its model"
    if model.path and not (Path(model.path) / "config.json").is_file():
        why = f"{model.path} is no Hugging Face model directory: no config.json"
        return f"{table}.path", why
    try:
        if model.path:
            check_directory(model.path, processor=sees)
    except ModelError as error:
        return f"{table}.path", str(error)
    if problem := settings_problem(model) or key_problem(model):
        return f"{table}.{problem[0]}", problem[1]
    return None
