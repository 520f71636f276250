"""What the documents name is there: files, settings, commands."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from pydantic import BaseModel

from caprl_native.captioning.config import CaptionConfig
from caprl_native.config.cli import load
from caprl_native.config.schema import Config, SftConfig
from caprl_native.curation.config import CurationConfig
from caprl_native.rewards.service.config import ServiceConfig
from eval.config import PrismConfig
from tests.document_commands import DOCUMENTS

ROOT = Path(__file__).parent.parent
PACKAGES = [ROOT, ROOT / "caprl_native", ROOT / "eval"]
FOLDERS = {p.name for root in PACKAGES for p in root.iterdir() if p.is_dir()} - {"outputs"}
# Settings whose table's type decides on them; CapRL++'s own; names that only look like settings.
FREE = re.compile(
    r"(reward\.terms|algorithm\.(loss|advantage|kl|corrections))\..*"
    r"|data\.(input_type|prompt_key|val_files|caption_log_dir|record_formats)"
    r"|.*\.(py|toml|jsonl?|parquet|md|html)"
)


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted names of tables and settings."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation, f"{prefix}{name}.")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_of_the_project_that_a_document_names_exist(document):
    path = r"[`(]((?:[\w-]+/)+[\w-]+\.(?:py|md|toml|sh|txt|png))\b"
    named = sorted(set(re.findall(path, document.read_text())))
    ours = [name for name in named if name.split("/")[0] in FOLDERS and "/NAME." not in name]
    near = [document.parent, *PACKAGES]
    missing = [name for name in ours if not any((folder / name).exists() for folder in near)]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_settings_that_a_document_names_exist(document):
    known = {
        key
        for model in (
            Config,
            SftConfig,
            PrismConfig,
            ServiceConfig,
            CaptionConfig,
            CurationConfig,
        )  # fmt: skip
        for key in keys(model)
    }
    tables = {key.split(".")[0] for key in known if "." in key}
    named = re.findall(r"`(?:--)?([a-z]+\.[a-z_0-9.]*[a-z_0-9])\b", document.read_text())
    ours = {name for name in named if name.split(".")[0] in tables}
    assert {name for name in ours if name not in known and not FREE.fullmatch(name)} == set()


def test_the_command_of_contributing_is_one_that_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "CONTRIBUTING.md").read_text()
    shown = re.search(r"python -m caprl_native\.train --config (.*?)\n```", text, re.DOTALL)
    assert shown
    recipe, *words = shown[1].replace("\\\n", " ").split()
    config = load(Config, [recipe], [word for word in words if word != "--dry-run"])
    assert isinstance(config, Config)
    assert {"accuracy", "colours"} <= set(config.reward.terms)
    assert config.algorithm.loss.type == "custom"


def test_the_console_scripts_are_functions():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(scripts) >= {"caprl-train", "caprl-sft", "caprl-eval", "caprl-caption"}
    for target in scripts.values():
        module, _, name = target.partition(":")
        assert callable(getattr(import_module(module), name))
