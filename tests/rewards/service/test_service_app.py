"""The routes without a process of their own, and without workers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import httpx
import pytest

from caprl_native.config.reward import RewardConfig
from caprl_native.rewards.service import app
from caprl_native.rewards.service.config import ServerConfig, ServiceConfig
from caprl_native.rewards.service.counters import Counters
from caprl_native.rewards.service.protocol import Job, Outcome

PAIR = ["What colour?\n   - A) red\n   - B) blue", "B"]


class Ready:
    """A pool that scores all alike."""

    is_ready = has_started = True
    in_flight = 0

    async def score(self, jobs: Sequence[Job], timeout_s: float) -> list[Outcome]:
        return [Outcome({"accuracy": 0.5}) for _ in jobs]


@pytest.mark.parametrize("why", ["long", "files"])
def test_long_bodies_and_files_do_not_hold_the_loop_up(why, monkeypatch, tmp_path):
    seen: list[threading.Thread] = []
    plain = app.jobs_of_prompts

    def noting(*given):
        seen.append(threading.current_thread())
        return plain(*given)

    monkeypatch.setattr(app, "jobs_of_prompts", noting)
    monkeypatch.setattr(app, "_LARGE", 1 if why == "long" else 1 << 20)
    server = ServerConfig(media_roots=[str(tmp_path)] if why == "files" else [])
    config = ServiceConfig(server=server, reward=RewardConfig(terms={"accuracy": {}}))

    async def asked() -> httpx.Response:
        built = app.build_app(app.Service(config, Ready(), Counters()), "")  # type: ignore[arg-type]
        transport = httpx.ASGITransport(app=built)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.post("/get_reward", json={"prompts": [["a", [PAIR]]]})

    assert asyncio.run(asked()).json() == {"rewards": [0.5], "qa_rewards": [0.5]}
    assert seen and threading.main_thread() not in seen
