"""Spoils valid configs and records in every way, and looks for anything but a documented error.

    python tools/fuzz.py configs --count 20000
    python tools/fuzz.py records --count 20000 --seed 1
    python tools/fuzz.py benchmarks --count 20000   # annotation files of the evaluation

Case i depends on seed and i alone. Exits with 1 and a listing where anything but `ConfigError`, or
`DataError`, left the readers, where a message was long, or where a case took over two seconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the tests' examples, too

LIMIT_S = 2.0  # of a core, for one case
LONGEST = 12_000  # characters of an error message: 20 problems, each cut

TEXTS = ["", " ", "\0", "\ud800", "é", "😀", "a\nb", "<image>", "<video>", "<|image_pad|>", "[{",
         "{", "A", "A) x", "null", "~", "../x", "*", "[", "http://x", "x" * 5000, "\u2028", "\x7f",
         "--", "1e999", "file://", "data:x"]  # fmt: skip
NUMBERS = [0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 0.5, 1e308, float("nan"),
           float("inf"), -0.0, 3]  # fmt: skip
NAMES = ["id", "image", "images", "video", "videos", "prompt", "messages", "conversations", "text",
         "problem", "questions", "reward_model", "response", "caption", "role", "content", "type",
         "from", "value", "url", "path", "bytes", "choices", "answer", "question", "x"]  # fmt: skip


def any_value(rng: random.Random, depth: int = 0) -> Any:
    """Some value of any type."""
    kind = rng.randrange(8 if depth < 3 else 5)
    if kind < 2:
        return rng.choice(TEXTS)
    if kind == 2:
        return rng.choice(NUMBERS)
    if kind < 5:
        return rng.choice([None, True, False, [], {}])
    if kind == 5:
        return [any_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 6:
        names = rng.choices(NAMES, k=rng.randrange(4))
        return {name: any_value(rng, depth + 1) for name in names}
    value = any_value(rng, depth + 1)
    for _ in range(rng.choice([2, 20, 150, 300])):
        value = [value]
    return value


def spoilt(rng: random.Random, value: Any) -> Any:
    """The value with one thing in it changed: replaced, added, removed, doubled or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        return _spoilt_object(rng, dict(value))
    if isinstance(value, list) and value and rng.random() < 0.8:
        return _spoilt_list(rng, list(value))
    if isinstance(value, str) and value and rng.random() < 0.5:
        i = rng.randrange(len(value) + 1)
        return value[:i] + rng.choice(TEXTS) + value[i + rng.randrange(3) :]
    return any_value(rng)


def _spoilt_object(rng: random.Random, value: dict[str, Any]) -> dict[str, Any]:
    key = rng.choice(list(value))
    action = rng.randrange(8)
    if action == 0:
        del value[key]
    elif action == 1:
        value[rng.choice(NAMES + TEXTS)] = any_value(rng)
    elif action == 2:
        value[rng.choice(NAMES + TEXTS)] = value.pop(key)
    elif action == 3:
        value[key] = json.dumps(value[key])
    else:
        value[key] = spoilt(rng, value[key])
    return value


def _spoilt_list(rng: random.Random, value: list[Any]) -> list[Any]:
    i = rng.randrange(len(value))
    action = rng.randrange(8)
    if action == 0:
        del value[i]
    elif action == 1:
        value.insert(i, any_value(rng))
    elif action == 2:
        value += value * rng.choice([1, 1, 30])
    elif action == 3:
        value[i] = value
        value = list(value)
        value[i] = None
    else:
        value[i] = spoilt(rng, value[i])
    return value


def spoilt_bytes(rng: random.Random, data: bytes) -> bytes:
    """The bytes cut, with some changed, or with something put in between."""
    i = rng.randrange(len(data) + 1)
    action = rng.randrange(3)
    if action == 0:
        return data[:i]
    if action == 1:
        return data[:i] + rng.randbytes(rng.choice([1, 4, 40])) + data[i + 4 :]
    junk = [b"\x00", b"\xff\xfe", b'"', b"[" * 2000, b"}" * 3, b"\n", b"\\ud800", b"9" * 5000]
    return data[:i] + rng.choice(junk) + data[i:]


# Records


def valid_records() -> list[dict[str, Any]]:
    """One of every layout."""
    question = {"question": "Which?", "choices": ["A) Red", "B) Blue"], "answer": "B"}
    plain = {"question": "Is it?", "choices": {"A": "yes", "B": "no"}, "answer": "yes"}
    truth = {"ground_truth": [question, plain]}
    turn = [{"role": "user", "content": "<image>Describe."}]
    parts = [{"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "text", "text": "Go."}]
    llava = [{"from": "human", "value": "<image>\nGo."}, {"from": "gpt", "value": "A cat."}]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}
    embedded = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0="}}]
    return [
        {"messages": [{"role": "user", "content": embedded}, answer], "questions": [question]},
        {"id": "1", "images": ["a.png"], "prompt": turn, "reward_model": truth},
        {"video": "b.mp4", "reward_model": json.dumps(truth), "data_source": "x"},
        {"image": "a.png", "prompt": "Describe.", "questions": [question]},
        {"messages": [{"role": "user", "content": parts}], "questions": [plain]},
        {"id": 7, "image": "a.png", "problem": "Describe <image>.", "questions": [question] * 3},
        {"image": "a.png", "conversations": llava, "questions": [question]},
        {"image": {"bytes": None, "path": "a.png"}, "prompt": "Go.", "response": "A cat."},
        {"prompt": [{"role": "system", "content": "Hi."}, *turn], "caption": "x", "image": "a"},
    ]  # fmt: skip


def record_file(rng: random.Random, folder: Path) -> Path:
    """A data file of a few records, one of them spoilt, in one of the formats; or its bytes are."""
    records: list[Any] = rng.choices(valid_records(), k=rng.randrange(1, 4))
    i = rng.randrange(len(records))
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        records[i] = spoilt(rng, records[i])
    form = rng.choice(["jsonl"] * 6 + ["json", "parquet"])
    file = folder / f"d.{form}"
    if form == "parquet":
        _write_parquet(rng, file, records)
    elif form == "json":
        file.write_text(json.dumps(records, indent=rng.choice([None, 1])), "utf-8")
    else:
        file.write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")
    if rng.random() < 0.2 or form == "parquet" and rng.random() < 0.5:
        file.write_bytes(spoilt_bytes(rng, file.read_bytes()))
    return file


def _write_parquet(rng: random.Random, file: Path, records: list[Any]) -> None:
    """The spoilt records where Parquet can hold them, else one of them as a text in each field."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pa.Table.from_pylist([r for r in records if isinstance(r, dict)])
        pq.write_table(table, file, row_group_size=rng.choice([1, 2, 10]))
    except (
        pa.ArrowException,
        ValueError,
        TypeError,
        OverflowError,
        AttributeError,
        RecursionError,
    ):
        data = rng.randbytes(rng.choice([0, 3, 300]))
        cell = rng.choice([{"bytes": data, "path": None}, {"bytes": None, "path": "a"}, None])
        cells = {"image": [cell, {"bytes": data, "path": "b"}], "id": [1, rng.choice([None, 2])]}
        pq.write_table(pa.table(cells), file, compression=rng.choice(["none", "snappy"]))


def read_one(rng: random.Random, folder: Path) -> str:
    """Reads a spoilt data file and each of its samples; returns what came of it."""
    from caprl_native.data.invalid import Invalid
    from caprl_native.data.records import DataError, read_records

    file = record_file(rng, folder)
    kind = rng.choice(["questions", "questions", "response"])
    invalid = Invalid("drop", "drop", 1) if rng.random() < 0.3 else None
    prompt = rng.choice(["", "", "Go."])
    try:
        records = read_records([file], kind=kind, prompt_override=prompt, invalid=invalid)
        if rng.random() < 0.3:
            records.keep_decoded(folder / "cache")
        for i in range(len(records)):
            records[i]
    except DataError as error:
        return f"DataError: {error}"
    return "read"


# Annotation files of benchmarks


@functools.cache
def _annotations() -> tuple[tempfile.TemporaryDirectory[str], dict[str, Any]]:
    """A small file of every benchmark (the tests' examples), by name."""
    from tests.eval.benchmark_files import EXAMPLES, write_files
    from tests.eval.caption_files import WRITERS

    root = tempfile.TemporaryDirectory()
    folders = {name: Path(root.name, name) for name in [*EXAMPLES, *WRITERS]}
    for folder in folders.values():
        folder.mkdir()
    written = {name: write_files(folders[name], name) for name in EXAMPLES}
    return root, written | {name: write(folders[name]) for name, write in WRITERS.items()}


def benchmark_one(rng: random.Random, folder: Path) -> str:
    """Reads a spoilt annotation file and asks its items' questions; returns what came of it."""
    from caprl_native.data.records import DataError
    from eval.benchmarks import benchmarks
    from eval.items import Item

    name = rng.choice(sorted(_annotations()[1]))
    files = _annotations()[1][name]
    source = rng.choice(files.paths)
    file, data = folder / f"d{source.suffix}", source.read_bytes()
    if source.suffix in (".json", ".jsonl") and rng.random() < 0.8:
        lines = data.decode().splitlines() if source.suffix == ".jsonl" else [data.decode()]
        i = rng.randrange(len(lines))
        lines[i] = json.dumps(spoilt(rng, json.loads(lines[i])))
        data = "\n".join(lines).encode("utf-8")
    else:
        data = spoilt_bytes(rng, data)
    file.write_bytes(data)
    benchmark = benchmarks()[name]
    try:
        items = list(benchmark.read(dataclasses.replace(files, paths=(file,))))
    except DataError as error:
        return f"DataError: {error}"
    for item in items:
        if isinstance(item, Item):
            benchmark.chat(item, "A caption.")
            benchmark.prefix(item)
            if not benchmark.asks_reader:
                benchmark.score(item, "A caption.", "official")
    return "read"


# Configs


@functools.cache
def valid_configs() -> list[tuple[str, Any]]:
    """The recipes, each with its schema."""
    from caprl_native.config.schema import Config, SftConfig
    from eval.config import PrismConfig

    folder = Path(__file__).resolve().parent.parent / "train_configs"
    files = sorted(folder.glob("*.toml"))
    kinds = [
        PrismConfig
        if f.stem.startswith("prism")
        else SftConfig
        if "sft" in f.stem or f.stem.startswith("pretrain_")
        else Config
        for f in files
    ]
    return [(f.read_text(), kind) for f, kind in zip(files, kinds, strict=True)]


def spoilt_toml(rng: random.Random, text: str) -> bytes:
    """A recipe with some lines changed."""
    lines = text.splitlines()
    for _ in range(rng.choice([1, 1, 2, 4])):
        i = rng.randrange(len(lines))
        name, equals, _ = lines[i].partition("=")
        action = rng.randrange(7)
        if action == 0:
            lines.insert(i, lines[rng.randrange(len(lines))])
        elif action == 1:
            del lines[i]
        elif action == 2:
            lines[i] = spoilt(rng, lines[i]) if lines[i] else "["
        elif equals:
            lines[i] = f"{name}= {_toml_value(rng)}"
        lines = [str(line) for line in lines] or [""]
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    return spoilt_bytes(rng, data) if rng.random() < 0.2 else data


def _toml_value(rng: random.Random) -> str:
    nested = rng.choice([3, 100, 20_000])
    return rng.choice([
        json.dumps(rng.choice(TEXTS)), str(rng.choice(NUMBERS)), "true", "[]", '["a", "b"]',
        "[1, 2]", "[0.9, nan]", "{a = 1}", "9" * 5000, "1e999", "-1", "0", "0.5", "2024-01-01",
        "[" * nested + "]" * nested, "{a=" * nested + "1" + "}" * nested, "'''x'''", "'",
        json.dumps("x" * 100_000), '"\\u0000"', json.dumps("a" * 300 + "/" + "b" * 300),
    ])  # fmt: skip


def configure_one(rng: random.Random, folder: Path) -> str:
    """Loads, checks and plans a spoilt config; returns what came of it."""
    from caprl_native.config.cli import ConfigError, check, check_sft, dump, load, load_with_origins
    from caprl_native.config.schema import Config, SftConfig
    from caprl_native.dry_run import check_machine, plan
    from eval.config import check as check_prism

    file = folder / "a.toml"
    recipe, schema = rng.choice(valid_configs())
    file.write_bytes(spoilt_toml(rng, recipe))
    overrides = []
    if rng.random() < 0.3:
        key = rng.choice(["policy.lr", "rollout.n", "data.files", "run.seed", "run.name", "x.y"])
        overrides = [f"--{key}={rng.choice([*map(str, TEXTS), _toml_value(rng)])}"]
    try:
        config, origins = load_with_origins(schema, [file], overrides)
        {Config: check, SftConfig: check_sft}.get(schema, check_prism)(config, origins)
        if schema is Config:
            plan(config, rng.choice([1, 2, 8]), origins)
        written = folder / "b.toml"
        written.write_text(dump(config, origins))
        if load(schema, [written]) != config:
            raise AssertionError("a config that was written reads as another one")
        if schema is Config:
            check_machine(config, origins)
    except ConfigError as error:
        return f"ConfigError: {error}"
    return "read"


# The loop


def fuzz(one: Callable[[random.Random, Path], str], kind: str, count: int, seed: int) -> list[str]:
    """Runs the cases; returns a description of each that went wrong."""
    wrong: list[str] = []
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        _warm_up(kind)
        for i in range(count):
            began = time.process_time()
            try:
                said = one(random.Random(f"{kind} {seed} {i}"), Path(folder))
            except Exception as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                said = f"{type(error).__name__}: {error}"
                wrong.append(f"case {i}: {place.filename}:{place.lineno}: {said:.300}")
            ends[said.partition(":")[0]] += 1
            if len(said) > LONGEST:
                wrong.append(f"case {i}: a message of {len(said)} characters: {said[:200]}")
            if (took := time.process_time() - began) > LIMIT_S:
                wrong.append(f"case {i}: took {took:.1f} s: {said:.200}")
    print(f"{kind}: {count} cases: " + ", ".join(f"{n} {name}" for name, n in ends.most_common()))
    return wrong


def _warm_up(kind: str) -> None:
    """Imports what the first case would be charged for."""
    import caprl_native.data.records
    import caprl_native.dry_run  # noqa: F401
    import eval.config  # noqa: F401

    if kind == "benchmarks":
        _annotations()


CASES: dict[str, Callable[[random.Random, Path], str]] = {
    "configs": configure_one,
    "records": read_one,
    "benchmarks": benchmark_one,
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=[*CASES, "all"])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    wrong: list[str] = []
    for kind in CASES if args.kind == "all" else [args.kind]:
        wrong += fuzz(CASES[kind], kind, args.count, args.seed)
    for line in wrong[:50]:
        print(line)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
