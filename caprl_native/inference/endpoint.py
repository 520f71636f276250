"""What clients of an OpenAI-compatible chat endpoint have in common; several: endpoint_pool.py."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from caprl_native.inference.addresses import Address, header_problem
from caprl_native.inference.endpoint_reply import Said, read_reply, read_top_tokens
from caprl_native.redact import HIDDEN, redact, without_userinfo

if TYPE_CHECKING:
    import openai

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_USUAL_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")  # may be shown: no key is spelled like it
_REASON = 500  # characters of a failure's text
_BUSY = (408, 429)
_REFUSALS = (400, 413, 415, 422)  # of one request; 401 or 404 are of all
_LEAST_LOST = 3  # requests without an answer, one after the other, before a server is given up


class EndpointConfig(Protocol):
    """The settings of an endpoint; what each means stands in the config that has them."""

    endpoint: str | list[str]
    model: str
    api_key_env: str
    prefill: bool
    temperature: float
    top_p: float
    max_tokens: int
    concurrency: int
    timeout_s: float
    retries: int


# --- settings ---------------------------------------------------------------------------------


def urls(endpoint: str | list[str]) -> list[str]:
    """The servers that a setting names; none where it is empty."""
    return endpoint if isinstance(endpoint, list) else [endpoint] if endpoint else []


def settings_problem(config: EndpointConfig) -> tuple[str, str] | None:
    """The field of an endpoint's settings that cannot be meant, and why; what it holds is not told.

    Looks at the text alone: whether the key is there is `key_problem`'s to say.
    """
    if config.api_key_env and not _NAME.fullmatch(config.api_key_env):
        return "api_key_env", (
            "is not the name of an environment variable (it is not shown, it may be the key "
            "itself); put the key into a variable, and give the variable's name"
        )
    servers = urls(config.endpoint)
    if len(set(servers)) < len(servers):
        return "endpoint", "expected each server once"
    problem = next(filter(None, map(_url_problem, servers)), "")
    return ("endpoint", problem) if problem else None


def _url_problem(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        return "expected a URL that starts with http:// or https://"
    if f"{HIDDEN}@" in url or f"={HIDDEN}" in url:
        return f"its password is hidden ({HIDDEN}) in this file; give the whole URL"
    try:
        host, _ = urlsplit(url).hostname, urlsplit(url).port
    except ValueError as error:
        return f"is no URL: {redact(str(error))}"
    return "" if host else "is no URL: it has no host"


def key_problem(config: EndpointConfig) -> tuple[str, str] | None:
    """Why the key that the settings name cannot be sent."""
    name = config.api_key_env
    if not name:
        return None
    usual = _USUAL_NAME.fullmatch(name) and redact(name) == name
    shown = name if usual else "that it names (not shown, it may be the key itself)"
    key = os.environ.get(name, "").strip()
    if not key:
        return "api_key_env", f"the environment variable {shown} is not set"
    if problem := header_problem(key):
        return "api_key_env", f"the environment variable {shown} holds {problem}"
    return None


# --- what a server takes ----------------------------------------------------------------------

_PREFILL = frozenset({"chat_template_kwargs", "add_generation_prompt", "continue_final_message"})
_OPTIONAL = frozenset({"temperature", "top_p", "seed", "repetition_penalty"})
_LIMITS = ("max_tokens", "max_completion_tokens")
_REFUSED = (
    r"(?:un(?:supported|recogni[sz]ed|known|expected|permitted)|not (?:supported|permitted|allowed|"
    r"recogni[sz]ed|available)|does(?: not|n't) support|deprecated|no longer|extra_forbidden|"
    r"extra (?:inputs|fields?)|additional propert|cannot both|cannot find field)"
)
_TURN_REFUSED = re.compile(rf"prefill|last (?:message|turn|role)|{_REFUSED}")
_READ = 4000  # characters of a refusal


@dataclass(frozen=True)
class Dialect:
    """What the requests to a server hold: as the settings say, less what it refused."""

    prefill: bool
    limit: str = _LIMITS[0]
    left_out: frozenset[str] = frozenset()

    def without(self, refused: Iterable[str]) -> Dialect:
        """The same without these fields."""
        refused = set(refused)
        return Dialect(
            self.prefill and not refused & _PREFILL,
            _LIMITS[1] if _LIMITS[0] in refused else self.limit,
            self.left_out | (refused & _OPTIONAL),
        )


def refused_fields(said: str, fields: frozenset[str]) -> set[str]:
    """Which of a request's fields a server's error text refuses as such, whatever their value."""
    said = said[:_READ].lower()
    named = {field for field in fields if _names(said, field)}
    if {"temperature", "top_p"} <= named and "both" in said:
        named.discard("temperature")
    if not named and fields & _PREFILL and _TURN_REFUSED.search(said):
        named = set(fields & _PREFILL)
    return named


def _names(said: str, field: str) -> bool:
    if field == _LIMITS[0] and _LIMITS[1] in said and "instead" in said:
        return True
    near = rf"{_REFUSED}.{{0,80}}\b{field}\b|\b{field}\b.{{0,80}}{_REFUSED}"
    return bool(re.search(near, said, re.DOTALL))


def address_of(config: EndpointConfig, server: str | Address = "") -> Address:
    """Of one of the settings' servers, the first one if none is given; with their key."""
    if isinstance(server, Address):
        return server
    key = os.environ.get(config.api_key_env, "").strip() if config.api_key_env else ""
    return Address(server or urls(config.endpoint)[0], key)


class Endpoint:
    """One server: how a client is made, what a request says, how its reply or failure is read.

    `server`: which of the settings' servers; the first one if none is given. Or an address that
    comes with a key of its own. With `top_logprobs` the replies list so many of the likeliest first
    tokens, and are nothing else.
    """

    def __init__(
        self, config: EndpointConfig, server: str | Address = "", top_logprobs: int = 0
    ) -> None:
        self.config, self.top_logprobs = config, top_logprobs
        self.address = address_of(config, server)
        self.key, url = self.address.key, self.address.url
        parts = urlsplit(url)
        self.url = without_userinfo(url)
        self.login = (unquote(parts.username or ""), unquote(parts.password or ""))
        basic = base64.b64encode(":".join(self.login).encode()).decode()
        self._secrets = (self.key, self.login[1], parts.password or "", basic)
        self.dialect = Dialect(config.prefill and not self.address.api_version)
        self._taken: frozenset[str] = frozenset()  # fields of requests that were answered

    def client(self) -> openai.AsyncOpenAI:
        """A client of its own for every event loop. A server of this machine needs no proxy."""
        import openai

        from caprl_native.inference.endpoint_http import BoundedClient, is_this_machine

        direct = is_this_machine(urlsplit(self.url).hostname or "")
        settings: dict[str, Any] = {
            "api_key": self.key or "none",  # without one it would look for OPENAI_API_KEY
            "timeout": self.config.timeout_s,
            "max_retries": self.config.retries,
            "http_client": BoundedClient(
                self.config.timeout_s,
                trust_env=not direct,
                auth=self.login if any(self.login) else None,
            ),
        }
        if self.address.api_version:
            return openai.AsyncAzureOpenAI(
                azure_endpoint=self.url, api_version=self.address.api_version, **settings
            )
        return openai.AsyncOpenAI(base_url=self.url, **settings)

    def request(
        self, messages: Sequence[dict[str, Any]], seed: int, opening: str = ""
    ) -> dict[str, Any]:
        """Keyword arguments of `chat.completions.create`; no thinking aloud where it can be told.

        `opening` opens the model's turn, where the server can go on with an opened one.
        """
        import openai

        turn: list[dict[str, Any]] = []
        extra: dict[str, Any] = {}
        if self.dialect.prefill:  # the server is known to take these
            extra = {"chat_template_kwargs": {"enable_thinking": False}}
        if self.dialect.prefill and opening:
            turn = [{"role": "assistant", "content": opening}]
            extra |= {"add_generation_prompt": False, "continue_final_message": True}
        penalty = getattr(self.config, "repetition_penalty", 1.0)
        if penalty != 1 and "repetition_penalty" not in self.dialect.left_out:
            extra["repetition_penalty"] = penalty
        wanted = {
            "temperature": self.config.temperature,
            "top_p": self.config.top_p,
            self.dialect.limit: self.config.max_tokens,
            "seed": seed % 2**31,
        }
        listed = {"logprobs": True, "top_logprobs": self.top_logprobs} if self.top_logprobs else {}
        return {
            "model": self.address.model or self.config.model,
            "messages": [*messages, *turn],
            **listed,
            **{k: v for k, v in wanted.items() if k not in self.dialect.left_out},
            "extra_headers": None if self.key else {"Authorization": openai.Omit()},
            "extra_body": extra,
        }

    def took(self, request: dict[str, Any]) -> None:
        """The server answered this request: it takes its fields."""
        self._taken |= _fields(request)

    def adapts(
        self, request: dict[str, Any], spoken: Dialect, error: openai.APIStatusError
    ) -> bool:
        """Whether a request that was refused is worth sending again, now in another form.

        A server that takes no `max_tokens` or no opened turn says so to the first request.
        `spoken`: what the request was made by; others may have learnt in the meantime.
        """
        if spoken != self.dialect:
            return True
        if error.status_code not in (400, 422):
            return False
        refused = refused_fields(error.response.text, _fields(request) - self._taken)
        if spoken.without(refused) == spoken:
            return False
        self.dialect = spoken.without(refused)
        log.warning(
            "%s does not take %s; requests go on without (%s)",
            self.url,
            ", ".join(sorted(refused)),
            self.redacted(str(error))[:200],
        )
        return True

    def redacted(self, text: str) -> str:
        """A text of the server's, which may quote the request, key included, in one line."""
        return redact(" ".join(text.split()), *self._secrets)

    def reason(self, error: Exception) -> str:
        """What went wrong, in one line."""
        return self.failure(_text_of(error))

    def failure(self, text: str) -> str:
        """A failure that says whose it is."""
        return f"{redact(self.url)}: {self.redacted(text[: 4 * _REASON])[:_REASON]}"


def _attempts(error: openai.APIError) -> int:
    """How many requests ended in this failure, the client's own further attempts included."""
    return 1 + int(error.request.headers.get("x-stainless-retry-count", 0))


def _text_of(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    if error.__cause__ is not None and str(error.__cause__):
        text = f"{text.rstrip('.')}: {error.__cause__}"
    return text


def _fields(request: dict[str, Any]) -> frozenset[str]:
    known = _PREFILL | _OPTIONAL | set(_LIMITS)
    return frozenset(known & (request.keys() | request["extra_body"].keys()))


# --- asking -----------------------------------------------------------------------------------


class Connection:
    """The requests of one event loop to an endpoint.

    A server that has not answered `concurrency` requests in a row (3 at least), their retries
    included, is given up: what else is asked fails at once, so that a server that hangs costs the
    time of a round of requests or two, and not of all. `hope` gives it one more chance.
    """

    def __init__(self, server: Endpoint) -> None:
        self.server, self._client = server, server.client()
        self._lost, self._most = 0, max(_LEAST_LOST, server.config.concurrency)
        self.given_up, self._doubtful = "", False
        self._trial = asyncio.Lock()

    async def ask(self, messages: Sequence[dict[str, Any]], seed: int, opening: str = "") -> Said:
        """The model's reply, or why there is none; it raises nothing that a server can cause."""
        if self._doubtful:
            async with self._trial:  # one request alone; the others wait for what it finds
                if self._doubtful:
                    return await self.attempt(messages, seed, opening, retries=0)
        if self.given_up:
            return Said(failure=self.given_up, unanswered=True)
        return await self.attempt(messages, seed, opening, self.server.config.retries)

    def hope(self) -> None:
        """A server that was given up is tried again, by one request."""
        if self.given_up:
            self.given_up, self._doubtful = "", True

    async def close(self) -> None:
        await self._client.close()

    async def attempt(
        self, messages: Sequence[dict[str, Any]], seed: int, opening: str, retries: int
    ) -> Said:
        """The same, whatever is known of the server."""
        import openai

        began = time.monotonic()
        try:
            said = await self._sent(messages, seed, opening, retries)
        except openai.APIStatusError as error:
            slow = time.monotonic() - began > self.server.config.timeout_s
            if error.status_code >= 500 and slow:  # a gateway before a server that hangs
                self._count(error)
            elif error.status_code < 500 or self._doubtful:
                self._count(None)
            busy = error.status_code >= 500 or error.status_code in _BUSY
            refused = error.status_code in _REFUSALS
            failure, sent = self.server.reason(error), _attempts(error)
            return Said(failure=failure, unanswered=busy, refused=refused, requests=sent)
        except openai.APIConnectionError as error:  # timeouts are of this kind, too
            self._count(error)
            failure = self.server.reason(error)
            return Said(failure=failure, unanswered=True, requests=_attempts(error))
        except (openai.OpenAIError, ValueError) as error:  # ValueError: a chat that is no Unicode
            return Said(failure=self.server.reason(error))
        self._count(None)
        if said.failure:
            return replace(said, failure=self.server.failure(said.failure), refused=True)
        return said

    async def _sent(
        self, messages: Sequence[dict[str, Any]], seed: int, opening: str, retries: int
    ) -> Said:
        """Sends the request, again in another form if the server does not take this one."""
        import openai

        create = self._client.with_options(max_retries=retries).chat.completions.with_raw_response
        while True:
            spoken = self.server.dialect
            request = self.server.request(messages, seed, opening)
            try:
                reply = await create.create(**request)
            except openai.APIStatusError as error:
                if self.server.adapts(request, spoken, error):
                    continue
                raise
            self.server.took(request)
            sent = 1 + reply.retries_taken
            if self.server.top_logprobs:
                said = read_top_tokens(reply.content)
                return replace(said, opened=bool(spoken.prefill and opening), requests=sent)
            said = read_reply(reply.content, opening if spoken.prefill else "")
            return replace(said, requests=sent)

    def _count(self, error: Exception | None) -> None:
        """Of a request that was answered (None), or that was not."""
        if error is None:
            self._lost, self.given_up, self._doubtful = 0, "", False
            return
        self._lost += 1
        if self._doubtful or self._lost >= self._most:
            self._doubtful = False
            self.given_up = self.server.failure(
                f"given up after {self._lost} requests in a row without an answer; the last: "
                + _text_of(error)
            )
