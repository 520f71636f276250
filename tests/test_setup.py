"""The environment's set-up: it installs once, and says in one line what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A checkout whose requirements are empty."""
    for folder in ("tools", "requirements", "caprl_native"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "tools" / "setup.sh", tmp_path / "tools")
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements" / "cpu.txt").write_text("# nothing\n")
    (tmp_path / "caprl_native" / "__init__.py").write_text("")
    return tmp_path


def setup(clone: Path, **env: str) -> subprocess.CompletedProcess[str]:
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "PIP_"))}
    variables |= {"PYTHON": sys.executable, "SET": "cpu", **env}
    command = ["make", "-s", "setup"]
    return subprocess.run(command, cwd=clone, env=variables, capture_output=True, text=True)


def test_a_second_call_installs_nothing_and_changed_requirements_do(clone):
    first = setup(clone)
    assert first.returncode == 0, first.stderr
    assert "Installing" in first.stdout
    log = clone / ".venv" / "install.log"
    log.unlink()
    assert (setup(clone).stdout, log.exists()) == ("", False)
    (clone / "requirements" / "cpu.txt").write_text("# changed\n")
    assert "Installing" in setup(clone).stdout
    assert len(list((clone / ".venv").glob(".installed-*"))) == 1
    anywhere = [str(clone / ".venv/bin/python"), "-c", "import caprl_native"]
    assert subprocess.run(anywhere, cwd="/").returncode == 0


def test_a_failed_installation_is_told_and_tried_again(clone):
    (clone / "requirements" / "cpu.txt").write_text("torch==2.13.0+cpu\n")
    for _ in range(2):
        failed = setup(clone, PIP_NO_INDEX="1", PIP_CONFIG_FILE="/dev/null")
        assert failed.returncode != 0
        assert "PyTorch's CPU wheels" in failed.stderr.splitlines()[0]
    (clone / "requirements" / "cpu.txt").write_text("no_such_thing==1.0\n")
    failed = setup(clone, PIP_NO_INDEX="1", PIP_CONFIG_FILE="/dev/null")
    assert "no_such_thing==1.0" in failed.stderr.splitlines()[0]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 1", "Python 3.11 or later is needed"),
        ('case "$2" in *ensurepip*) exit 1;; esac', "Python's venv module is needed"),
    ],
)
def test_what_is_missing_is_said_in_one_line(clone, script, message):
    python = clone / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    failed = setup(clone, PYTHON=str(python))
    assert failed.returncode != 0
    assert failed.stderr.startswith("error: ") and message in failed.stderr.splitlines()[0]
    assert not (clone / ".venv").exists()


def test_an_unknown_set_is_refused(clone):
    assert "expected cpu or cuda" in setup(clone, SET="tpu").stderr
