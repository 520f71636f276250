"""One step of training with every entry of the algorithm's registries, cut in different ways.

Arguments: the model directory and the folder to write `<ranks>.pt` in. By case and cut ("whole",
"pieces"): metrics, a sample of the gradients, their norm, and whether the weights moved. On one
rank it also reports which statements of `caprl_native/algorithm` were reached on the way.
"""

from __future__ import annotations

import ast
import functools
import math
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import torch.distributed as dist

import caprl_native.algorithm
from caprl_native.algorithm.aggregation import Aggregation
from caprl_native.algorithm.ratios import RatioLevel
from caprl_native.algorithm.registries import ADVANTAGES, CORRECTIONS, KL, LOSSES
from caprl_native.config.load import load
from caprl_native.config.schema import AlgorithmConfig, Config, PolicyConfig
from caprl_native.distributed.world import ParallelDims, gather_objects, init_distributed
from caprl_native.policy import learner as learner_module
from caprl_native.policy.advantages import assign_advantages, facts_of
from caprl_native.policy.fsdp import full_tensor, load_policy
from caprl_native.policy.learner import Learner
from caprl_native.policy.model import Policy
from caprl_native.policy.objective import TokenTables, objective
from caprl_native.policy.optim import build_optimizer
from caprl_native.testing.samples import group, prompt, responses
from caprl_native.types import Group
from tests.ranks import report

HERE = Path(__file__).parent
CUTS = {"whole": 10_000, "pieces": 1}
EVERY = 37  # of a gradient's numbers are kept
OFF = {"tis": {"type": "none"}}


def entry(registry, name: str, **options: object) -> dict[str, Any]:
    """A legal table of an entry, with what a custom one needs."""
    if name == "custom":
        kind = {"loss": "loss", "advantage": "advantage", "KL estimator": "kl"}
        function = kind.get(registry.kind, "correction")
        options |= {
            "import_path": f"{HERE / 'custom_entries.py'}:{function}",
            "options": {"scale": 0.3},
        }
    return {"type": name, **options}


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and changes of `AlgorithmConfig`. With the engine's log-probs as the old ones the
    ratio is far from 1, so that losses clip."""
    engine = {"old": "engine", "corrections": OFF}
    for name in LOSSES:
        yield f"loss {name}", {"loss": entry(LOSSES, name), **engine}
    yield "dual", {"loss": {"type": "ppo", "dual_clip": 1.1, "ratio_cap": 1.2}, **engine}
    yield "example", {"loss": {"type": "custom",
                               "import_path": "examples/custom_loss.py:asymmetric"}}  # fmt: skip
    for mode in get_args(Aggregation):
        yield f"aggregation {mode}", {"aggregation": mode}
    for name in ADVANTAGES:
        yield f"advantage {name}", {"advantage": entry(ADVANTAGES, name)}
    for std in ("population", "none"):
        yield f"advantage grpo {std}", {"advantage": {"type": "grpo", "std": std}}
    yield "advantage gdpo population", {"advantage": {"type": "gdpo", "std": "population"}}
    yield "advantage grpo batch", {"advantage": {"type": "grpo", "scope": "batch"}}
    yield "whiten", {"advantage": {"type": "dr_grpo"}, "whiten": True}
    for name in KL:
        yield f"kl {name}", {"kl": entry(KL, name, weight=0.1, value_limit=5.0)}
    for name in CORRECTIONS:
        levels = get_args(RatioLevel) if name in ("tis", "mask") else [""]
        for level in levels:
            options = entry(CORRECTIONS, name, **({"level": level} if level else {}))
            yield f"correction {name} {level}", {"corrections": {"tis": options}}
    both = {"tis": {"type": "tis", "cap": 5.0}, "icepop": {"type": "mask", "high": 5.0}}
    yield "icepop", {"corrections": both}
    for recipe in ("caprl_image", "video"):
        yield f"published {recipe}", dict(load(Config, [f"{recipe}.toml"]).algorithm)
    for name in ("ppo", "gspo"):
        for old in ("trainer", "engine"):
            yield f"two updates {name} {old}", {
                "loss": {"type": name}, "updates": 2, "old": old, "corrections": OFF
            }  # fmt: skip


def main(path: str, folder: str) -> None:
    dims = init_distributed()
    config = PolicyConfig(
        path=path, dtype="float32", lr=1e-2, max_grad_norm=0.0, activation_checkpointing=False
    )
    policy = load_policy(config, dims)
    reference = load_policy(config.replace(freeze=["vision", "projector", "language"]), dims)
    start = [p.detach().clone() for p in policy.hf.parameters()]
    with torch.no_grad():
        for p in reference.hf.parameters():
            p.mul_(1.05)
    results: dict[str, dict[str, Any]] = defaultdict(dict)
    reached = Reached() if dims.world == 1 else None
    for name, changes in cases():
        algorithm = AlgorithmConfig().replace(**changes)
        for cut, tokens in CUTS.items():
            with torch.no_grad():
                for p, value in zip(policy.hf.parameters(), start, strict=True):
                    p.copy_(value)
            settings = config.replace(micro_batch_tokens=tokens)
            results[name][cut] = step(policy, reference, settings, algorithm, dims)
    covered = reached.stop() if reached else {}
    if dims.is_main:
        torch.save(dict(results), Path(folder, f"{dims.world}.pt"))
    report({"metrics": {n: r["whole"]["metrics"] for n, r in results.items()}, "reached": covered})
    dist.destroy_process_group()


def step(
    policy: Policy,
    reference: Policy,
    config: PolicyConfig,
    algorithm: AlgorithmConfig,
    dims: ParallelDims,
) -> dict[str, Any]:
    """Advantages and one update, from the same weights on the same groups."""
    optimizer = build_optimizer(policy, config)
    gradients: list[torch.Tensor] = []

    def look(*_: object) -> None:
        grads = [full_tensor(p.grad) for p in policy.hf.parameters() if p.grad is not None]
        gradients.append(torch.cat([g.flatten() for g in grads]))

    rows: list[dict[str, list[float]]] = []

    def looked_into(tables: TokenTables, *rest: Any) -> Any:
        rows.extend(rows_of(tables))
        return objective(tables, *rest)

    optimizer.register_step_pre_hook(look)
    learner_module.objective = looked_into
    learner = Learner(
        policy=policy,
        reference=reference if algorithm.kl.weight else None,
        optimizer=optimizer,
        config=config,
        algorithm=algorithm,
        temperature=0.9,
        max_tokens=14,
        total_steps=10,
        dims=dims,
    )
    groups = groups_of(policy, config.path)[dims.rank :: dims.world]
    everywhere = gather_objects([facts_of(g) for g in groups])
    assign_advantages(groups, everywhere, algorithm, {"accuracy": 1.0, "length": 0.2})
    metrics = learner.update(groups, step=0)
    values = {k: float(getattr(m, "value", m)) for k, m in metrics.items()}
    assert all(math.isfinite(v) for v in values.values()), values
    return {
        "metrics": values,
        "gradients": gradients[0][::EVERY].clone(),
        "norm": float(gradients[0].norm()),
        "advantages": [r.advantage for g in groups for r in g.rollouts],
        "rows": [row for part in gather_objects(rows) for row in part],
    }


def rows_of(tables: TokenTables) -> Iterator[dict[str, list[float]]]:
    """Each response's log-probs of trainer and engine, and its advantage."""
    columns = (tables.logprobs.detach(), tables.engine, tables.advantages, tables.mask)
    for trainer, engine, advantage, mask in zip(*columns, strict=True):
        yield {
            "trainer": trainer[mask].tolist(),
            "engine": engine[mask].tolist(),
            "advantage": advantage.tolist(),
        }


prompt_of = functools.cache(prompt)  # an update leaves it as it is


def groups_of(policy: Policy, path: str) -> list[Group]:
    """Four groups with rewards of two terms, one of which some responses lack."""
    made = []
    for i, kind in enumerate(("image", "text", "text", "text")):
        each = group(prompt_of(path, kind, i), responses(policy.config, policy.banned, 3, i), i)
        rng = np.random.default_rng(i)
        for k, rollout in enumerate(each.rollouts):
            rollout.rewards = {"accuracy": float(rng.random())}
            if k:
                rollout.rewards["length"] = float(rng.random())
            rollout.parts = {"memory/count": 1.0 - 2 * (i % 2)}
            rollout.total = rollout.rewards["accuracy"] + 0.2 * rollout.rewards.get("length", 0)
            # Near what a tiny untrained model says, with some tokens far away on both sides.
            noise = rng.normal(0, 0.7, len(rollout.logprobs))
            rollout.logprobs = (np.array(rollout.logprobs) + 0.5 + noise).tolist()
        made.append(each)
    return made


class Reached:
    """Which statements inside functions of `caprl_native/algorithm` run until `stop`."""

    def __init__(self) -> None:
        self.folder = Path(caprl_native.algorithm.__file__).parent
        self.lines: dict[str, set[int]] = defaultdict(set)
        sys.settrace(self._call)
        threading.settrace(self._call)

    def _call(self, frame, event: str, _: object):
        if not frame.f_code.co_filename.startswith(str(self.folder)):
            return None
        self.lines[frame.f_code.co_filename].add(frame.f_lineno)
        return self._line

    def _line(self, frame, event: str, _: object):
        if event == "line":
            self.lines[frame.f_code.co_filename].add(frame.f_lineno)
        return self._line

    def stop(self) -> dict[str, list]:
        """By file: the number of its statements, and the lines of those that were not reached.

        Statements outside functions run at the import.
        """
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        found = {}
        for file in sorted(self.folder.rglob("*.py")):
            tree = ast.parse(file.read_text())
            statements = [n for n in ast.walk(tree) if isinstance(n, ast.stmt)]
            inside = [
                s
                for f in statements
                if isinstance(f, ast.FunctionDef)
                for s in f.body
                if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
            ]
            nested = [n for s in inside for n in ast.walk(s) if isinstance(n, ast.stmt)]
            lines = self.lines[str(file)]
            missed = {
                s.lineno for s in nested if not lines & set(range(s.lineno, s.end_lineno + 1))
            }
            found[str(file.relative_to(self.folder))] = [len(statements), sorted(missed)]
        return found


if __name__ == "__main__":
    main(*sys.argv[1:])
