"""The same captions by Ray Data and by this project's own actors.

    python benchmarks/ray_data.py [--images 1024] [--repeats 3] [--batches 64 256]

"own": a copy of the model as a Ray actor that is fed request by request (`ReplicatedModel`).
"batches of N": the same model in an actor of Ray Data's `map_batches`, which gets N pictures at a
time and returns their captions; measured from its first batch to its last, so that neither its
start nor the loading of the model counts. Pictures lie encoded in memory on both sides, and either
actor has all cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from bulk import CHAT, MEDIA, TOKENS, entry
from common import MODEL, summary

from caprl_native.config.models import CaptionerConfig
from caprl_native.inference.build import build_model, replies_at_once
from caprl_native.inference.models import Model, Request
from caprl_native.inference.ray_cluster import resources_of_one
from caprl_native.inference.replicas import ReplicatedModel
from caprl_native.testing.tiny_models import write_tiny_vlm
from caprl_native.types import MediaRef

Columns = dict[str, Any]


def request(number: int, picture: bytes) -> Request:
    medium = MediaRef("image", data=picture, label=f"picture {number}")
    return Request((str(number),), CHAT, number, str(number), (medium,))


class Batches:
    """What an actor of Ray Data runs: a batch in, its captions out."""

    def __init__(self, config: CaptionerConfig) -> None:
        self.model: Model = build_model(config, MEDIA, 0)
        list(self.model.complete([request(-1, entry(0).media[0].data or b"")]))  # warm

    def __call__(self, batch: Columns) -> Columns:
        began = time.time()
        requests = map(request, map(int, batch["number"]), batch["picture"])
        found = {int(r.key): r.reply.text or "" for r in self.model.complete(requests)}
        numbers = sorted(found)
        times = {"began": [began] * len(numbers), "ended": [time.time()] * len(numbers)}
        return {"number": numbers, "caption": [found[n] for n in numbers], **times}


def by_ray_data(
    config: CaptionerConfig, pictures: list[bytes], size: int
) -> tuple[float, dict[int, str]]:
    """Seconds from the first batch to the last, and the captions."""
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"number": i, "picture": p} for i, p in enumerate(pictures)]
    options: dict[str, Any] = {"concurrency": 1, "batch_size": size, **resources_of_one(ray, 1)}
    data = ray.data.from_items(rows, override_num_blocks=len(rows) // size)
    out = data.map_batches(Batches, fn_constructor_args=[config], **options).take_all()
    seconds = max(r["ended"] for r in out) - min(r["began"] for r in out)
    return seconds, {r["number"]: r["caption"] for r in out}


def by_own(config: CaptionerConfig, pictures: list[bytes]) -> tuple[float, dict[int, str]]:
    """Seconds of a copy that is loaded and warm, and the captions."""
    build = partial(build_model, config, MEDIA, 0)
    model = ReplicatedModel(build, replies_at_once(config), replicas=1, cluster="")
    list(model.complete([request(-1, pictures[0])]))
    began = time.time()
    requests = map(request, range(len(pictures)), pictures)
    found = {int(r.key): r.reply.text or "" for r in model.complete(requests)}
    seconds = time.time() - began
    model.close()
    return seconds, found


def measure(images: int, repeats: int, batches: list[int]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        path = str(write_tiny_vlm(Path(name) / "model", **MODEL))
        config = CaptionerConfig(
            path=path,
            max_tokens=TOKENS,
            temperature=0.0,
            max_model_len=1024,
            n=1,
            kv_cache_gib=1.0,
        )
        pictures = [entry(i).media[0].data or b"" for i in range(images)]
        ways = {"own": partial(by_own, config, pictures)}
        ways |= {f"batches of {n}": partial(by_ray_data, config, pictures, n) for n in batches}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        captions: dict[str, dict[int, str]] = {}
        for _ in range(repeats):
            for way, run in ways.items():
                took, captions[way] = run()
                seconds[way].append(took)
                print(f"{way}: {took:.1f} s", file=sys.stderr, flush=True)
    taken = {way: summary(values) for way, values in seconds.items()}
    own = taken["own"]["median"]
    return {
        "images": images,
        "seconds": taken,
        "same": all(found == captions["own"] for found in captions.values()),
        "ratio": {way: taken[way]["median"] / own for way in ways},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256])
    args = parser.parse_args()
    print(json.dumps(measure(args.images, args.repeats, args.batches)), flush=True)


if __name__ == "__main__":
    main()
