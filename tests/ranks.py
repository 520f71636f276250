"""Programs on several ranks: `run_ranks` starts one of the tests', `run_module` any module."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import psutil

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
        process = Forked(module, ranks, *args, log=Path(log.name), env=env)
        try:
            return process.wait(timeout), log.read()
        except subprocess.TimeoutExpired:
            return 124, log.read()
        finally:
            process.end()


class Forked:
    """`python -m module args` on so many ranks, under a launcher: a `Popen` as far as tests need.

    They are forks of one process that has made the slow imports: see tests/nursery.py. On 0 ranks
    it is the module itself, without a launcher.
    """

    def __init__(
        self,
        module: str,
        ranks: int,
        *args: object,
        log: Path,
        env: dict[str, str] | None = None,
        node: dict[str, str] | None = None,
    ) -> None:
        request = {
            "module": module,
            "args": list(map(str, args)),
            "ranks": ranks,
            "env": {**os.environ, **(env or {})},
            "log": str(log),
            **({"node": node} if node else {}),
        }
        self.pid, self.returncode = _ask_nursery(request), None

    def poll(self) -> int | None:
        """The exit code once it has ended."""
        ended = self.returncode is None and psutil.Process(self.pid).status() == "zombie"
        if ended:
            self.returncode = _ask_nursery({"reap": self.pid})
        return self.returncode

    def wait(self, timeout: float = 600) -> int:
        """The exit code. Raises `subprocess.TimeoutExpired`."""
        until = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(f"launcher {self.pid}", timeout)
            time.sleep(0.02)
        return code

    def send_signal(self, number: int) -> None:
        """To the launcher alone."""
        os.kill(self.pid, number)

    def end(self) -> None:
        """Ends what is left of it."""
        if self.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.wait(60)


def forking(torchrun: list[str], module: str) -> list[str]:
    """For `Forked`, torchrun's module and arguments: it starts a module on ranks that it forks."""
    _, _, launcher, *words = torchrun  # python -m torch.distributed.run ...
    script = str(ROOT / module.replace(".", "/")) + ".py"
    return [launcher, *words, "--start-method=fork", "--run-path", script]


@cache
def _nursery() -> subprocess.Popen[str]:
    """One for all tests of this process; it ends with it."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.nursery"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _ask_nursery(request: dict[str, Any]) -> int:
    nursery = _nursery()
    assert nursery.stdin and nursery.stdout
    nursery.stdin.write(json.dumps(request) + "\n")
    nursery.stdin.flush()
    return int(nursery.stdout.readline())


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
