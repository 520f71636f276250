"""Is the GPU of this machine one that torch can use? A run must not train on the CPU unasked."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

DRIVER = Path("/proc/driver/nvidia/version")
DEVICES = Path("/dev")
_CPU = 'CUDA_VISIBLE_DEVICES="" says that the CPU is meant'


@functools.cache
def cuda_problem() -> str | None:
    """Why the NVIDIA GPUs that this machine shows cannot be used, naming driver and torch.

    None: they can, there are none, or CUDA_VISIBLE_DEVICES is empty or -1: the CPU is meant.
    Imports torch only where a driver is seen.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and (not visible.strip() or visible.strip().startswith("-")):
        return None
    driver = driver_version()
    if driver is None:
        return None
    import torch

    if torch.cuda.is_available():
        return None
    found = f"this machine has NVIDIA GPUs (driver {driver}), but torch {torch.__version__} "
    if torch.version.cuda is None:
        return (
            f"{found}is a build for the CPU: `make setup` in a fresh environment installs the CUDA "
            f"set (requirements/cuda.txt); {_CPU}"
        )
    shown = "" if visible is None else f", with CUDA_VISIBLE_DEVICES={visible}"
    return (
        f"{found}(CUDA {torch.version.cuda}) cannot use them{shown}: {_reason()}; an older driver "
        f"needs an update or a torch for an older CUDA; {_CPU}"
    )


def driver_version() -> str | None:
    """The version of the NVIDIA driver, where its devices are here; None without.

    A container sees the kernel module of its host in /proc, devices or not.
    """
    if any(DEVICES.glob("nvidia[0-9]*")):
        try:
            found = re.search(r"Kernel Module.*?\s(\d+\.\d[\d.]*)", DRIVER.read_text())
        except OSError:
            found = None
        return found[1] if found else "of unknown version"
    tool = shutil.which("nvidia-smi")  # all there is under WSL
    if not tool:
        return None
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        asked = subprocess.run(query, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return "that did not answer nvidia-smi within 60 s"
    lines = asked.stdout.strip().splitlines()
    return lines[0].strip() if not asked.returncode and lines else None


def _reason() -> str:
    """What torch says of it, in one line."""
    import torch

    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0]
    return "it counts no device"
