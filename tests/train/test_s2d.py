"""Both stages of S2D on tiny models: killed in each, gone on with, and skipped when done."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from kill_resume import ended, final_state, kill, wait_for
from launch import torchrun
from safetensors.torch import load_file

from caprl_native import checkpoint
from caprl_native.config.schema import Config
from tests.ranks import Forked, run_module, run_to_end
from tests.train.world import rows, tiny_config, write_config, write_rows

MODULE = "caprl_native.s2d"


@pytest.fixture(scope="module")
def stages(
    world: Path, tiny_policy: Path, tiny_reader: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of s2d.toml: two steps of each stage, the second at a learning rate of 0."""
    folder = tmp_path_factory.mktemp("s2d")
    for kind in ("image", "video"):
        config: Config = tiny_config(world, tiny_policy, tiny_reader, folder / kind)
        records = [r for r in rows(world / "train.jsonl") if kind in r]
        for record in records:
            record[kind] = str(world / record[kind])
        config.data.files = [str(write_rows(folder / f"{kind}.jsonl", records))]
        config.data.batch_size, config.rollout.n = 4, 2
        if kind == "video":  # weights stay what they were at the start
            config.policy.path, config.policy.lr = "set by the program", 0.0
        write_config(config, folder / f"{kind}.toml")
    files = [f'[{kind}]\nfiles = ["{folder}/{kind}.toml"]\n' for kind in ("image", "video")]
    (folder / "s2d.toml").write_text("".join(files))
    return folder


def logged(folder: Path) -> list[int]:
    return [line["step"] for line in rows(folder / "metrics.jsonl") if "policy/loss" in line]


def killed_in(stage: Path, words: tuple[object, ...], log: Path) -> None:
    """Starts the program and kills all of it once this stage has saved its first step."""
    process = Forked(MODULE, 2, *words, log=log)
    with ended(process):
        saved = wait_for(lambda: checkpoint.steps(stage / "checkpoints"), process)
        assert saved, log.read_text()[-4000:]
        kill(process, "all")


def test_chained_killed_in_either_stage_and_gone_on_with(stages: Path, tiny_policy: Path) -> None:
    image, video, log = stages / "image", stages / "video", stages / "log"
    words = ("--config", stages / "s2d.toml")
    log.touch()
    killed_in(image, words, log)
    assert not (image / "export").exists() and not video.exists()
    killed_in(video, words, log)
    assert logged(image) == [1, 2] and not (video / "export").exists()
    code, output = run_module(MODULE, 2, *words)
    assert code == 0, output[-6000:]
    assert "stage 1 is finished" in output and logged(video) == [1, 2]
    assert not list(stages.glob("*/*.abandoned")), "a stage has begun anew"

    before = load_file(tiny_policy / "model.safetensors")
    first = load_file(image / "export/model.safetensors")
    assert first.keys() == before.keys()
    assert any(not first[k].equal(before[k].to(first[k].dtype)) for k in first), "it was trained"
    exports = [f / "export/model.safetensors" for f in (image, video)]
    assert exports[0].read_bytes() == exports[1].read_bytes(), "stage 2 starts from other weights"
    counts = {
        float(v) for k, v in final_state(video).items() if k.endswith(".step") and k[0] == "."
    }
    assert counts == {2.0}, "the optimizer is a new one"
    for folder, kind in ((image, ".png"), (video, ".mp4")):
        media = [m for f in folder.glob("rollouts/*") for r in rows(f) for m in r["media"]]
        assert {Path(m).suffix for m in media} == {kind}

    code, output = run_module(MODULE, 2, *words)
    assert code == 0 and "stage 2 is finished" in output


def test_a_start_that_is_not_there_says_how_to_make_it(stages: Path) -> None:
    """Needs no finished stage."""
    words = ("--config", stages / "s2d.toml", "--stages=video", "--video.start=7")
    code, output = run_module(MODULE, 1, *words)
    assert code == 2 and "tools/export.py --checkpoint" in output and "--step 7" in output


def test_groups_in_turn_meet_in_torchruns_own_store() -> None:
    """The second one's ranks must not find the first one's addresses."""
    command = [*torchrun(2), "-m", "tests.programs.in_turn"]
    code, output = run_to_end(command, dict(os.environ), 100)
    assert code == 0, output[-4000:]
    assert {"rank 0: [0, 0]", "rank 1: [0, 0]"} <= set(output.splitlines()), output[-4000:]
