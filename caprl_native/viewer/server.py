"""The server of a live page: on loopback alone, under a path that nobody can guess.

A request names a run by its number and captions by kind, step and number, never a file: what is
opened are the run's own files, and as pictures the media that its records name.
"""

from __future__ import annotations

import json
import logging
import secrets
import socket
from collections.abc import Callable, Sequence

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from caprl_native.observe.pictures import Pictures
from caprl_native.viewer.document import live_page
from caprl_native.viewer.run import Changed, Record, Run
from caprl_native.viewer.search import search

HOST = "127.0.0.1"
_NAMES = [HOST, "localhost"]  # what a request may take this server for, against rebound names
_HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


class Wrong(ValueError):
    """A request for something that is not there, or that cannot be understood."""


class Pages:
    """What the server answers with."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs, self.pictures = runs, Pictures()

    def page(self, request: Request) -> str:
        return live_page(self.runs)

    def news(self, request: Request) -> str:
        """Of each run what the page lacks; `cursors`: how far it has got."""
        cursors = _cursors(request.query_params.get("cursors", "[]"), len(self.runs))
        for run in self.runs:
            run.refresh()
        told = ("".join(run.news(at)) for run, at in zip(self.runs, cursors, strict=True))
        return f"[{','.join(told)}]"

    def group(self, request: Request) -> str:
        """The records of a group, its captions side by side."""
        return json.dumps(self._records(request), ensure_ascii=False, allow_nan=False)

    def media(self, request: Request) -> str:
        """The pictures of a group."""
        return json.dumps(self.pictures.of(self._records(request)[0]))

    def search(self, request: Request) -> str:
        """Groups that have all words of `q`."""
        return json.dumps(search(self._run(request), request.query_params.get("q", "")))

    def _run(self, request: Request) -> Run:
        return self.runs[_number(request, "run", len(self.runs))]

    def _records(self, request: Request) -> list[Record]:
        run, kind = self._run(request), request.query_params.get("kind", "")
        try:
            step = run.find(kind, _number(request, "step"))
        except KeyError as error:
            raise Wrong(str(error.args[0])) from error
        return step.group(_number(request, "group", len(step.lines)))


def _number(request: Request, name: str, below: int = 10**12) -> int:
    text = request.query_params.get(name, "")
    if not (text.isascii() and text.isdigit() and int(text[:13]) < below):
        raise Wrong(f"{name}: expected a number below {below}")
    return int(text)


def _cursors(text: str, count: int) -> list[list[int]]:
    try:
        found = json.loads(text)
        if found == []:
            return [[]] * count
        good = isinstance(found, list) and len(found) == count
        if good and all(type(n) is int and n >= 0 for cursor in found for n in cursor):
            return found
    except (ValueError, TypeError, RecursionError):
        pass
    raise Wrong("cursors: expected what the last answer gave")


def _answering(answer: Callable[[Request], str], kind: str) -> Callable[[Request], Response]:
    """A route; it runs in a thread."""

    def route(request: Request) -> Response:
        try:
            return Response(answer(request), media_type=kind, headers=_HEADERS)
        except Wrong as error:
            return Response(str(error), 404, media_type="text/plain", headers=_HEADERS)
        except (Changed, FileNotFoundError):
            text = "the run is writing this step anew"
            return Response(text, 409, media_type="text/plain", headers=_HEADERS)

    return route


def build_app(runs: Sequence[Run], token: str) -> Starlette:
    """The application; all but `/TOKEN/...` is not found."""
    pages = Pages(runs)
    routes = [
        Route(f"/{name}", _answering(answer, "application/json"), methods=["GET"])
        for name, answer in (
            ("news", pages.news),
            ("group", pages.group),
            ("media", pages.media),
            ("search", pages.search),
        )
    ]
    routes.append(Route("/", _answering(pages.page, "text/html"), methods=["GET"]))
    return Starlette(
        routes=[Mount(f"/{token}", routes=routes)],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=_NAMES, www_redirect=False)],
    )


def serve(runs: Sequence[Run], port: int, say: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM; `say` gets the address. Raises OSError: a port in use."""
    token = secrets.token_urlsafe(16)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
        listening.listen()  # who is told the address may come at once
        settings = uvicorn.Config(
            build_app(runs, token),
            loop="asyncio",
            ws="none",
            access_log=False,
            log_level=logging.CRITICAL,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        say(f"http://{HOST}:{listening.getsockname()[1]}/{token}/")
        uvicorn.Server(settings).run(sockets=[listening])
