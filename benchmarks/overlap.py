"""Rewards while captions are still being written, against rewards after the last one.

    python benchmarks/overlap.py process|server|elsewhere

The demo's models on the demo's world, one rank with one thread; the steps take turns, with overlap
and without. The reader is an engine in the same process, or vLLM's own server in others, or a
stand-in for one on another machine: a server that waits before it answers, and computes nothing.
Seconds are those from the prompts to the last reward: the rest of a step is the same on both sides.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
from common import ROOT, summary
from launch import free_port
from tqdm import tqdm

from caprl_native.config.cli import parse_cli
from caprl_native.config.schema import Config
from caprl_native.distributed.world import init_distributed
from caprl_native.testing.chat_server import Reply, serve
from caprl_native.testing.demo_world.datasets import write_world
from caprl_native.trainer import Trainer

REPEATS = 5
READER = ROOT / "demo_models" / "reader"
MOST_AT_ONCE = 32  # captions, of 128: as in a real run, most wait for their turn
# Questions of a caption, at an endpoint and in process: reading takes about as long as writing.
DRAWS = {True: 1, False: 2}
ANSWER_S = 0.2  # of the stand-in
AT_ONCE = 16  # requests under way, at either endpoint


@contextmanager
def server() -> Iterator[str]:
    """The URL of vLLM's server with the demo's reader."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(READER), "--served-model-name", "reader", "--dtype", "float32"),
        *("--host", "127.0.0.1", "--port", str(port), "--max-model-len", "256"),
        *("--no-enable-chunked-prefill", "--max-num-batched-tokens", "4096"),
        *("--no-enable-prefix-caching", "--disable-uvicorn-access-log"),
    ]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    process = subprocess.Popen(command, env=environment, stdout=sys.stderr)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            if process.poll() is not None:
                raise RuntimeError(f"the server ended with {process.returncode}")
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield f"{url}/v1"
    finally:
        process.terminate()
        process.wait(60)


def config_of(folder: Path, endpoint: str) -> Config:
    reader = [
        *(f"--reward.reader.endpoint={endpoint}", "--reward.reader.model=reader"),
        *("--reward.reader.path=", f"--reward.reader.concurrency={AT_ONCE}"),
    ]
    argv = [
        *("--config", str(ROOT / "train_configs" / "demo.toml"), f"--run.dir={folder}/run"),
        f"--data.files=['{folder}/world/train.jsonl']",
        *("--data.eval_files=[]", "--eval.every=0", "--run.export=false"),
        f"--policy.path={ROOT}/demo_models/policy",
        f"--rollout.max_num_seqs={MOST_AT_ONCE}",
        *("--reward.terms.accuracy.questions=own", "--reward.terms.accuracy.answers=sampled"),
        f"--reward.terms.accuracy.draws={DRAWS[bool(endpoint)]}",
        *(reader if endpoint else [f"--reward.reader.path={READER}"]),
    ]
    return parse_cli(Config, argv, "overlap").config


def measure(folder: Path, endpoint: str = "") -> dict[str, Any]:
    """Seconds from prompts to rewards, and what captions and the rest of the reading take alone."""
    config = config_of(folder, endpoint)
    trainer = Trainer(config, init_distributed(threads=1))
    seconds: dict[bool, list[float]] = {True: [], False: []}
    times: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    trainer.begin()
    for i in tqdm(range(1 + REPEATS), desc="overlap"):
        items = trainer.next_prompts()
        for overlap in (True, False) if i % 2 else (False, True):
            trainer.rubric.overlap = overlap
            trainer.log.take_seconds()
            began = time.perf_counter()
            batch = trainer.rollout(items, step=i)
            trainer.score(batch)
            taken = time.perf_counter() - began
            failures = [r.failure for g in batch.groups for r in g.rollouts if r.failure]
            if failures:
                raise RuntimeError(f"{len(failures)} captions without a reward: {failures[0]}")
            if i:
                seconds[overlap].append(taken)
                times[overlap].append(trainer.log.take_seconds()[1])
    trainer.close()
    if dist.is_initialized():
        dist.destroy_process_group()
    on, off = seconds[True], seconds[False]
    return {
        "on_s": summary(on),
        "off_s": summary(off),
        "ratio": summary([b / a for a, b in zip(on, off, strict=True)]),
        "off_rollout_s": summary([t["time/rollout"] for t in times[False]]),
        "off_reward_s": summary([t["time/reward"] for t in times[False]]),
    }


def main() -> None:
    (where,) = sys.argv[1:]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "world").mkdir()
        write_world(folder / "world", "train", images=96, videos=32, seed=0)
        if where == "process":
            print(json.dumps(measure(folder)))
        elif where == "elsewhere":
            with serve(lambda _: Reply(after_s=ANSWER_S)) as stand_in:
                print(json.dumps(measure(folder, stand_in.url)))
        else:
            with server() as url:
                print(json.dumps(measure(folder, url)))


if __name__ == "__main__":
    main()
