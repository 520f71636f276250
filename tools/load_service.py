"""Loads a reward server while its workers are killed, and says what became of every caption.

    python tools/load_service.py                                    # a rule scores: the HTTP side
    python tools/load_service.py --reader demo_models/reader --captions 4000

Clients send requests of the reference's protocol at the same time, some of them malformed; a worker
is killed every few seconds. Each well-formed caption is worth a number that its text tells, so that
a lost, doubled, exchanged or invented answer shows. With a reader, what it says is compared with a
second request for the same captions. It exits with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # works without an installation

import httpx  # noqa: E402
import psutil  # noqa: E402

from caprl_native.testing.reward_server import RewardServer, reward_server  # noqa: E402

RULE = "caprl_native.testing.reward_rules:told"
PAIRS = [
    [f"What is the {name}?\n   - A) {a}\n   - B) {b}", "A"]
    for name, a, b in (("colour", "red", "blue"), ("shape", "circle", "square"))
]
MALFORMED: list[tuple[bytes, int]] = [
    (b"{", 400),
    (b"[" * 1000, 400),
    (b'{"prompts": [["x", [["q", 7]]]]}', 400),
    (b'{"prompts": [["x"]]}', 400),
    (b'{"prompts": [], "seed": NaN}', 400),
    (b'{"prompts": [], "prompts": []}', 400),
]
PAUSE_S = 0.2  # between attempts of a client that was told to come back


@dataclass
class Tally:
    """What clients saw, by caption number and by status."""

    answers: Counter[int] = field(default_factory=Counter)
    rewards: dict[int, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    malformed: int = 0
    seconds: list[float] = field(default_factory=list)
    kills: int = 0
    memory: list[tuple[int, int, int]] = field(default_factory=list)  # answered, server, workers


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--captions", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8, help="captions of one request")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--kill-every", type=float, default=3.0, help="seconds; 0: never")
    parser.add_argument("--malformed", type=float, default=0.01, help="share of requests")
    parser.add_argument("--work-ms", type=float, default=10.0, help="that the rule takes a caption")
    parser.add_argument("--reader", default="", help="a model directory; empty: a rule scores")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def settings(args: argparse.Namespace) -> str:
    """The server's config, in TOML."""
    server = f'[server]\nreplicas = {args.workers}\ntask = "image"\nray = "local"\n'
    if args.reader:
        return f"""{server}
[reward.terms.accuracy]
questions = "own"
draws = 2
[reward.reader]
path = "{Path(args.reader).resolve()}"
dtype = "float32"
max_model_len = 256
kv_cache_gib = 0.25
"""
    return f"""{server}
[reward.terms.accuracy]
type = "custom"
import_path = "{RULE}"
concurrency = 1
timeout_s = 600
options = {{ work_s = {args.work_ms / 1000} }}
"""


def caption(number: int) -> str:
    """A caption that tells its number."""
    return f"caption {number} a {'red' if number % 3 else 'blue'} circle"


def worth(number: int) -> float:
    """What the rule gives it."""
    return number % 1000 / 1000


# --- clients ----------------------------------------------------------------------------------


async def client(
    http: httpx.AsyncClient, url: str, work: list[list[int]], args: argparse.Namespace, tally: Tally
) -> None:
    """Sends what is left of the work, one request after the other."""
    rng = random.Random(f"{args.seed}-{id(work)}-{len(work)}")
    while work:
        mine = work.pop()  # before the others have a turn
        if rng.random() < args.malformed:
            await malformed(http, url, rng, tally)
        await ask(http, url, mine, tally, told=not args.reader)


async def malformed(http: httpx.AsyncClient, url: str, rng: random.Random, tally: Tally) -> None:
    body, expected = rng.choice(MALFORMED)
    reply = await http.post(url, content=body, headers={"Content-Type": "application/json"})
    tally.malformed += 1
    tally.statuses[reply.status_code] += 1
    if reply.status_code != expected or "rewards" in reply.json():
        tally.wrong.append(f"a malformed request got {reply.status_code}: {body[:60]!r}")


async def ask(
    http: httpx.AsyncClient, url: str, numbers: list[int], tally: Tally, told: bool
) -> None:
    """One request, sent again as long as the server says to come back."""
    prompts = [[caption(number), PAIRS] for number in numbers]
    body = {"prompts": prompts, "query": [], "labels": []}
    began = time.monotonic()
    while True:
        reply = await http.post(url, json=body)
        tally.statuses[reply.status_code] += 1
        if reply.status_code not in (429, 503):
            break
        await asyncio.sleep(PAUSE_S)
    tally.seconds.append(time.monotonic() - began)
    if reply.status_code != 200:
        tally.wrong.append(f"a well-formed request got {reply.status_code}: {reply.text[:100]}")
        return
    note(numbers, reply.json(), tally, told)


def note(numbers: list[int], reply: dict[str, Any], tally: Tally, told: bool) -> None:
    """Compares a reply with what it has to be."""
    rewards, failures = reply["rewards"], reply.get("failures", {})
    if len(rewards) != len(numbers):
        tally.wrong.append(f"{len(rewards)} rewards for {len(numbers)} captions")
        return
    for i, (number, reward) in enumerate(zip(numbers, rewards, strict=True)):
        tally.answers[number] += 1
        if reward is None:
            tally.missing.append(failures.get(str(i), "no reason"))
        elif told and reward != worth(number):
            tally.wrong.append(f"caption {number} got {reward}")
        else:
            tally.rewards[number] = reward


# --- the server's side ------------------------------------------------------------------------


async def kill_workers(server: RewardServer, every_s: float, seed: int, tally: Tally) -> None:
    """Kills one of the workers, whichever, every so often, where two or more are at work.

    Killed faster than they can start, none would ever score anything.
    """
    rng = random.Random(seed)
    while every_s:
        await asyncio.sleep(every_s)
        while await asyncio.to_thread(at_work, server) < 2:
            await asyncio.sleep(0.1)
        workers = await asyncio.to_thread(server.workers)
        if workers:
            rng.choice(workers).kill()
            tally.kills += 1


def at_work(server: RewardServer) -> int:
    """How many workers have loaded what they need."""
    found = [
        line for line in server.get("/metrics")[1].splitlines() if line[:13] == "caprl_workers"
    ]
    return int(found[0].split()[1]) if found else 0


async def watch_memory(server: RewardServer, tally: Tally, every_s: float = 1.0) -> None:
    """Notes how much the server's process and its workers hold, in bytes."""
    assert server.process is not None
    main = psutil.Process(server.process.pid)
    while True:
        workers = await asyncio.to_thread(server.workers)
        held = [_resident(p) for p in workers]
        tally.memory.append((len(tally.answers), _resident(main), max(held, default=0)))
        await asyncio.sleep(every_s)


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


async def load(server: RewardServer, args: argparse.Namespace) -> Tally:
    """The whole load."""
    tally, numbers = Tally(), list(range(args.captions))
    work = [numbers[i : i + args.batch] for i in range(0, args.captions, args.batch)]
    limits = httpx.Limits(max_connections=args.clients, max_keepalive_connections=args.clients)
    async with httpx.AsyncClient(timeout=600, limits=limits, trust_env=False) as http:
        beside = [
            asyncio.create_task(kill_workers(server, args.kill_every, args.seed, tally)),
            asyncio.create_task(watch_memory(server, tally)),
        ]
        clients = (client(http, server.url, work, args, tally) for _ in range(args.clients))
        await asyncio.gather(*clients)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        if args.reader:
            await compare(http, server, args, tally)
    return tally


async def compare(
    http: httpx.AsyncClient, server: RewardServer, args: argparse.Namespace, tally: Tally
) -> None:
    """Asks some captions a second time: the same request has the same answer."""
    again = Tally()
    numbers = random.Random(args.seed).sample(range(args.captions), min(256, args.captions))
    for i in range(0, len(numbers), args.batch):
        await ask(http, server.url, numbers[i : i + args.batch], again, told=False)
    for number, reward in again.rewards.items():
        if tally.rewards.get(number, reward) != reward:
            tally.wrong.append(f"caption {number}: {tally.rewards[number]}, then {reward}")


# --- the table --------------------------------------------------------------------------------


def report(args: argparse.Namespace, tally: Tally, seconds: float, metrics: str) -> int:
    """Prints what was found; the number of captions and requests that went wrong."""
    once = sum(count == 1 for count in tally.answers.values())
    counted = {line.split()[0]: line.split()[1] for line in metrics.splitlines() if line[0] != "#"}
    late = sorted(tally.seconds)
    half = [m for m in tally.memory if m[0] >= args.captions / 4] or tally.memory
    rows = [
        ("captions", args.captions),
        (
            "scored by",
            f"the reader {args.reader}" if args.reader else f"a rule, {args.work_ms:g} ms",
        ),
        ("clients, workers", f"{args.clients}, {args.workers}"),
        ("answered exactly once", once),
        ("answered with a reward", len(tally.rewards)),
        ("missing, with a reason", len(tally.missing)),
        ("wrong or invented", len(tally.wrong)),
        ("malformed requests, all refused", tally.malformed),
        ("replies by status", dict(sorted(tally.statuses.items()))),
        ("workers killed", tally.kills),
        (
            "worker deaths, captions redone",
            f"{counted['caprl_worker_deaths_total']}, {counted['caprl_captions_redone_total']}",
        ),
        ("seconds, captions per second", f"{seconds:.1f}, {args.captions / seconds:.0f}"),
        (
            "request's median, 99%, longest",
            ", ".join(f"{late[int(share * (len(late) - 1))]:.2f} s" for share in (0.5, 0.99, 1)),
        ),
        ("server's memory after 25%, at the end", _growth([m[1] for m in half])),
        (
            "largest worker's memory, median",
            f"{statistics.median(m[2] for m in half) / 2**20:.0f} MiB",
        ),
    ]
    for name, value in rows:
        print(f"{name:<40}{value}")
    for text in [*tally.wrong[:5], *tally.missing[:5]]:
        print(f"  {text}")
    return len(tally.wrong) + len(tally.missing) + args.captions - once


def _growth(held: list[int]) -> str:
    first, last = held[0] / 2**20, held[-1] / 2**20
    return f"{first:.0f} MiB, {last:.0f} MiB ({100 * (last / first - 1):+.1f}%)"


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    args = arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the server ends, too
    with (
        tempfile.TemporaryDirectory() as folder,
        reward_server(settings(args), Path(folder)) as server,
    ):
        began = time.monotonic()
        tally = asyncio.run(load(server, args))
        seconds = time.monotonic() - began
        bad = report(args, tally, seconds, server.get("/metrics")[1])
    print(json.dumps({"bad": bad}))
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
