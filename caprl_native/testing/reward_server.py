"""A reward server as a process of its own: to be asked, killed, and started again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]
WORKER = "ray::_Actor"  # how Ray names the processes of workers


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class RewardServer:
    """A server on a port of its own, with what it printed in `log`."""

    words: list[str]  # of its command line
    log: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/get_reward"

    def start(self, ready_s: float = 600.0) -> None:
        """Starts it, and waits until it takes requests for `ready_s`; 0: does not wait.

        Raises RuntimeError with what it printed where it ended, or is not ready in time.
        """
        command = [sys.executable, str(ROOT / "tools/reward_server.py"), *self.words]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, f"--server.port={self.port}"],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        deadline = time.monotonic() + ready_s
        while ready_s and self.get("/health")[0] != 200:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the reward server did not start:\n{self.log.read_text()}")
            time.sleep(0.05)

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Status and text; 0 where nobody answers."""
        return self._send(urllib.request.Request(self._at(path), headers=headers))

    def post(self, body: Any, **headers: str) -> tuple[int, Any]:
        """Status and JSON of a request for rewards; bytes are sent as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        status, text = self._send(
            urllib.request.Request(self.url, data, headers=headers, method="POST")
        )
        return status, json.loads(text) if text.startswith(("{", "[")) else text

    def _at(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @staticmethod
    def _send(request: urllib.request.Request) -> tuple[int, str]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def workers(self) -> list[psutil.Process]:
        """The processes of workers that are actors."""
        assert self.process is not None
        return [p for p in psutil.Process(self.process.pid).children(True) if _is_worker(p)]

    def kill(self) -> None:
        """SIGKILL to it and all that it has started."""
        if self.process is None:
            return
        family: list[psutil.Process] = []
        try:
            one = psutil.Process(self.process.pid)
            family = [*one.children(recursive=True), one]
        except psutil.NoSuchProcess:
            pass
        for member in family:
            try:
                member.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait(60)

    def stop(self, wait_s: float = 60.0) -> int:
        """SIGTERM; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(wait_s)


def _is_worker(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[0].startswith(WORKER)
    except (psutil.Error, IndexError):
        return False


@contextmanager
def reward_server(config: str, folder: Path, *words: str) -> Iterator[RewardServer]:
    """A server of a config in TOML, ready; it is killed at the end of the block."""
    file = folder / "reward_server.toml"
    file.write_text(config)
    server = RewardServer(["--config", str(file), *words], folder / "reward_server.log")
    try:
        server.start()
        yield server
    finally:
        server.kill()
