"""Captions as a job writes them, against the bare engine, on the same requests.

    python benchmarks/bulk.py [--images 1024] [--repeats 5] [--replicas 0]

"engine": the engine of vLLM with all prompts submitted at once, their pictures decoded before.
"complete": a model's `complete`, as jobs and evaluations call it: encoded pictures in memory are
decoded by threads of this process while the engine steps. "job": the same through the runner of
jobs, which writes results to disk. All three use one engine, and its caches are empty at the start
of each turn. What counts is the ratio of the medians of their throughputs.

`--replicas N`: "complete" and "job" of N copies as Ray actors; then there is no "engine".
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
from common import MODEL, alternated, summary

from caprl_native.config.media import MediaConfig
from caprl_native.config.models import CaptionerConfig
from caprl_native.data.listing import Entry
from caprl_native.data.media import decode
from caprl_native.inference.engine_model import EngineModel
from caprl_native.inference.jobs.ledger import Ledger
from caprl_native.inference.jobs.runner import run_job
from caprl_native.inference.jobs.task import Outcome, Task
from caprl_native.inference.models import Model, Request, Result
from caprl_native.inference.room import open_model
from caprl_native.inference.store import Reply
from caprl_native.testing.samples import noise_image
from caprl_native.testing.tiny_models import write_tiny_vlm
from caprl_native.types import MediaRef

TOKENS, SIZE = 64, (96, 64)  # of a caption at most; width and height of a picture
MEDIA = MediaConfig()
CHAT = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe"}]},)


def entry(number: int) -> Entry:
    """A picture of noise, encoded, in memory."""
    file = io.BytesIO()
    noise_image(number, SIZE).image.save(file, "PNG")
    medium = MediaRef("image", data=file.getvalue(), label=f"picture {number}")
    return Entry(str(number), (medium,))


class Caption(Task):
    """The simplest job: a request per picture."""

    identity = ["benchmark"]

    def requests(self, entry: Entry) -> Sequence[Request]:
        return [Request(("0",), CHAT, int(entry.id), entry.id, entry.media)]

    def finish(self, entry: Entry, replies: Mapping[str, Reply]) -> Outcome:
        reply = replies["0"]
        return Outcome({"caption": reply.text, "tokens": reply.tokens}, reply.failure or "")


class Kept:
    """A model that stays open when a job has ended."""

    def __init__(self, model: Model) -> None:
        self.complete: Callable[..., Iterator[Result]] = model.complete

    def close(self) -> None: ...


class Sides:
    """The ways to have all pictures captioned; each returns the captions by number."""

    def __init__(self, model: Model, images: int, folder: Path) -> None:
        self.model, self.folder, self.runs = model, folder, 0
        self.entries = [entry(i) for i in range(images)]
        self.tokens: dict[str, int] = {}
        if isinstance(model, EngineModel):
            samples = [Caption().requests(e)[0].sample for e in self.entries]
            self.prompts = [model.builder.for_engine(s, decode(s, MEDIA)) for s in samples]

    def engine(self) -> dict[str, str]:
        model = self.fresh()
        seeds = range(len(self.prompts))
        found = model.engine.generate(self.prompts, model.sampling, list(seeds))
        self.tokens["engine"] = sum(len(g.completions[0].token_ids) for g in found)
        return {str(i): g.completions[0].text.strip() for i, g in enumerate(found)}

    def complete(self) -> dict[str, str]:
        self.fresh()
        requests = (Request((e.id,), CHAT, int(e.id), e.id, e.media) for e in self.entries)
        found = list(self.model.complete(requests))
        self.tokens["complete"] = sum(r.reply.tokens or 0 for r in found)
        return {r.key: r.reply.text or "" for r in found}

    def job(self) -> dict[str, str]:
        self.fresh()
        self.runs += 1
        ledger = Ledger(self.folder / str(self.runs), Caption.identity, 1000)
        run_job(Caption(), self.entries, lambda: Kept(self.model), ledger, progress=False)
        found = list(ledger.results())
        ledger.close()
        records: list[dict[str, Any]] = [r.record or {} for r in found]
        self.tokens["job"] = sum(r["tokens"] for r in records)
        return {str(i): record["caption"] for i, record in enumerate(records)}

    def fresh(self) -> Any:
        """The model, whose engine remembers nothing (of replicas: what their engines remember)."""
        if isinstance(self.model, EngineModel):
            self.model.engine.reset_caches()
        return self.model


def measure(images: int, repeats: int, replicas: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = str(write_tiny_vlm(folder / "model", **MODEL))
        config = CaptionerConfig(
            path=path,
            max_tokens=TOKENS,
            temperature=0.0,  # on a CPU vLLM draws seeded samples one by one: slow on all sides
            max_model_len=1024,
            n=1,
            kv_cache_gib=1.0,
        )
        model: Model = (
            open_model(config, MEDIA, 0, replicas=replicas)
            if replicas
            else EngineModel(config, MEDIA, 0)
        )
        sides = Sides(model, images, folder)
        ways = ("complete", "job") if replicas else ("engine", "complete", "job")
        found: dict[str, dict[str, str]] = {}
        turns = {way: partial(_turn, found, way, getattr(sides, way)) for way in ways}
        seconds = alternated(turns, repeats)
        model.close()
        if dist.is_initialized():
            dist.destroy_process_group()
        taken = {way: summary(values) for way, values in seconds.items()}
        result: dict[str, Any] = {"images": images, "replicas": replicas, "seconds": taken}
        result["tokens"] = sides.tokens[ways[0]]
        result["same"] = all(captions == found[ways[0]] for captions in found.values())
        if not replicas:
            bare = taken["engine"]["median"]
            result["ratio"] = {way: bare / taken[way]["median"] for way in ways[1:]}
        return result


def _turn(found: dict[str, dict[str, str]], way: str, run: Callable[[], dict[str, str]]) -> None:
    began, used = time.perf_counter(), time.process_time()
    found[way] = run()
    took, used = time.perf_counter() - began, time.process_time() - used
    print(f"{way}: {took:.1f} s, {used:.1f} s of processor time", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--replicas", type=int, default=0)
    args = parser.parse_args()
    print(json.dumps(measure(args.images, args.repeats, args.replicas)), flush=True)


if __name__ == "__main__":
    main()
