"""The plan that --dry-run prints."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from caprl_native.config.cli import ConfigError, load
from caprl_native.config.rules import check
from caprl_native.config.schema import Config, SftConfig
from caprl_native.dry_run import Device, count_rows, needs_of, plan, plan_sft, world_size
from caprl_native.memory_plan import ASLEEP, CONTEXT, ENGINE_WORK, GIB
from caprl_native.policy.model_size import read_model_size

TEXT = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "hidden_size": 16,
    "intermediate_size": 32,
    "vocab_size": 100,
}
VISION = {"depth": 1, "hidden_size": 8, "intermediate_size": 16, "spatial_merge_size": 2}
TENSORS = {
    "model.language_model.embed_tokens.weight": (100, 16),
    "model.language_model.layers.0.mlp.weight": (16, 32),
    "model.language_model.layers.1.mlp.weight": (16, 32),
    "model.language_model.layers.1.bias": (16,),
    "model.visual.blocks.0.weight": (8, 8),
    "model.visual.merger.weight": (8, 16),
}
TOTAL = 1600 + 512 + 528 + 64 + 128


def make_model(folder: Path, model_type: str = "qwen3_vl", shards: int = 1) -> str:
    folder.mkdir()
    config = {"model_type": model_type, "text_config": TEXT, "vision_config": VISION}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {k: torch.zeros(v, dtype=torch.bfloat16) for k, v in TENSORS.items()}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return str(folder)
    where = {name: f"model-{i % shards}.safetensors" for i, name in enumerate(tensors)}
    for file in set(where.values()):
        save_file({k: v for k, v in tensors.items() if where[k] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (folder / "unrelated.safetensors").write_bytes(b"not read: the index does not name it")
    return str(folder)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    data = tmp_path / "train.jsonl"
    data.write_text("{}\n" * 70 + "\n" + "{}")
    config = Config()
    config.data.files, config.data.batch_size = [str(data)], 8
    config.policy.path = make_model(tmp_path / "model")
    config.reward.reader.path = make_model(tmp_path / "reader", "qwen3")
    config.eval.every, config.run.epochs = 0, 3
    return config


def test_sizes_come_from_headers(tmp_path):
    whole, split = make_model(tmp_path / "a"), make_model(tmp_path / "b", shards=3)
    for folder in (whole, split):
        size = read_model_size(folder)
        assert size is not None
        assert size.total == TOTAL
        assert size.units() == (1600 + 128, 528)
        assert size.kv_per_token == 2 * 2 * 2 * 8


def test_no_model_and_broken_models(tmp_path):
    assert read_model_size(tmp_path / "none") is None
    folder = Path(make_model(tmp_path / "a"))
    (folder / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match="a:"):
        read_model_size(folder)


def test_the_arithmetic_of_a_step(config):
    config.rollout.tensor_parallel_size, config.policy.replicas = 2, 2
    text = plan(config, 4)
    assert "4: weights sharded over 2, 2 replica(s)" in text
    assert "2, each on 2 rank(s)" in text
    assert "8 prompts x 8 captions = 64 captions per step" in text
    assert "4 prompts, 32 captions" in text
    assert "71 records" in text
    assert "24: 8 per epoch x 3\n" in text
    assert f"{TOTAL:,} parameters" in text


def test_the_number_of_steps(config):
    config.run.steps = 20
    assert "20: 2.50 epochs of 8\n" in plan(config, 1)
    config.run.steps = 30  # beyond the epochs: a run does what run.steps says
    assert _steps_of(plan(config, 1)) == "30:"
    config.run.steps = 20
    config.run.epochs = 0
    assert _steps_of(plan(config, 1)) == "20:"
    config.run.epochs, config.data.batch_size = 1, 72
    with pytest.raises(ConfigError, match="data.batch_size: expected at most the 71 records"):
        plan(config, 1)


def test_stages_end_with_batches_of_their_own(config):
    config.data.curriculum = "step"
    assert "27 or more: at least 9 per epoch x 3\n" in plan(config, 1)  # none of 71 left out
    config.data.batch_size, config.run.steps = 72, 4
    assert _steps_of(plan(config, 1)) == "4"
    given = ["--data.curriculum=step", "--rollout.refill=true", "--policy.path=p"]
    with pytest.raises(ConfigError, match="rollout.refill: expected false with a curriculum"):
        check(load(Config, [], [*given, '--data.files=["a"]', "--eval.every=0"]))


def test_what_is_held_out_is_no_part_of_an_epoch(config):
    config.data.hold_out = 0.1
    text = plan(config, 1)
    assert "10.00% (7 records), by media; not trained on" in text
    assert _steps_of(text) == "24:", "8 per epoch of 64 records"
    config.data.batch_size = 65
    with pytest.raises(ConfigError, match="data.batch_size: expected at most the 64 records"):
        plan(config, 1)


def _steps_of(text: str) -> str:
    return next(line.split()[1] for line in text.splitlines() if line.split()[:1] == ["steps"])


def of_training(config: Config, world: int) -> dict[str, float]:
    model = read_model_size(config.policy.path)
    assert model is not None
    return needs_of(config, model, None, world).peaks(0).training


def test_memory_shrinks_with_ranks_and_freezing(config):
    one, four = of_training(config, 1), of_training(config, 4)
    assert one["master weights"] == 4 * TOTAL == 4 * four["master weights"]
    assert one["Adam"] == 8 * TOTAL
    config.policy.freeze = ["vision"]
    assert of_training(config, 1)["gradients"] == 4 * (TOTAL - 64)
    config.policy.freeze = ["language"]
    assert of_training(config, 1)["gradients"] == 4 * (64 + 128)
    assert "reference policy" not in one
    config.algorithm.kl.weight = 0.1
    assert of_training(config, 2)["reference policy"] == 2 * TOTAL


ENGINE = {"engine weights", "engine working memory", "engine KV cache"}
READER = {"reader weights", "reader working memory", "reader KV cache"}
KEPT = {"CUDA context", "master weights", "Adam", "reference policy"}


def test_each_peak_has_its_parts(config):
    """What the trainer keeps, and a reader that does not sleep, are in both; an engine that sleeps
    keeps a little; gradients are gone before it wakes."""
    config.algorithm.kl.weight = 0.1
    model = read_model_size(config.policy.path)
    needs = needs_of(config, model, model, 2)
    peaks = needs.peaks(80 * GIB)
    assert set(peaks.rollout) == KEPT | ENGINE | READER | {"weight sync"}
    update = {"gradients", "gathered units", "gradient of a unit", *needs.activations}
    assert "language layers" in needs.activations
    assert set(peaks.training) == KEPT | READER | update | {"sleeping engine"}
    assert peaks.rollout["weight sync"] == 2 * 2 * 1600, "the embedding, in bfloat16, twice"
    shares = [sum(peaks.rollout[k] for k in parts) / GIB for parts in (ENGINE, READER)]
    assert shares == pytest.approx([80 * 0.5, 80 * 0.2]), "what vLLM takes"
    assert peaks.training["sleeping engine"] == ASLEEP and peaks.rollout["CUDA context"] == CONTEXT
    config.rollout.sleep = False
    assert set(needs.peaks(80 * GIB).training) >= ENGINE
    assert not {"CUDA context", "sleeping engine"} & set(needs.peaks(0).training), "of a CPU"


def test_what_several_nodes_and_one_reduction_a_step_take(config):
    config.data.batch_size = 16
    assert "weights sharded over 8, 2 replica(s)" in plan(config, 16, device=Device.of(80.0))
    assert of_training(config, 16)["master weights"] == 4 * TOTAL / 8
    assert "whole gradients" not in of_training(config, 16)
    config.policy.reduce_once = True
    assert of_training(config, 16)["whole gradients"] == 4 * TOTAL


def test_moments_in_bfloat16_take_half_and_offloaded_ones_nothing(config):
    assert of_training(config, 1)["Adam"] == 8 * TOTAL
    config.policy.optimizer_dtype = "bfloat16"
    assert of_training(config, 1)["Adam"] == 4 * TOTAL
    assert of_training(config, 2)["fetched moments"] == 4 * 1600, "the embedding's two, in float32"
    config.policy.optimizer_offload = True
    model = read_model_size(config.policy.path)
    peaks = needs_of(config, model, None, 1).peaks(80 * GIB)
    assert "Adam" not in peaks.rollout and "Adam" not in peaks.training
    assert "Adam" in of_training(config, 1), "on a CPU there is no other memory"


def test_the_plan_says_what_fits(config):
    line = {}
    for text in plan(config, 1, device=Device("none", 0)).splitlines():
        line[text[:24].strip()] = text[24:]
    assert line["80 GB (A100, H100)"].count("fits") == 2
    assert "fits" in line["24 GB (L4, A10G)"] and "NO" not in line["24 GB (L4, A10G)"]
    config.rollout.gpu_memory_utilization, config.reward.reader.gpu_memory_utilization = 0.8, 0.2
    text = plan(config, 1, device=Device.of(80))
    assert "NO, 1.0 short" in text, "the engines take it all, and the context is beside them"
    assert "fits" in text, "the policy's engine sleeps while the policy trains"
    config.rollout.gpu_memory_utilization = 0.03  # less than an engine works in
    assert "NO, KV cache too small" in plan(config, 1, device=Device.of(80))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the cache is sized by the GPU there")
def test_the_cache_is_told_in_tokens(config):
    config.rollout.kv_cache_gib = 1.0
    assert f"128 bytes per token and rank, {2**30 // 128:,} tokens fit" in plan(config, 1)
    assert "TOO SMALL" not in plan(config, 1)
    config.rollout.kv_cache_gib = 0.001
    assert "TOO SMALL" in plan(config, 1)


def test_what_is_not_here_is_said_to_be_unknown():
    text = plan(load(Config, ["video.toml"]), 8)
    assert text.count("not found here, sizes unknown") == 3
    assert "16 prompts, 128 captions" in text
    assert "unknown length" in text


def test_an_endpoint_takes_no_memory(config):
    config.reward.reader.path, config.reward.reader.endpoint = "", "http://127.0.0.1:1/v1"
    assert "at http://127.0.0.1:1/v1: no memory here" in plan(config, 1)


@pytest.mark.parametrize(
    ("world", "change", "parts"),
    [
        (3, {}, ["data.batch_size", "a multiple of 3"]),
        (3, {"tensor_parallel_size": 2}, ["rollout.tensor_parallel_size", "ranks, 3"]),
        (3, {"replicas": 2}, ["policy.replicas", "ranks, 3"]),
        (4, {"updates": 4}, ["algorithm.updates", "divisor of 2"]),
    ],
)
def test_ranks_must_divide(config, world, change, parts):
    tables = (config.rollout, config.policy, config.algorithm)
    for key, value in change.items():
        setattr(next(t for t in tables if hasattr(t, key)), key, value)
    with pytest.raises(ConfigError) as error:
        plan(config, world)
    assert [p for p in parts if p not in str(error.value)] == []


def test_an_unknown_family_is_a_config_error(config, tmp_path):
    config.policy.path = make_model(tmp_path / "bert", "bert")
    with pytest.raises(ConfigError, match="policy.path.*bert"):
        plan(config, 1)


def test_rows(tmp_path):
    table = pa.table({"x": list(range(7))})
    pq.write_table(table, tmp_path / "a.parquet")
    assert count_rows(tmp_path / "a.parquet") == 7
    (tmp_path / "b.parquet").write_bytes(b"nothing")
    assert count_rows(tmp_path / "b.parquet") is None
    assert count_rows(tmp_path / "none.jsonl") is None


def test_world_size(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert world_size() == 1
    monkeypatch.setenv("WORLD_SIZE", "6")
    assert world_size() == 6


def test_a_plan_for_other_gpus(config):
    text = plan(config, 8, device=Device.of(80.0))
    assert "8: weights sharded over 8" in text and "GPUs of 80 GiB" in text
    assert " of 80.0" in text and "sleeping engine" in text
    cache = next(line for line in text.splitlines() if "engine KV cache" in line)
    room = 40.0 - ENGINE_WORK / GIB  # of half of each GPU, beside tiny weights
    assert abs(float(cache.split()[-1]) - room) < 0.01


@pytest.mark.parametrize("family", ["qwen3_vl", "llama"])
def test_a_supervised_run_is_planned_too(config, tmp_path, family):
    """Whatever it trains: a captioner, or any causal language model."""
    path = make_model(tmp_path / "trained", family)
    sft = SftConfig(run={"epochs": 3}, policy={"path": path})
    sft.data.files, sft.data.batch_size = config.data.files, 8
    text = plan_sft(sft, 2, device=Device.of(80.0))
    assert "2: weights sharded over 2, 1 replica(s)" in text and "GPUs of 80 GiB" in text
    assert "24: 8 per epoch x 3" in text and f"{TOTAL:,} parameters" in text
    assert "Adam" in text and "sum" in text
    assert not [word for word in ("engine", "reader", "reference", "eval") if word in text]
    sft.policy.replicas = 3
    with pytest.raises(ConfigError, match="policy.replicas: expected a divisor"):
        plan_sft(sft, 2)


def test_no_reader_is_planned_where_no_term_asks_one(config):
    config.reward.terms = {"length": {"weight": 0.5}}
    text = plan(config, 1)
    assert "none: no term of the reward asks one" in text and "reader weights" not in text
