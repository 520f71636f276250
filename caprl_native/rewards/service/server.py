"""The reward server as a program: its command line, its signals, its end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import uvicorn

from caprl_native.config.cli import ConfigError, dump, exit_with_error, parse_cli, warn_once
from caprl_native.redact import redact
from caprl_native.rewards.service.actors import workers_of
from caprl_native.rewards.service.app import Service, build_app
from caprl_native.rewards.service.config import (
    ServiceConfig,
    check,
    check_machine,
    is_loopback,
    token_of,
)
from caprl_native.rewards.service.counters import Counters
from caprl_native.rewards.service.http_guard import BoundedProtocol
from caprl_native.rewards.service.pool import Pool

_USAGE = """\
usage: python tools/reward_server.py --config FILE ... [--table.key value ...]

  --config FILE ...   TOML files, overlaid left to right
  --dry-run           print the resolved config, and stop
  --help              print this and stop
  --table.key value   set one value; also --table.key=value

"""
_IGNORED = ("REWARD_WORKER_BASE",)  # of the reference's scripts, and without a meaning here
_KEEP_ALIVE_S = 75


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code."""
    args = parse_cli(
        ServiceConfig, list(sys.argv[1:] if argv is None else argv), "reward_server", usage=_USAGE
    )
    try:
        check(args.config, args.origins)
        if args.dry_run:
            print(redact(dump(args.config)))
            return 0
        check_machine(args.config, args.origins)
        return serve(args.config)
    except ConfigError as error:
        exit_with_error(error)


def serve(config: ServiceConfig) -> int:
    """Serves until a signal. Raises ConfigError: no token, no such address, no room for workers."""
    server = config.server
    for name in _IGNORED:
        if name in os.environ:
            warn_once(f"{name} is ignored: workers have no ports here")
    token = token_of(server)
    if not token and not is_loopback(server.host):
        warn_once(
            f"server.host = {server.host} without a token: whoever reaches it may use the model"
        )
    listening = _listening(server.host, server.port)
    counters = Counters()
    pool = Pool(workers_of(config), server.replicas, server.max_waiting, counters, server.hung_s)
    service = Service(config, pool, counters)
    settings = uvicorn.Config(
        build_app(service, token),
        http=BoundedProtocol,
        loop="asyncio",
        ws="none",
        access_log=False,
        log_level=logging.ERROR,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(server.drain_s)),
    )
    host, port = listening.getsockname()[:2]
    listening.listen()  # who is told the address may come at once
    print(f"rewards at http://{f'[{host}]' if ':' in host else host}:{port}/get_reward", flush=True)
    _Server(settings, service).run(sockets=[listening])
    return 0


def _listening(host: str, port: int) -> socket.socket:
    """A socket that is bound before models are loaded: a port in use shows at once."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as error:
        raise ConfigError(
            f"server.port: cannot listen at {host}:{port}: {error.strerror}"
        ) from error
    return listening


class _Server(uvicorn.Server):
    """Ends with a good exit code after the signals that are meant to end it."""

    def __init__(self, settings: uvicorn.Config, service: Service) -> None:
        super().__init__(settings)
        self.service = service

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        yield

    def _stop(self) -> None:
        self.force_exit = self.should_exit  # the second one ends it at once
        self.should_exit = self.service.is_closing = True
