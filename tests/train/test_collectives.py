"""How often the ranks of a run meet in a step."""

from __future__ import annotations

from pathlib import Path

from tests.ranks import ROOT, run_ranks
from tests.train.world import tiny_config, write_config

MOST = 6  # beside FSDP's own, weight syncs and an engine's ranks


def test_a_step_has_few_collectives_beside_fsdps(
    world: Path, tiny_policy: Path, tmp_path: Path
) -> None:
    config = tiny_config(world, tiny_policy, "", tmp_path / "run")
    config.run.save_every, config.run.export, config.data.batch_size = 0, False, 4
    config.run.steps = 3
    config.reward.terms = {
        "accuracy": {"weight": 0.0},
        "colours": {
            "type": "custom",
            "import_path": f"{ROOT}/examples/custom_reward.py:colours",
            "options": {"enough": 1},
        },
    }
    file = write_config(config, tmp_path / "run.toml")
    for steps in run_ranks("collectives", 2, file):
        _, second, third, *_ = steps  # what precedes the first step is with it
        for calls in (second, third):
            assert calls and len(calls) <= MOST, "\n".join(["", *calls])
