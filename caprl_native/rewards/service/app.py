"""The routes: `POST /get_reward`, `GET /health`, `GET /metrics`, `GET /openapi.json`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from caprl_native.rewards.service.config import ServiceConfig
from caprl_native.rewards.service.counters import Counters
from caprl_native.rewards.service.http_guard import (
    RETRY_AFTER_S,
    Bodies,
    Guard,
    Refused,
    gone,
)
from caprl_native.rewards.service.json_body import BadBody, parse_body
from caprl_native.rewards.service.media_paths import NoFile, RefusedPath, media_file
from caprl_native.rewards.service.pool import Busy, Pool
from caprl_native.rewards.service.protocol import (
    JUDGE_TERM,
    PROTOCOL_VERSION,
    QA_TERMS,
    Job,
    JudgeBody,
    JudgeSample,
    Limits,
    Malformed,
    Mode,
    Outcome,
    Prompt,
    QaBody,
    jobs_of_prompts,
    judge_job,
    read_body,
    reply_of,
)
from caprl_native.types import MediaRef

log = logging.getLogger(__name__)

_LARGE = 1 << 20  # bytes of a body that is read in a thread, one at a time
_Understood = tuple[QaBody | JudgeBody, dict[int, Job], dict[int, Outcome]]


class Service:
    """A server's parts, and what it does with one request."""

    def __init__(self, config: ServiceConfig, pool: Pool, counters: Counters) -> None:
        self.config, self.pool, self.counters = config, pool, counters
        server = config.server
        self.roots = [Path(root).resolve() for root in server.media_roots]
        self.limits = Limits(
            server.max_captions,
            server.max_caption_chars,
            server.max_questions,
            server.max_question_chars,
        )
        self.is_closing = False
        self._bodies, self._parsing = Bodies(server), asyncio.Semaphore(1)
        terms = config.reward.terms
        self.weights = {name: options.weight for name, options in terms.items() if options.weight}

    @property
    def model(self) -> str:
        """The name of the model that reads or judges; empty where a rule scores."""
        reader = self.config.reward.reader
        return reader.model or Path(reader.path).name

    async def answer(self, request: Request) -> Response:
        """The reply to a request for rewards. Raises Refused, ClientDisconnect."""
        if not self.pool.has_started or self.is_closing:
            why = "the server is shutting down" if self.is_closing else "the model is being loaded"
            raise Refused(503, why, Retry_After=str(RETRY_AFTER_S))
        body, jobs, refused = await self._read(request)
        wanted = body.deadline_s or self.config.server.timeout_s
        scoring = asyncio.create_task(
            self.pool.score(list(jobs.values()), min(wanted, self.config.server.timeout_s))
        )
        leaving = asyncio.create_task(gone(request))
        try:
            await asyncio.wait({scoring, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not scoring.done():
                return JSONResponse({"rewards": [], "error": "client_disconnect"}, 503)
            found = dict(zip(jobs, scoring.result(), strict=True))
        except Busy:
            raise Refused(
                429, "too many captions are waiting", Retry_After=str(RETRY_AFTER_S)
            ) from None
        finally:
            scoring.cancel()
            leaving.cancel()
        outcomes = [found[i] if i in found else refused[i] for i in range(len(jobs) + len(refused))]
        return self._reply(body, list(jobs.values()), outcomes)

    async def _read(self, request: Request) -> _Understood:
        """What a request asks for. Long bodies, and files to look for, hold nobody else up."""
        async with self._bodies.json(request) as raw:
            if len(raw) >= _LARGE:
                async with self._parsing:
                    return await asyncio.to_thread(self._understood, raw)
            if self.roots:
                return await asyncio.to_thread(self._understood, raw)
            return self._understood(raw)

    def _understood(self, raw: bytes) -> _Understood:
        server = self.config.server
        try:
            body = read_body(parse_body(raw, server.max_depth), server.mode, self.limits)
        except (BadBody, Malformed) as error:
            raise Refused(400, str(error)) from None
        return body, *self._jobs(body)

    def _jobs(self, body: QaBody | JudgeBody) -> tuple[dict[int, Job], dict[int, Outcome]]:
        """What workers get, and what is missing already, by the captions' places."""
        server = self.config.server
        needed = QA_TERMS[0] if isinstance(body, QaBody) else JUDGE_TERM
        if needed not in self.weights:
            raise Refused(400, f'score_mode: this server has no term "{needed}"')
        try:
            if isinstance(body, QaBody):
                made = jobs_of_prompts(body, server.task, server.seed, self.limits)
                return dict(enumerate(made)), {}
            return self._judge_jobs(body)
        except Malformed as error:
            raise Refused(400, str(error)) from None

    def _judge_jobs(self, body: JudgeBody) -> tuple[dict[int, Job], dict[int, Outcome]]:
        jobs: dict[int, Job] = {}
        missing: dict[int, Outcome] = {}
        for i, sample in enumerate(body.samples):
            name, kind = _path_of(sample, f"samples[{i}]")
            try:
                media = MediaRef(kind, path=str(media_file(name, self.roots)))
                jobs[i] = judge_job(body, i, media, self.config.server.seed, self.limits)
            except RefusedPath as error:
                raise Malformed(f"samples[{i}].{kind}_path: {error}") from None
            except NoFile as error:
                missing[i] = Outcome(failure=str(error))
        return jobs, missing

    def _reply(
        self, body: QaBody | JudgeBody, jobs: list[Job], outcomes: list[Outcome]
    ) -> Response:
        failures = [o.failure for o in outcomes if o.failure]
        self.counters.missing += len(failures)
        self.counters.scored += len(outcomes) - len(failures)
        strict = self.config.server.strict if body.strict is None else body.strict
        if failures and strict:
            error = f"{len(failures)} caption(s) could not be scored: {failures[0]}"
            return JSONResponse({"error": error}, 502)
        names = QA_TERMS if isinstance(body, QaBody) else (JUDGE_TERM,)
        weights = {name: w for name, w in self.weights.items() if name in names}
        mode: Mode = "qa" if isinstance(body, QaBody) else "vl_judge"
        reply = reply_of(outcomes, mode, weights, detail=body.detail)
        if unshuffled := sum(len(job.as_given) for job in jobs):
            reply["unshuffled"] = unshuffled
        return JSONResponse(reply)

    def health(self) -> dict[str, Any]:
        """Whether it scores, and what it is; `in_flight` counts captions.

        While the last worker is being replaced it is not ready, and requests wait.
        """
        return {
            "ready": self.pool.is_ready and not self.is_closing,
            "model": self.model,
            "mode": self.config.server.mode,
            "in_flight": self.pool.in_flight,
            "protocol": PROTOCOL_VERSION,
        }


def _path_of(sample: JudgeSample, where: str) -> tuple[str, Any]:
    given = [(p, k) for p, k in ((sample.video_path, "video"), (sample.image_path, "image")) if p]
    if len(given) != 1:
        raise Malformed(f"{where}: expected video_path or image_path")
    return given[0]


def build_app(service: Service, token: str) -> Guard:
    """The application, with what stands before it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.pool.open()
        yield
        await service.pool.close()

    app = FastAPI(
        title="Reward service",
        version=str(PROTOCOL_VERSION),
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )

    @app.post("/get_reward", openapi_extra=_REQUEST, responses=_RESPONSES)
    async def get_reward(request: Request) -> Response:
        """Rewards of captions, in their order; null where one could not be scored."""
        try:
            return await service.answer(request)
        except ClientDisconnect:
            return JSONResponse({"rewards": [], "error": "client_disconnect"}, 503)

    @app.get("/health", responses={503: {"description": "Not ready."}})
    async def health() -> Response:
        """Whether requests are taken."""
        state = service.health()
        return JSONResponse(state, 200 if state["ready"] else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counters, in Prometheus' text format."""
        return PlainTextResponse(service.counters.text(service.pool.in_flight))

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return JSONResponse({"error": error.error}, error.status, headers=error.headers)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": str(error.detail)}, error.status_code, headers=error.headers)

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        log.error("a request failed: %s", type(error).__name__, exc_info=error)
        return JSONResponse({"error": f"internal error: {type(error).__name__}"}, 500)

    _describe(app)
    return Guard(app, service.config.server, token, service.counters)


# --- OpenAPI ----------------------------------------------------------------------------------

_REFERENCE = "#/components/schemas/{model}"
_REQUEST = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "anyOf": [
                        {"$ref": _REFERENCE.format(model=model.__name__)}
                        for model in (QaBody, JudgeBody)
                    ]
                }
            }
        },
    }
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": text}
    for status, text in (
        (400, "Malformed; the error names the place."),
        (401, "The token is missing or wrong."),
        (408, "The body took too long."),
        (413, "The body is too long."),
        (415, "Not JSON."),
        (429, "Too many captions are waiting; see Retry-After."),
        (502, "strict, and a caption could not be scored."),
        (503, "Not ready, shutting down, or too many requests; see Retry-After."),
    )
}


def _describe(app: FastAPI) -> None:
    """Adds the bodies' schemas, which routes read by themselves, to the description."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        described = plain()
        _, schemas = models_json_schema(
            [(QaBody, "validation"), (JudgeBody, "validation"), (Prompt, "validation")],
            ref_template=_REFERENCE,
        )
        components = described.setdefault("components", {}).setdefault("schemas", {})
        components |= schemas.get("$defs", {})
        return described

    app.openapi = openapi  # type: ignore[method-assign]
