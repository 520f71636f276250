"""How well the ways to ask estimate the advantage, on the demo's reader and captions.

    python benchmarks/estimators.py [--policy DIR] [--groups 10] [--repeats 4]

Groups of captions are sampled from the demo's policy. The true reward of a caption is the expected
share of right answers over every question, over all orders that turn the choices on, of several
shuffles. A way to ask is judged by the correlation, over all captions, of its advantages within
groups with the true ones (reward minus the group's mean), each repeat a step of its own; beside it
what the reader reads and writes for one caption, and seconds. The reader's prefix cache holds what
questions of a caption share: tokens computed are fewer than those read.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, machine, summary
from tqdm import tqdm

from caprl_native.config.media import MediaConfig
from caprl_native.config.models import EngineConfig, ReaderConfig
from caprl_native.config.schema import DataConfig
from caprl_native.data.loader import LoadedSample, eval_batches
from caprl_native.data.records import read_records
from caprl_native.distributed.world import init_distributed
from caprl_native.policy.prompt import PromptBuilder, processor_kwargs
from caprl_native.rewards.base import Caption, TermContext
from caprl_native.rewards.prompts import ANSWER_PREFIX
from caprl_native.rewards.readers.base import Answer, Ask
from caprl_native.rewards.readers.engine import EngineReader
from caprl_native.rewards.terms.accuracy import Accuracy, AccuracyOptions
from caprl_native.rollout.captioner import Captioner
from caprl_native.rollout.engine import Engine, EngineSettings, Sampling
from caprl_native.testing.demo_world.datasets import write_world
from caprl_native.text.control_tokens import tokenized_chats
from caprl_native.types import Group

WAYS: dict[str, dict[str, Any]] = {
    "own + sampled": {"questions": "own", "answers": "sampled", "draws": 8},
    "shared + sampled": {"questions": "shared", "answers": "sampled", "draws": 8},
    "each + sampled": {"questions": "each", "answers": "sampled"},
    "own + expected": {"questions": "own", "answers": "expected", "draws": 8},
    "shared + expected": {"questions": "shared", "answers": "expected", "draws": 8},
    "each + expected": {"questions": "each", "answers": "expected"},
    "each + expected, 2 orders": {"questions": "each", "answers": "expected", "shuffles": 2},
    "each + expected, 4 orders": {"questions": "each", "answers": "expected", "shuffles": 4},
}
TRUTH = {"questions": "each", "answers": "expected", "shuffles": 26}  # all orders
SHUFFLES = 3  # of which the truth is the mean


class CountingReader:
    """A reader that counts the tokens of what it is asked and of what it says."""

    collective = True

    def __init__(self, reader: EngineReader) -> None:
        self.reader, self.read, self.written, self.asked = reader, 0, 0, 0

    def ask(self, asks: Sequence[Ask]) -> list[Future[Answer]]:
        """Counts prompts now and answers when they come."""
        chats = tokenized_chats(self.reader.tokenizer, [a.messages for a in asks], ANSWER_PREFIX)
        self.read += sum(map(len, chats))
        self.asked += len(asks)
        answers = self.reader.ask(asks)
        for answer in answers:
            answer.add_done_callback(self._count)
        return answers

    def _count(self, answer: Future[Answer]) -> None:
        text = answer.result().text
        ids = self.reader.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        self.written += len(ids) + 1  # the end's, or the one that is looked at


def captions(policy: Path, file: Path, groups: int, n: int) -> list[Group]:
    """Groups of n captions, sampled as the demo does."""
    media, data = MediaConfig(), DataConfig(batch_size=groups, workers=0)
    engine = Engine(
        EngineSettings(
            EngineConfig(
                max_model_len=512, max_num_seqs=128, kv_cache_gib=0.5, gpu_memory_utilization=0.3
            ),
            path=str(policy),
            dtype="float32",
            media_per_prompt=1,
            mm_processor_kwargs=processor_kwargs(str(policy), media),
        )
    )
    prepare = PromptBuilder(str(policy), media, data.max_prompt_tokens)
    captioner = Captioner(engine, Sampling(n=n, max_tokens=64), seed=0)
    records = read_records([file], kind="questions")
    (items,) = eval_batches(
        records, data, media, shard=0, num_shards=1, prepare=prepare, limit=groups
    )
    found = captioner.write([i for i in items if isinstance(i, LoadedSample)], step=0)
    engine.close()
    return found


def rewards(
    reader: CountingReader, groups: Sequence[Group], options: dict[str, Any], step: int
) -> np.ndarray:
    """`[groups, n]`."""
    term = Accuracy(AccuracyOptions(**options), TermContext(lambda: reader))
    reader.reader.reset()
    scores = [
        [
            term.submit(Caption(g.sample, r.text, len(r.token_ids), (0, step, g.sample.id, i)))
            for i, r in enumerate(g.rollouts)
        ]
        for g in groups
    ]
    reader.reader.finish()
    return np.array([[score.result().value for score in row] for row in scores], dtype=float)


def advantages(values: np.ndarray) -> np.ndarray:
    """Rewards less their group's mean."""
    return values - values.mean(axis=1, keepdims=True)


def measure(
    reader: CountingReader, groups: Sequence[Group], repeats: int
) -> Iterator[dict[str, Any]]:
    """A row per way to ask."""
    truths = [rewards(reader, groups, TRUTH, step=1000 + i) for i in range(SHUFFLES)]
    truth = advantages(np.mean(truths, axis=0))
    count = sum(len(g.rollouts) for g in groups)
    for name, options in tqdm(WAYS.items(), desc="estimators"):
        correlations, seconds = [], []
        reader.read = reader.written = reader.asked = 0
        for step in range(1, repeats + 1):
            began = time.perf_counter()
            found = advantages(rewards(reader, groups, options, step))
            seconds.append(time.perf_counter() - began)
            correlations.append(float(np.corrcoef(found.ravel(), truth.ravel())[0, 1]))
        per_caption = count * repeats
        yield {
            "way": name,
            "correlation": summary(correlations),
            "questions": reader.asked / per_caption,
            "tokens_read": reader.read / per_caption,
            "tokens_written": reader.written / per_caption,
            "seconds": summary(seconds),
        }


def table(result: dict[str, Any]) -> str:
    """As it stands in README.md and docs/rewards.md."""
    lines = [
        "| asked | correlation with the true advantage | questions | read | written | seconds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["rows"]:
        c, s = row["correlation"], row["seconds"]
        lines.append(
            f"| {row['way']} | {c['median']:.3f} ({c['min']:.3f} to {c['max']:.3f}) "
            f"| {row['questions']:.1f} | {row['tokens_read']:.0f} | {row['tokens_written']:.1f} "
            f"| {s['median']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Writes `results/estimators.json` and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--policy", type=Path, default=ROOT / "demo_models" / "policy")
    parser.add_argument("--reader", type=Path, default=ROOT / "demo_models" / "reader")
    parser.add_argument("--hard", action="store_true", help="20 questions a scene, not 7 or 9")
    parser.add_argument("--groups", type=int, default=10)
    parser.add_argument("--n", type=int, default=8, help="captions of a group")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/estimators.json")
    args = parser.parse_args()
    init_distributed()
    with tempfile.TemporaryDirectory() as name:
        scenes = {"images": args.groups, "videos": args.groups, "seed": 0, "hard": args.hard}
        file = write_world(Path(name), "train", **scenes)
        groups = captions(args.policy, file, args.groups, args.n)
        config = ReaderConfig(
            path=str(args.reader),
            dtype="float32",
            max_tokens=10,
            max_model_len=256,
            kv_cache_gib=0.5,
        )
        reader = CountingReader(EngineReader(config))
        result: dict[str, Any] = {
            "machine": machine(),
            "policy": args.policy.name,
            "hard": args.hard,
            "groups": len(groups),
            "captions": args.n,
            "repeats": args.repeats,
            "rows": [],
        }
        for row in measure(reader, groups, args.repeats):
            result["rows"].append(row)
            args.out.write_text(json.dumps(result, indent=2) + "\n")
        reader.reader.close()
    print(table(result))


if __name__ == "__main__":
    main()
