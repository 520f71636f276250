"""Programs on several ranks: `run_ranks` starts one of the tests', `run_module` any module."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
_RESULTS = "CAPRL_TEST_RESULTS"


def run_ranks(program: str, ranks: int, *args: object, timeout: float = 600) -> list[Any]:
    """Runs `tests/programs/<program>.py` on so many ranks; returns what each of them reported.

    Raises:
        AssertionError: the program failed or took longer than `timeout` seconds; the message ends
            with the last of its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        module, env = f"tests.programs.{program}", {_RESULTS: folder}
        code, output = run_module(module, ranks, *args, env=env, timeout=timeout)
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


def run_module(
    module: str,
    ranks: int,
    *args: object,
    env: dict[str, str] | None = None,
    timeout: float = 600,
) -> tuple[int, str]:
    """Exit code (124: it took too long) and output of `python -m module args` on so many ranks."""
    with tempfile.NamedTemporaryFile("r", errors="replace") as log:
        request = {
            "module": module,
            "args": list(map(str, args)),
            "ranks": ranks,
            "env": {**os.environ, **(env or {})},
            "log": log.name,
        }
        return _Nursery.started().ask(request, timeout), log.read()


class _Nursery:
    """tests/nursery.py in a process of its own: one for all tests, a new one after a timeout."""

    _running: _Nursery | None = None

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.nursery"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @classmethod
    def started(cls) -> _Nursery:
        if cls._running is None:
            cls._running = cls()
        return cls._running

    def ask(self, request: dict[str, Any], timeout: float) -> int:
        """The exit code; 124 after a timeout, 1 where the nursery itself died."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            in_time = select.select([self.process.stdout], [], [], timeout)[0]
            if answer := self.process.stdout.readline() if in_time else "":
                return int(answer)
        except BaseException:  # a test that was given up must not leave its answer to the next
            self._end()
            raise
        self._end()
        return 1 if in_time else 124

    def _end(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        _Nursery._running = None


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
