"""Every setting of the reward server: `[server]`, and `[reward]` as a training run has it."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NoReturn

from pydantic import Field

from caprl_native.bounds import UserPath
from caprl_native.config.cli import ConfigError, Origins
from caprl_native.config.fields import Table
from caprl_native.config.rules import Rules, check_options, check_readers
from caprl_native.config.schema import Program, RewardConfig
from caprl_native.dry_run import check_keys, check_models
from caprl_native.rewards.service.protocol import JUDGE_TERM, QA_TERMS

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LONGEST_TOKEN = 4096  # bytes


class ServerConfig(Table):
    """Where the server listens, what it takes, and what works behind it."""

    host: str = Field("127.0.0.1", description="Address to listen at; 0.0.0.0: every interface.")
    port: int = Field(18889, ge=0, le=65535, description="Port; 0: a free one, which is printed.")
    token_env: str = Field(
        "", description="Environment variable that holds the token that clients have to send."
    )
    token_file: UserPath = Field("", description="Or the file that holds it; neither: no token.")
    mode: Literal["qa", "vl_judge"] = Field(
        "qa", description="What a request without score_mode means."
    )
    task: Literal["image", "video"] = Field(
        "video", description="What captions are of where a request does not say it."
    )
    seed: int = Field(0, ge=0, description="Seed of draws where a request has none.")
    strict: bool = Field(
        False,
        description="A caption that cannot be scored fails its request (502), for clients that "
        "cannot read null.",
    )
    replicas: int = Field(
        1, ge=1, description="Copies of the reward, as Ray actors where there are several."
    )
    ray: str = Field(
        "", description='Address of a Ray cluster for them ("auto"); empty: this machine.'
    )
    media_roots: list[UserPath] = Field(
        [], description="Folders whose media requests may name; none: no path is opened."
    )
    max_body_mib: int = Field(64, ge=1, le=1024, description="Longest body of a request, MiB.")
    max_depth: int = Field(16, ge=8, le=200, description="Deepest nesting of its JSON.")
    max_captions: int = Field(4096, ge=1, description="Captions of one request.")
    max_caption_chars: int = Field(65536, ge=1, description="Longest caption, in characters.")
    max_questions: int = Field(256, ge=1, description="Questions on one caption.")
    max_question_chars: int = Field(
        16384, ge=1, description="Longest question with its choices, in characters."
    )
    max_waiting: int = Field(
        16384, ge=1, description="Captions waiting or being scored; then requests get status 429."
    )
    max_requests: int = Field(
        512, ge=1, description="Requests at a time; then others get status 503."
    )
    body_s: float = Field(30.0, gt=0, description="Seconds in which a request has to arrive.")
    timeout_s: float = Field(
        600.0, gt=0, description="Seconds until what is not scored is answered as missing."
    )
    hung_s: float = Field(
        300.0,
        ge=0,
        description="Seconds that a worker in a process of its own may take over some captions; "
        "then it is replaced, and another one scores them. 0: any time.",
    )
    drain_s: float = Field(30.0, gt=0, description="Seconds to finish in after a signal.")


class ServiceConfig(Program):
    """The whole of a reward server's settings."""

    server: ServerConfig = Field(default_factory=ServerConfig)
    reward: RewardConfig = Field(default_factory=RewardConfig)


def check(config: ServiceConfig, origins: Origins) -> None:
    """Raises ConfigError for settings that contradict each other or leave something open."""

    def fail(key: str, problem: str) -> NoReturn:
        raise ConfigError(f"{origins.of(key)}: {key}: {problem}")

    server = config.server
    _check_terms(config, fail)
    if server.token_env and server.token_file:
        fail("server.token_file", "contradicts server.token_env: give one of them")
    if server.token_env and not _NAME.fullmatch(server.token_env):
        fail("server.token_env", "is not the name of an environment variable (it is not shown)")
    if server.max_captions > server.max_waiting:
        fail("server.max_captions", "expected no more than server.max_waiting")
    for name in server.media_roots:
        if not Path(name).is_dir():
            fail("server.media_roots", f"{name} is no folder")
    held_out = config.reward.held_out_reader
    if held_out.is_given:
        key = f"reward.held_out_reader.{'path' if held_out.path else 'endpoint'}"
        fail(key, "none: it is a run's, which compares captions by it")
    rules = Rules(config, origins)
    check_readers(rules, config.reward)
    check_options(rules)


def check_machine(config: ServiceConfig, origins: Origins) -> None:
    """Raises ConfigError where a model or a key that the workers need is not here.

    Of a cluster's machines, which have models of their own, nothing is known.
    """
    if config.server.ray not in ("", "local"):
        return
    reward = config.reward
    check_models({f"{key}.path": its.path for key, its in reward.in_process.items()}, origins)
    check_keys(Rules(config, origins), reward)


def _check_terms(config: ServiceConfig, fail: Callable[[str, str], NoReturn]) -> None:
    terms = {name for name, options in config.reward.terms.items() if options.weight}
    known = (*QA_TERMS, JUDGE_TERM)
    for name in sorted(terms - set(known)):
        fail(
            f"reward.terms.{name}",
            f"is no term of the protocol, which has {', '.join(known)}; what needs the policy's "
            "tokens, such as the length, is the client's to add",
        )
    stamps = config.reward.terms.get(QA_TERMS[1])
    if stamps and stamps.weight and getattr(stamps, "rule", "") == "checked":
        fail(
            f"reward.terms.{QA_TERMS[1]}.rule",
            'expected "release" or "density": no request says how long a video is',
        )
    needed = {"qa": QA_TERMS[0], "vl_judge": JUDGE_TERM}[config.server.mode]
    if needed not in terms:
        fail("server.mode", f'"{config.server.mode}" needs reward.terms.{needed}')


def has_engine(reward: RewardConfig) -> bool:
    """Whether a model runs in a worker's own process: a reader, or a term's own (a judge)."""
    return bool(reward.in_process) or any(o.engine_shares for o in reward.terms.values())


def token_of(server: ServerConfig) -> str:
    """The token that clients have to send; empty where there is none. Its text is never shown.

    Raises ConfigError where the variable or the file that should hold it does not.
    """
    if server.token_env:
        token, where = os.environ.get(server.token_env, "").strip(), "server.token_env"
    elif server.token_file:
        token, where = _token_in(server.token_file), "server.token_file"
    else:
        return ""
    if not token or not token.isascii() or not token.isprintable() or len(token) > _LONGEST_TOKEN:
        raise ConfigError(f"{where}: expected a token of printable ASCII characters, none found")
    return token


def _token_in(name: str) -> str:
    try:
        with open(name, encoding="utf-8") as file:
            return file.read(_LONGEST_TOKEN + 2).strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ConfigError(f"server.token_file: {name} cannot be read: {reason}") from None


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches a server that listens at `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
