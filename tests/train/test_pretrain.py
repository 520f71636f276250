"""The three stages on tiny parts: held-out loss falls in each; killed in between, gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kill_resume import ended, kill, wait_for
from safetensors.torch import load_file

from caprl_native import checkpoint
from caprl_native.config.load import toml
from caprl_native.init_vlm import Request, build
from caprl_native.policy.families import family_of
from caprl_native.testing.media_files import write_noise
from caprl_native.testing.tiny_models import write_tiny_language
from tests.ranks import Forked, run_module
from tests.train.world import rows

MODULE = "caprl_native.pretrain"
NAMES = ("align", "captions", "sft")


def records(folder: Path, stage: str) -> list[dict]:
    """LLaVA's, in which pictures of one kind have one caption; the last stage has texts, too."""
    found = []
    for i in range(8):
        image = str(write_noise(folder / f"{stage}{i}.png", seed=i))
        said = ["a picture of the image", "the video"][i % 2]
        turns = [("human", "<image>\nDescribe it."), ("gpt", said)]
        if stage == "sft":
            turns += [("human", "What is it?"), ("gpt", "it is a picture")]
        value = [{"from": who, "value": text} for who, text in turns]
        found.append({"id": i, "image": image, "conversations": value})
    return found


@pytest.fixture(scope="module")
def chain(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of pretrain.toml: four steps of each stage, from the recipes."""
    folder = tmp_path_factory.mktemp("pretrain")
    language = write_tiny_language(folder / "language", tiny_policy, seed=3)
    build(Request(tiny_policy, language, folder / "init", dtype="float32"), lambda _: None)
    texts = [{"messages": [{"role": "user", "content": "What is it?"},
                           {"role": "assistant", "content": "the image"}]}] * 4  # fmt: skip
    (folder / "texts.json").write_text(json.dumps(texts))
    for stage in NAMES:
        (folder / f"{stage}.json").write_text(json.dumps(records(folder, stage), indent=1))
        files = [str(folder / f"{stage}.json")] + [str(folder / "texts.json")] * (stage == "sft")
        tables = {
            "run": {"dir": str(folder / stage), "steps": 4, "save_every": 2, "threads": 1},
            "data": {"files": files, "eval_files": files[:1], "media_root": "", "workers": 0}
            | {"batch_size": 4},
            "policy": {"dtype": "float32", "lr": 1e-2, "path": str(folder / "init")},
            "eval": {"every": 4},
            "log": {"progress": False, "wandb": "disabled"},
        }
        if stage == "captions":  # which is resumed
            tables["policy"] |= {"lr_projector": 5e-3}
        if stage == "sft":  # one rank may have texts alone, and runs the tower all the same
            tables["policy"] |= {"lr_vision": 0.0}
        text = "".join(
            f"[{name}]\n" + "".join(f"{k} = {toml(v)}\n" for k, v in table.items())
            for name, table in tables.items()
        )
        (folder / f"{stage}.toml").write_text(text)
    config = "".join(f'[{s}]\nfiles = ["pretrain_{s}.toml", "{folder}/{s}.toml"]\n' for s in NAMES)
    (folder / "pretrain.toml").write_text(config)
    return folder


def test_chained_killed_in_the_middle_and_gone_on_with(chain: Path) -> None:
    words, log = ("--config", chain / "pretrain.toml"), chain / "log"
    log.touch()
    process = Forked(MODULE, 2, *words, log=log)
    with ended(process):
        saved = wait_for(lambda: checkpoint.steps(chain / "captions/checkpoints"), process)
        assert saved, log.read_text()[-6000:]
        kill(process, "all")
    assert not (chain / "captions/export").exists() and not (chain / "sft").exists()
    code, output = run_module(MODULE, 2, *words)
    assert code == 0, output[-6000:]
    assert "stage 1 is finished" in output and not list(chain.glob("*/*.abandoned"))

    for stage in NAMES:
        lines = rows(chain / stage / "metrics.jsonl")
        held_out = [line["eval/loss"] for line in lines if "eval/loss" in line]
        assert len(held_out) == 2 and held_out[1] < held_out[0], (stage, held_out)
        steps = [line for line in lines if "policy/loss" in line]
        assert [line["step"] for line in steps] == [1, 2, 3, 4]
        assert all(line["perf/train_tokens_per_s_per_gpu"] > 0 for line in steps)
        assert all(0 <= line["perf/padding"] < 0.5 for line in steps)
    # Each begins with what the one before it has left.
    family = family_of(chain / "init")
    models = [load_file(chain / "init/model.safetensors")]
    models += [load_file(chain / stage / "export/model.safetensors") for stage in NAMES]
    changed = [
        {family.part_of(n) for n in old if not old[n].equal(new[n])}
        for old, new in zip(models, models[1:], strict=False)
    ]
    everything = {"projector", "vision", "language"}
    assert changed == [{"projector"}, everything, everything - {"vision"}]

    code, output = run_module(MODULE, 1, *words)
    assert code == 0 and "stage 3 is finished" in output
