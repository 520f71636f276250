"""What captions are worth to a model that learns from them: the three stages with and without them.

    python benchmarks/pretraining.py --out outputs/pretraining [--seeds 3]

In the demo's world, of images. The tower is that of the demo's captioner, the language model the
demo's reader, which has read text alone, and the projector is new (tools/init_vlm.py). Both arms
share the first stage; then one learns from captions before the instructions
(`caprl_native.pretrain`). Both answer questions about held-out images, which are in view
(`eval.prism --mode direct`, whose answers are read here). What is finished is not run again, what
was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common import ROOT, machine
from learning_curves import figures, lines
from tqdm import tqdm

from caprl_native import pretrain
from caprl_native.config.load import toml
from caprl_native.distributed.children import in_child
from caprl_native.init_vlm import Request, build
from caprl_native.testing.demo_world.datasets import sparse_caption, write_world
from caprl_native.testing.demo_world.scenes import FULL_PROMPTS, PROMPTS, Scene, caption
from caprl_native.testing.tiny_models import (
    IM_END,
    IMAGE_PAD,
    PAD,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
)
from eval import prism
from eval.benchmarks import benchmarks
from eval.benchmarks.base import Files
from eval.items import Item

TOWER, LANGUAGE = ROOT / "demo_models" / "policy", ROOT / "demo_models" / "reader"
STAGES = {"align": 400, "captions": 1200, "sft": 200}  # and how many images each learns from
HELD_OUT, TEXTS = 64, 700
WITH, WITHOUT = "with captions", "without"
ARMS = {WITH: ["align", "captions", "sft"], WITHOUT: ["align", "sft"]}
RATES = {"align": 4e-3, "captions": 1e-3, "sft": 5e-4}


def make_world(out: Path) -> None:
    """For each stage and its held-out loss a file of records, texts for the last one, and questions
    on held-out images."""
    folder = out / "world"
    if (folder / "text.jsonl").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "heldout"):
        for stage, count in STAGES.items():
            images = count if split == "train" else HELD_OUT
            world = write_world(folder, f"{split}_{stage}_world", images, 0, 0)
            rng = random.Random(f"{split}-{stage}")
            write(folder / f"{split}_{stage}.jsonl", records(stage, world, rng))
    rng = random.Random("text")
    readable = write_world(folder, "read_world", TEXTS // 7, 0, 1)
    write(folder / "text.jsonl", [row for item in items(readable) for row in read(item, rng)])


def write(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def records(stage: str, world: Path, rng: random.Random) -> list[dict[str, Any]]:
    """LLaVA's: images with two attributes told, with all, or with two questions each."""
    if stage == "sft":
        rows = []
        for several in by_image(items(world)):
            for item in rng.sample(several, 2):
                rows.append(conversation(asked(item), answer(item), str(item.media[0].path)))
        return rows
    rows = []
    for row in lines(world):
        scene = Scene("image", row["scene"])
        told = (
            sparse_caption(scene, {2: 1.0}, rng)
            if stage == "align"
            else caption(scene, scene.values, None)
        )
        prompt = (PROMPTS if stage == "align" else FULL_PROMPTS)["image"]
        rows.append(conversation(prompt, told, str(world.parent / row["image"])))
    return rows


def conversation(said: str, reply: str, image: str = "") -> dict[str, Any]:
    turns = [
        {"from": "human", "value": f"<image>{said}" if image else said},
        {"from": "gpt", "value": reply},
    ]
    return {"conversations": turns} | ({"image": image} if image else {})


def items(world: Path) -> list[Item]:
    """The questions of a world, as the evaluation asks them."""
    found = benchmarks()["qa"].read(Files((world,), None))
    return [item for item in found if isinstance(item, Item)]


def by_image(found: Sequence[Item]) -> list[list[Item]]:
    groups: dict[str, list[Item]] = {}
    for item in found:
        groups.setdefault(str(item.media[0].path), []).append(item)
    return list(groups.values())


def asked(item: Item) -> str:
    """The text that the evaluation puts beside the image."""
    (turn,) = benchmarks()["qa"].direct_chat(item)
    return turn["content"][-1]["text"]


def answer(item: Item) -> str:
    return f"The answer is {item.choices['ABCDEFG'.index(item.answer)]}."


def read(item: Item, rng: random.Random) -> list[dict[str, Any]]:
    """A question on a caption, without an image."""
    assert isinstance(item.record, dict)
    scene = Scene("image", item.record["scene"])
    told = caption(scene, scene.values, rng)
    return [conversation(f"{told}\n\n{asked(item)}", answer(item))]


def preload() -> None:
    """The slow imports: each stage and each evaluation is a fork, which has them already."""
    import transformers  # noqa: F401

    from caprl_native.rollout.engine import prepare_environment

    prepare_environment()
    import vllm.entrypoints.llm
    import vllm.model_executor.models.qwen3_vl
    import vllm.v1.worker.gpu_model_runner  # noqa: F401

    import caprl_native.sft_trainer  # noqa: F401


def forked(run: Callable[[], object], log: Path) -> None:
    """Calls `run` in a child process. Exits where it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)

    def logged() -> None:
        with log.open("a") as output:
            for stream in (1, 2):
                os.dup2(output.fileno(), stream)
        if code := run():
            raise SystemExit(code)

    if in_child(logged, {}):
        sys.exit(f"error: failed, see {log}")


def overlay(file: Path, tables: dict[str, dict[str, Any]]) -> str:
    """Writes what is laid over a recipe; returns the file's name."""
    text = "".join(
        f"[{name}]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in table.items())
        for name, table in tables.items()
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return str(file)


def settings(
    out: Path, folder: Path, stage: str, args: argparse.Namespace, seed: int
) -> dict[str, dict[str, Any]]:
    """Of a stage's run into `folder`."""
    steps = getattr(args, f"{stage}_steps")
    world = out / "world"
    tables: dict[str, dict[str, Any]] = {
        "run": {"dir": str(folder), "seed": seed, "steps": steps, "save_every": 20, "threads": 2},
        "data": {
            "files": [str(world / f"train_{stage}.jsonl")],
            "eval_files": [str(world / f"heldout_{stage}.jsonl")],
            "media_root": "",
            "batch_size": args.batch,
            "workers": 0,
        },
        "media": {"image_max_pixels": 16384, "image_min_pixels": 4096},
        "policy": {"dtype": "float32", "lr": RATES[stage], "path": str(out / f"init_{seed}")}
        | {"activation_checkpointing": False},
        "eval": {"every": steps},
        "log": {"progress": False, "wandb": "disabled"},
    }
    if stage == "sft":  # images and texts, as in the recipe
        tables["data"]["files"].append(str(world / "text.jsonl"))
        tables["data"]["mix"] = [1.0, 0.2]
    return tables


def make_vision_model(folder: Path) -> None:
    """The captioner with the reader's vocabulary: of its weights the tower alone is meant."""
    from transformers import AutoConfig, AutoProcessor, AutoTokenizer
    from transformers import Qwen3VLForConditionalGeneration as Model

    if (folder / "config.json").exists():
        return
    config, tokenizer = AutoConfig.from_pretrained(TOWER), AutoTokenizer.from_pretrained(LANGUAGE)
    vocabulary = tokenizer.get_vocab()
    config.text_config.vocab_size = len(vocabulary)
    config.text_config.eos_token_id = vocabulary[IM_END]
    config.text_config.pad_token_id = vocabulary[PAD]
    config.image_token_id, config.video_token_id = vocabulary[IMAGE_PAD], vocabulary[VIDEO_PAD]
    config.vision_start_token_id = vocabulary[VISION_START]
    config.vision_end_token_id = vocabulary[VISION_END]
    model = Model(config)
    model.model.visual.load_state_dict(Model.from_pretrained(TOWER).model.visual.state_dict())
    processor = AutoProcessor.from_pretrained(TOWER)
    tokenizer.chat_template = processor.chat_template
    processor.tokenizer = tokenizer
    processor.save_pretrained(folder)
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        shutil.copy2(TOWER / name, folder / name)
    model.generation_config.update(eos_token_id=[vocabulary[IM_END], vocabulary[PAD]])
    model.save_pretrained(folder)


def init(request: Request) -> None:
    build(request)


def run_arm(out: Path, arm: str, seed: int, args: argparse.Namespace) -> Path:
    """The stages of an arm; returns its model's folder. The first stage is both arms'."""
    folder = out / str(seed)
    text = f"stages = {toml(ARMS[arm])}\n"
    for stage in ARMS[arm]:
        own = folder / (stage if stage != "sft" else f"sft_{arm.split()[0]}")
        file = overlay(own.with_suffix(".toml"), settings(out, own, stage, args, seed))
        text += f"[{stage}]\nfiles = {toml([f'pretrain_{stage}.toml', file])}\n"
    config = folder / f"{arm.split()[0]}.toml"
    config.write_text(text)
    if not (own / "export/config.json").exists():
        forked(lambda: pretrain.main(["--config", str(config)]), folder / "log")
    return own / "export"


def accuracy(out: Path, model: Path, folder: Path) -> float:
    """Share of right answers, in percent, with the images in view.

    The language model names the choice in a sentence, as it has learnt to (`answer`); a letter, by
    which benchmarks score, is more than one of its size can bind to a choice.
    """
    if not (folder / "summary.json").exists():
        words = ["--config", "prism_demo.toml", "--mode", "direct", "--out", str(folder)]
        words += [f"--captioner.path={model}", "--captioner.n=1", "--captioner.temperature=0"]
        words += [f"--benchmarks.qa.files=['{out}/world/heldout_sft_world.jsonl']"]
        forked(lambda: prism.main([*words, "--run.progress=false"]), folder.parent / "log")
    said = [row["captions"][0]["answer"]["text"] for row in lines(folder / "items.jsonl")]
    asked = items(out / "world/heldout_sft_world.jsonl")
    right = [text == answer(item) for text, item in zip(said, asked, strict=True)]
    return 100 * sum(right) / len(right)


def losses(run: Path) -> list[float]:
    """Held-out loss before the first step and after the last."""
    found = [line["eval/loss"] for line in lines(run / "metrics.jsonl") if "eval/loss" in line]
    return [found[0], found[-1]]


def measure(out: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per arm, over the seeds."""
    rows: list[dict[str, Any]] = [{"arm": arm, "accuracy": [], "losses": []} for arm in ARMS]
    for seed in tqdm(range(args.seeds), desc="seeds"):
        for row in rows:
            arm = row["arm"]
            model = run_arm(out, arm, seed, args)
            scored = out / str(seed) / f"direct_{arm.split()[0]}"
            row["accuracy"].append(accuracy(out, model, scored))
            runs = [out / str(seed) / s for s in ARMS[arm][:-1]] + [model.parent]
            row["losses"].append({s: losses(run) for s, run in zip(ARMS[arm], runs, strict=True)})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Medians over the seeds, with all of them in brackets."""
    shown = ["| trained | right answers, % |", "| --- | --- |"]
    shown += [f"| {row['arm']} | {figures(row['accuracy'], '{:.1f}')} |" for row in rows]
    shown += ["", "| stage | held-out loss before | after |", "| --- | --- | --- |"]
    for row in rows:
        for stage in row["losses"][0]:
            if row["arm"] == WITHOUT and stage == "align":
                continue
            name = stage if stage != "sft" else f"sft, {row['arm']}"
            cells = [
                figures([found[stage][i] for found in row["losses"]], "{:.3f}") for i in (0, 1)
            ]
            shown.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(shown)


def main() -> None:
    """Writes the JSON and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "pretraining")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/pretraining.json")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    for stage, steps in (("align", 20), ("captions", 60), ("sft", 20)):
        parser.add_argument(f"--{stage}-steps", type=int, default=steps)
    args = parser.parse_args()
    out, args.json = args.out.resolve(), args.json.resolve()
    os.chdir(ROOT)  # where the recipes' paths start from
    make_world(out)
    preload()
    forked(partial(make_vision_model, out / "vision"), out / "log")
    for seed in range(args.seeds):
        target = out / f"init_{seed}"
        request = Request(out / "vision", LANGUAGE, target, seed=seed, dtype="float32")
        if not target.exists():
            forked(partial(init, request), out / "log")
    rows = measure(out, args)
    steps = {f"{stage}_steps": getattr(args, f"{stage}_steps") for stage in STAGES}
    result = {"machine": machine(), "batch": args.batch, **steps, "rows": rows}
    args.json.write_text(json.dumps(result, indent=2) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
