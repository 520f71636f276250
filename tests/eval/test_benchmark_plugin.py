"""A benchmark is one file, wherever it lies: `--help` lists it, the config takes it, it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from caprl_native import registry
from caprl_native.config.cli import ConfigError, dump, load
from caprl_native.registry import load_plugin
from caprl_native.testing.chat_server import Reply, serve
from caprl_native.testing.media_files import write_png
from eval.benchmarks.base import BENCHMARKS
from eval.config import PrismConfig, chosen
from eval.plan import load_benchmarks
from eval.prism import main
from tests.ranks import ROOT

WEATHER = '''
"""Weather: is the sun in the picture?"""

from caprl_native.types import MediaRef
from eval.benchmarks.base import Benchmark, by_letter, registered
from eval.items import Item


@registered
class Weather(Benchmark):
    name, title, modality = "weather", "Weather", "image"

    def item(self, row, files):
        return Item(
            id=row.name,
            media=(MediaRef("image", files.medium(row.file, row.text("picture"))),),
            question="Is the sun there?",
            answer=row.text("sun"),
            choices=("yes", "no"),
            source=row.source,
        )

    def score(self, item, output, rule):
        return by_letter(item, output)
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The benchmark's file; what it registers is gone after the test."""
    list(BENCHMARKS)
    monkeypatch.setattr(BENCHMARKS, "_entries", dict(BENCHMARKS._entries))
    monkeypatch.setattr(registry, "PLUGINS", [])
    (tmp_path / "weather.py").write_text(WEATHER)
    yield tmp_path / "weather.py"
    sys.modules.pop("weather", None)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two items, of which the answer "A" has one right."""
    write_png(tmp_path / "a.png")
    rows = [{"picture": "a.png", "sun": answer} for answer in "AB"]
    (tmp_path / "weather.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return tmp_path / "weather.jsonl"


def test_help_lists_it_with_the_others(plugin):
    command = [sys.executable, str(ROOT / "tools/eval_prism.py"), "--help"]
    plain = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    command += ["--plugins", str(plugin)]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert "--benchmarks.weather.files" in found and "weather" not in plain
    blocks = [block for block in found.split("\n\n") if "[benchmarks.weather]" not in block]
    assert "\n\n".join(blocks).strip() == plain.strip()


def test_a_config_file_that_names_it_gives_it_files(plugin, data, tmp_path):
    (tmp_path / "prism.toml").write_text(
        f'plugins = ["{plugin}"]\n[benchmarks.weather]\nfiles = ["{data}"]\n'
    )
    config = load(PrismConfig, [tmp_path / "prism.toml"])
    assert isinstance(config, PrismConfig) and list(chosen(config)) == ["weather"]
    (loaded,) = load_benchmarks(config)
    assert [item.answer for item in loaded.items] == ["A", "B"] and not loaded.broken
    scores = [loaded.benchmark.score(item, "A", "official").score for item in loaded.items]
    assert scores == [1, 0]
    (tmp_path / "again.toml").write_text(dump(config))
    assert dump(load(PrismConfig, [tmp_path / "again.toml"])) == dump(config)


def test_it_runs_from_the_command_line(plugin, data, tmp_path):
    with serve(lambda request: Reply("A")) as server:
        models = [
            word
            for table in ("captioner", "reader")
            for word in (f"--{table}.endpoint={server.url}", f"--{table}.model=x")
        ]
        words = ["--plugins", str(plugin), "--benchmark", "weather", "--data-path", str(data)]
        assert main([*words, *models, "--out", str(tmp_path / "run"), "--run.progress=false"]) == 0
    lines = (tmp_path / "run/items.jsonl").read_text().splitlines()
    assert [json.loads(line)["benchmark"] for line in lines] == ["weather"] * 2
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert list(summary["benchmarks"]) == ["weather"]


def test_without_the_plugin_its_table_is_unknown(data):
    with pytest.raises(ConfigError, match="benchmarks.weather.files: unknown key; did you mean"):
        load(PrismConfig, [], [f'--benchmarks.weather.files=["{data}"]'])


def test_a_name_that_is_taken_is_refused(plugin):
    plugin.write_text(WEATHER.replace('"weather"', '"mmstar"'))
    with pytest.raises(ConfigError, match="the benchmark 'mmstar' is registered twice"):
        load(PrismConfig, [], [f'--plugins=["{plugin}"]'])


def test_a_config_that_was_made_before_has_no_table_for_it(plugin):
    config = PrismConfig()
    load_plugin(str(plugin))
    assert chosen(config) == {} and "weather" in BENCHMARKS
