"""Programs on several ranks: `run_ranks` starts one through torchrun, its ranks `report` back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from launch import torchrun  # noqa: E402

_RESULTS = "CAPRL_TEST_RESULTS"


def run_ranks(program: str, ranks: int, *args: object, timeout: float = 600) -> list[Any]:
    """Runs `tests/programs/<program>.py` on so many ranks; returns what each of them reported.

    Raises:
        AssertionError: the program failed or took longer than `timeout` seconds; the message ends
            with the last of its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [*torchrun(ranks), "-m", f"tests.programs.{program}", *map(str, args)]
        env = {**os.environ, _RESULTS: folder}
        code, output = run_to_end(command, env, timeout)
        files = [Path(folder, f"{rank}.json") for rank in range(ranks)]
        missing = [f.stem for f in files if not f.exists()]
        assert code == 0 and not missing, (
            f"{program} on {ranks} ranks ended with {code}, no report of ranks {missing}:\n"
            + output[-8000:]
        )
        return [json.loads(f.read_text()) for f in files]


def report(value: Any) -> None:
    """Called by each rank of a program: what `run_ranks` returns for it (JSON)."""
    Path(os.environ[_RESULTS], f"{os.environ['RANK']}.json").write_text(json.dumps(value))


def run_to_end(command: list[str], env: dict[str, str], timeout: float) -> tuple[int, str]:
    """Exit code and output. All its processes are ended when it takes longer than `timeout`."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return 124, output
    return process.returncode, output
