"""The command line of S2D, and what becomes of its child processes; no stage runs."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from caprl_native import s2d
from caprl_native.config.cli import ConfigError, load
from caprl_native.config.s2d import S2dConfig
from caprl_native.distributed.children import STORE_PREFIX, rendezvous
from tests.config.conftest import MINIMAL
from tests.ranks import ROOT

RECIPE = ROOT / "train_configs" / "s2d.toml"


@pytest.fixture
def config(tmp_path: Path) -> S2dConfig:
    for name in ("image", "video"):
        text = MINIMAL.replace("[run]\n", "") + f'\n[run]\ndir = "{tmp_path}/{name}"\n'
        (tmp_path / f"{name}.toml").write_text(text)
    files = {name: {"files": [str(tmp_path / f"{name}.toml")]} for name in ("image", "video")}
    return S2dConfig(**files)


def test_the_recipe_starts_stage_2_from_stage_1(monkeypatch):
    monkeypatch.chdir(ROOT)
    image, video = s2d.stages(load(S2dConfig, [RECIPE]))
    assert video.config().policy.path == str(image.config().run.folder / "export")
    alone = load(type(video.config()), ["s2d_video.toml"])
    assert video.config() == alone, "the file says the same for those who start stages by hand"


def test_what_is_there_decides_what_is_done(config, tmp_path):
    image, video = s2d.stages(config)
    assert image.command()[-1] == "--run.overwrite=true"
    saved = tmp_path / "image/checkpoints/step_00000050"
    saved.mkdir(parents=True)
    assert image.command()[-1] == "--run.overwrite=true"  # no whole checkpoint
    (saved / "manifest.json").touch()
    assert image.command()[-1] == "--run.resume=latest" and not image.is_finished
    with pytest.raises(ConfigError, match="is no model directory.*exports its last checkpoint"):
        s2d.require_start(image, "last")
    with pytest.raises(ConfigError, match=r"tools/export\.py --checkpoint .* --step 50 --to"):
        s2d.require_start(image, "50")
    (saved / "hf").mkdir()
    (saved / "hf/config.json").touch()
    assert s2d.require_start(image, "50") == saved / "hf"
    (tmp_path / "image/export").mkdir()
    (tmp_path / "image/export/config.json").touch()
    assert image.is_finished and not video.is_finished


def test_a_later_stages_data_is_missed_before_the_first_one_trains(config, tmp_path):
    """That of a finished one, or of one that is not asked for, is not."""
    image, video = s2d.stages(config)
    name = video.config().data.files[0]
    with pytest.raises(ConfigError, match=rf"stage 1: data\.files: {name}: no file matches"):
        s2d.run(config, (image, video))
    (tmp_path / "image/export").mkdir(parents=True)
    (tmp_path / "image/export/config.json").touch()
    with pytest.raises(ConfigError, match=rf"stage 2: data\.files: {name}: no file matches"):
        s2d.run(config, (image, video))
    s2d.run(config.replace(stages="image"), (image, video))


def test_contradictions_end_with_code_2(config, tmp_path, capsys):
    file = tmp_path / "image.toml"
    text = file.read_text()
    for added, said in {
        "export = false": "stage 1: run.export: expected true",
        f'dir = "{tmp_path}/video"': "run.dir: expected two folders",
        'resume = "latest"': "expected neither",
    }.items():
        kept = "" if added.startswith("dir") else f'dir = "{tmp_path}/image"\n'
        file.write_text(text.split("[run]")[0] + f"[run]\n{kept}{added}\n")
        words = [f'--image.files=["{file}"]', f'--video.files=["{tmp_path}/video.toml"]']
        with pytest.raises(SystemExit) as end:
            s2d.main(["--config", str(RECIPE), *words])
        assert end.value.code == 2 and said in capsys.readouterr().err


def test_later_process_groups_meet_elsewhere(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_PORT", "20000")
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    assert [rendezvous(n) for n in (1, 2)] == [{}, {"MASTER_PORT": "20001"}]
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    assert rendezvous(2) == {STORE_PREFIX: "group 2"}


PARENT = """
import os, sys, time
from caprl_native.distributed.children import in_child
def wait():
    print(os.getpid(), os.environ["PLACE"], flush=True)
    time.sleep(30)
print("code", in_child(lambda: sys.exit(7), {}), flush=True)
print("code", in_child(wait, {"PLACE": "child"}), flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_child_gets_its_parents_signals_and_dies_with_it(number):
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "code 7\n"
        pid, place = process.stdout.readline().split()
        assert place == "child"
        time.sleep(0.2)  # until the parent waits
        process.send_signal(number)
        rest = process.stdout.read()  # ends when both have
        assert rest == ("code 143\n" if number == signal.SIGTERM else "")
    deadline = time.monotonic() + 10  # its pipe closes a moment before it ends
    while (state := Path(f"/proc/{pid}/stat")).exists() and "Z" not in state.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_stage_ends_with_a_whole_model(config, tmp_path):
    file = tmp_path / "image.toml"
    file.write_text(file.read_text() + "\n[policy.lora]\nrank = 4\n")
    s2d.stages(config)
    config.video.start = "50"
    with pytest.raises(ConfigError, match='video.start = .50.: expected "last"'):
        s2d.stages(config)
    file.write_text(file.read_text() + 'export = "adapter"\n')
    with pytest.raises(ConfigError, match="stage 1: policy.lora.export: expected .merged"):
        s2d.stages(config)
