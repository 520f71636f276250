"""Runs the benchmarks and writes results/<machine>.json and the tables of README.md.

    python benchmarks/run.py                      all of them
    python benchmarks/run.py sync training.text   some; the others' figures stay as they are

Every part's figures are written as soon as they are there.
Each runs in processes of its own, all sides of a comparison in the same run and in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from common import ROOT, SHAPES, N, in_own_process, machine

RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "benchmarks" / "README.md"
VOCABULARY = 151_936  # Qwen's
MARK = "<!-- tables: written by run.py -->"


def sync(ranks: int) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return in_own_process("sync.py", folder, ranks=ranks)


def peak(shape: str) -> Any:
    return in_own_process("step.py", shape, "--vocabulary", VOCABULARY, "--repeats", 1)


def most_ranks() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else os.cpu_count() or 1


Part = Callable[[], Any]
# A benchmark's parts: each makes one entry of its results.
BENCHMARKS: dict[str, dict[str, Part]] = {
    "training": {s: partial(in_own_process, "training.py", "shape", s) for s in SHAPES},
    "growth": {o: partial(in_own_process, "training.py", "growth", o) for o in ("n", "prompt")},
    "logprobs": {
        "chunked_peak_bytes": partial(in_own_process, "logprobs.py", "tiles"),
        "full_peak_bytes": partial(in_own_process, "logprobs.py", "full"),
    },
    "sync": {str(ranks): partial(sync, ranks) for ranks in (1, 2) if ranks <= most_ranks()},
    "overlap": {
        w: partial(in_own_process, "overlap.py", w) for w in ("process", "server", "elsewhere")
    },
    "peak": {shape: partial(peak, shape) for shape in ("image", "video")},
    "step": {shape: partial(in_own_process, "step.py", shape) for shape in SHAPES},
    "prism": {"demo": partial(in_own_process, "prism.py")},
}
if torch.cuda.is_available():
    BENCHMARKS["scale"] = {s: partial(in_own_process, "scale.py", s) for s in ("image", "long")}


def main() -> None:
    every = [f"{name}.{part}" for name, parts in BENCHMARKS.items() for part in parts]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME[.PART]", help=", ".join(every))
    names = parser.parse_args().names or list(BENCHMARKS)
    if unknown := set(names) - set(BENCHMARKS) - set(every):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    here = machine()
    file = RESULTS / f"{re.sub(r'[^a-z0-9]+', '-', here['device'].lower()).strip('-')}.json"
    RESULTS.mkdir(exist_ok=True)
    found = json.loads(file.read_text()) if file.exists() else {}
    failed: list[str] = []
    for entry in every:
        name, part = entry.split(".")
        if name not in names and entry not in names:
            continue
        print(f"{entry} ...", flush=True)
        try:
            result = BENCHMARKS[name][part]()
        except RuntimeError as error:
            failed.append(f"{entry}: {error}")
            continue
        place(found.setdefault(name, {}), name, part, result)
        found["machine"] = here
        found.setdefault("versions", {})[name] = here["versions"]
        file.write_text(json.dumps(found, indent=1) + "\n")
    results = [json.loads(f.read_text()) for f in sorted(RESULTS.glob("*.json"))]
    results = [r for r in results if "versions" in r]  # not those of gpu_smoke.py
    head = README.read_text().split(MARK)[0]
    README.write_text(head + MARK + "\n\n" + "\n\n".join(map(report, results)) + "\n")
    if found:
        print(report(found))
    if failed:
        sys.exit("\n".join(["failed:", *failed]))


def place(results: dict[str, Any], name: str, part: str, result: Any) -> None:
    """A part's result goes under its name; the overlap's goes by figure first, then by place."""
    if name == "overlap":
        for figure, value in result.items():
            results.setdefault(figure, {})[part] = value
    else:
        results[part] = result


def report(found: dict[str, Any]) -> str:
    """The tables of one machine's results."""
    here = found["machine"]
    title = f"## {here['device']}, {here['cores']} cores, {here['memory_gib']} GiB"
    parts = [title]
    for name, table in TABLES:
        if name in found:
            versions = ", ".join(f"{k} {v}" for k, v in found["versions"][name].items())
            parts.append(f"{table(found[name])}\n\n({versions})")
    return "\n\n".join(parts)


def training(found: dict[str, Any]) -> str:
    rows = [
        [
            name,
            tokens(r),
            seconds(r["shared_s"]),
            seconds(r["unshared_s"]),
            f"{r['ratio']['median']:.2f}",
            f"{r['flops_ratio']:.2f}",
            f"{r['ratio']['median'] / r['flops_ratio']:.2f}",
        ]
        for name, r in found.items()
    ]
    head = ["shape", "tokens", "shared", "repeated", "ratio", "in FLOPs", "of that"]
    return "Training phase, prompts shared against prompts repeated:\n\n" + table(head, rows)


def trained(found: dict[str, Any]) -> str:
    """Of whole steps, the phase that both sides compute with torch."""
    sides = {
        name: [r[f"{s}_phases"]["train"] for s in ("ours", "trl")] for name, r in found.items()
    }
    rows = [
        [name, tokens(found[name]), *map(seconds, pair), f"{trl['median'] / ours['median']:.2f}"]
        for name, pair in sides.items()
        for ours, trl in [pair]
    ]
    head = ["shape", "tokens", "ours", "TRL", "TRL / ours"]
    return "Training phase of a step of 4 prompts, against TRL's:\n\n" + table(head, rows)


def growth(found: dict[str, Any]) -> str:
    names = {"n": "n", "prompt": "P"}
    rows = [
        [
            names[over],
            value,
            seconds(r),
            f"{r['flops'] / 1e9:.0f}",
            f"{r['flops'] / r['median'] / 1e9:.0f}",
        ]
        for over, found_there in found.items()
        for value, r in found_there.items()
    ]
    text = "Growth of a training step of one prompt, with its arithmetic:\n\n" + table(
        ["over", "value", "step", "GFLOP", "GFLOP/s"], rows
    )
    if "n" in found:
        few, many = (found["n"][n] for n in ("2", "16"))
        taken = (many["median"] - few["median"]) / 14
        alone = (many["flops"] - few["flops"]) / 14 * many["median"] / many["flops"]
        text += (
            f"\n\nFrom 2 to 16 responses each one more takes {taken:.2f} s; its own arithmetic, "
            f"at the rate of 16, is {alone:.2f} s."
        )
    return text


def logprobs(found: dict[str, Any]) -> str:
    names = {"chunked_peak_bytes": "in tiles", "full_peak_bytes": "from whole logits"}
    sides = [f"{found[key] / 2**20:.0f} MiB {name}" for key, name in names.items() if key in found]
    return (
        "Peak memory of log-probs of 4,096 tokens over 151,936 entries, forward and backward: "
        f"{', '.join(sides)}."
    )


def synced(found: dict[str, Any]) -> str:
    rows = [
        [
            ranks,
            f"{r['parameters'] / 1e6:.0f} M",
            seconds(r["seconds"]),
            seconds(r["stream_seconds"]),
            f"{r['gb_per_s']:.2f}",
            f"{r['copy_gb_per_s']:.2f}",
            f"{r['extra_bytes'] / 2**20:.0f} MiB",
            f"{(r['largest_unit_bytes'] + r['largest_tensor_bytes']) / 2**20:.0f} MiB",
        ]
        for ranks, r in found.items()
    ]
    head = [
        "ranks",
        "model",
        "sync",
        "the trainer's part alone",
        "GB/s",
        "plain copy GB/s",
        "extra",
        "unit + largest tensor",
    ]
    return "Weight sync:\n\n" + table(head, rows)


def overlapped(found: dict[str, Any]) -> str:
    names = {
        "process": "in the same process",
        "server": "vLLM's server on this machine",
        "elsewhere": "a server that only takes time",
    }
    rows = [
        [
            names[where],
            *(seconds(found[f][where]) for f in ("on_s", "off_s", "off_rollout_s", "off_reward_s")),
            f"{found['ratio'][where]['median']:.2f}",
        ]
        for where in found["ratio"]
    ]
    head = ["reader", "overlap", "none", "of it captions", "of it reading", "none / overlap"]
    return (
        "From prompts to rewards, where reading is made to take about as long as writing:\n\n"
        + table(head, rows)
    )


def stepped(found: dict[str, Any]) -> str:
    rows = [
        [
            name,
            tokens(r),
            seconds(r["ours_s"]),
            seconds(r["trl_s"]),
            f"{r['ratio']['median']:.2f}",
            phases(r["ours_phases"]),
            phases(r["trl_phases"]),
        ]
        for name, r in found.items()
    ]
    head = ["shape", "tokens", "ours", "TRL", "TRL / ours", "ours, by phase", "TRL, by phase"]
    modes = {r["trl_mode"] for r in found.values()}
    return (
        f"A whole step of 4 prompts, in which TRL writes its captions with {', '.join(modes)}, not "
        "with vLLM:\n\n" + table(head, rows)
    )


def phases(r: dict[str, Any]) -> str:
    return ", ".join(f"{name} {times['median']:.2f} s" for name, times in r.items())


def peaks(found: dict[str, Any]) -> str:
    rows = [
        [
            name,
            tokens(r),
            *(f"{r[f'{side}_bytes'] / 2**20:.0f} MiB" for side in ("ours", "trl")),
            f"{r['ours_bytes'] / r['trl_bytes']:.2f}",
        ]
        for name, r in found.items()
    ]
    head = ["shape", "tokens", "ours", "TRL", "ours / TRL"]
    return (
        f"Peak memory of the training phase above what is held before it, {VOCABULARY:,} entries:"
        "\n\n" + table(head, rows)
    )


def evaluated(found: dict[str, Any]) -> str:
    r = found["demo"]
    return (
        f"An evaluation of {r['items']:,} items, {r['captions_per_item']} captions each, on the "
        f"demo's models: {r['seconds']:.1f} s, of which the engines take {r['engine_s']:.1f} s; "
        f"the rest is {r['overhead']:.1%} of that."
    )


def scaled(found: dict[str, Any]) -> str:
    rows = [
        [
            name,
            tokens(r),
            f"{r['rollout_tokens_per_s']:,.0f}",
            f"{r['train_tokens_per_s']:,.0f}",
            f"{r['train_flops_per_s'] / 1e12:.0f}",
            f"{r['matmul_flops_per_s'] / 1e12:.0f}",
            f"{r['train_peak_bytes'] / 2**30:.1f} GiB",
            phases(r["phases"]),
        ]
        for name, r in found.items()
    ]
    head = [
        *("shape", "tokens", "rollout tokens/s", "training tokens/s", "training TFLOP/s"),
        *("a matrix product's TFLOP/s", "training peak above what is held", "phases"),
    ]
    return "Steps of a model of Qwen3-VL-2B's shape:\n\n" + table(head, rows)


def tokens(r: dict[str, Any]) -> str:
    return f"{r['prompt']} + {N} x {r['response']}"


def seconds(r: dict[str, Any]) -> str:
    return f"{r['median']:.2f} s ({r['min']:.2f} to {r['max']:.2f}, {r['repeats']} repeats)"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


TABLES = [
    ("training", training),
    ("step", trained),
    ("step", stepped),
    ("peak", peaks),
    ("logprobs", logprobs),
    ("sync", synced),
    ("overlap", overlapped),
    ("growth", growth),
    ("prism", evaluated),
    ("scale", scaled),
]


if __name__ == "__main__":
    main()
