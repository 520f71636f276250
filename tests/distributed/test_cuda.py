"""A GPU that torch cannot use ends a run at its start.

There is no GPU here: files stand for the driver's, a script for nvidia-smi, and torch's own answers
(`is_available`, the CUDA of its build, what `init` raises) are replaced by those of each case.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from caprl_native import sft, train
from caprl_native.distributed import cuda
from caprl_native.distributed.world import init_distributed

VERSION = "NVRM version: NVIDIA UNIX {}  470.57.02  Tue Jul 13 16:14:05 UTC 2021\nGCC version: 9\n"
TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040). Please update it."


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without a GPU, with a torch that is built for CUDA and finds none."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(cuda, "DRIVER", tmp_path / "version")
    monkeypatch.setattr(cuda, "DEVICES", tmp_path / "dev")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")

    def init() -> None:
        raise RuntimeError(TOO_OLD)

    monkeypatch.setattr(torch.cuda, "init", init)
    cuda.cuda_problem.cache_clear()
    yield tmp_path
    cuda.cuda_problem.cache_clear()


def add_devices(machine: Path, module: str = "x86_64 Kernel Module") -> None:
    (machine / "dev" / "nvidia0").touch()
    (machine / "version").write_text(VERSION.format(module))


def add_tool(machine: Path, script: str) -> None:
    tool = machine / "bin" / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)


@pytest.mark.parametrize("module", ["x86_64 Kernel Module", "Open Kernel Module for x86_64"])
def test_an_old_driver_is_named_with_torchs_cuda(machine: Path, module: str) -> None:
    add_devices(machine, module)
    problem = cuda.cuda_problem() or ""
    for part in ("driver 470.57.02", "CUDA 13.0", torch.__version__, "too old", "CPU is meant"):
        assert part in problem
    assert "\n" not in problem


def test_a_driver_that_only_the_tool_tells_of(machine: Path) -> None:
    add_tool(machine, "echo 535.129.03; echo 535.129.03")
    assert "driver 535.129.03" in (cuda.cuda_problem() or "")


def test_torch_for_the_cpu_beside_a_gpu(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_devices(machine)
    monkeypatch.setattr(torch.version, "cuda", None)
    problem = cuda.cuda_problem() or ""
    assert "is a build for the CPU" in problem and "make setup" in problem


def test_a_device_that_is_not_there_is_shown(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_devices(machine)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert "with CUDA_VISIBLE_DEVICES=7" in (cuda.cuda_problem() or "")


def test_no_devices_no_problem(machine: Path) -> None:
    """Nor where the host's kernel module shows in a container, or a tool finds no GPU."""
    assert cuda.cuda_problem() is None
    (machine / "version").write_text(VERSION.format("Kernel Module"))
    add_tool(machine, "echo No devices were found; exit 6")
    cuda.cuda_problem.cache_clear()
    assert cuda.cuda_problem() is None


@pytest.mark.parametrize("visible", ["", "-1", " "])
def test_the_cpu_may_be_meant(machine: Path, monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    add_devices(machine)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert cuda.cuda_problem() is None


def test_a_gpu_that_works_is_no_problem(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_devices(machine)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cuda.cuda_problem() is None


@pytest.mark.parametrize("program", [train, sft])
def test_runs_end_before_they_begin_and_plans_are_made_with_a_warning(
    machine: Path, capsys: pytest.CaptureFixture[str], program: object
) -> None:
    add_devices(machine)
    argv = ["--config", "train_configs/demo.toml"]
    if program is sft:
        config = machine / "sft.toml"
        config.write_text('data.files = ["a.jsonl"]\npolicy.path = "demo_models/policy"\n')
        argv = ["--config", str(config)]
    with pytest.raises(SystemExit) as ended:
        program.main(argv)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: this machine has NVIDIA GPUs (driver 470")
    program.main([*argv, "--dry-run"])
    assert capsys.readouterr().err.startswith("warning: this machine has NVIDIA GPUs (driver 470")


def test_no_program_joins_its_ranks(machine: Path) -> None:
    add_devices(machine)
    with pytest.raises(RuntimeError, match="this machine has NVIDIA GPUs"):
        init_distributed()
