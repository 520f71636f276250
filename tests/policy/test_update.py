"""One update of the policy: the same however it is cut, over one rank or two."""

import math
from pathlib import Path
from typing import get_args

import pytest
import torch

from caprl_native.config.schema import AlgorithmConfig, PolicyConfig
from caprl_native.observe.metrics import Norm
from caprl_native.policy.families import FAMILIES
from caprl_native.policy.fsdp import load_policy
from caprl_native.policy.learner import Learner
from caprl_native.policy.model_check import ModelError
from caprl_native.policy.optim import (
    apply_gradients,
    build_optimizer,
    learning_rate,
    squared_norms,
)
from caprl_native.testing.samples import group, prompt, relative, responses
from caprl_native.testing.tiny_models import write_tiny_vlm
from tests.programs.updates import KEPT
from tests.ranks import ROOT, run_ranks

SAME = 1e-5  # relative, in float32


def found(path: Path, folder: Path, which: str) -> dict[int, dict]:
    """By number of ranks: what tests/programs/updates.py found with each setting."""
    results = {}
    for ranks in (1, 2):
        reports = run_ranks("updates", ranks, path, folder, which)
        assert all(r == reports[0] for r in reports), "metrics differ between ranks"
        results[ranks] = torch.load(folder / f"{ranks}.pt")
    return results


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("updates")
    return found(write_tiny_vlm(folder / "model", layers=3), folder, "all")


def agree(ours: dict, theirs: dict) -> None:
    assert relative(ours["gradients"], theirs["gradients"]) < SAME
    gaps = {k: abs(v - theirs["metrics"][k]) for k, v in ours["metrics"].items()}
    scale = {k: max(abs(v), 0.1) for k, v in theirs["metrics"].items()}
    assert all(gaps[k] < 2 * SAME * scale[k] for k in gaps), (ours["metrics"], theirs["metrics"])


EVEN = ["whole", "halves", "single", "chunks", "whole, all kept"]
UNEVEN = ["first rank has all", "second rank has text"]


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", EVEN + UNEVEN)
def test_loss_and_gradients_do_not_depend_on_cuts_ranks_or_recomputation(results, ranks, name):
    agree(results[ranks][name], results[1]["whole"])


@pytest.mark.parametrize("ranks", [1, 2])
def test_recomputation_changes_no_bit(results, ranks):
    recomputes_exactly(results[ranks])


def recomputes_exactly(results: dict[str, dict]) -> None:
    for name in KEPT:
        ours, theirs = results[name], results[f"{name}, all kept"]
        assert ours["metrics"] == theirs["metrics"]
        assert ours["gradients"].keys() == theirs["gradients"].keys()
        assert all(torch.equal(g, theirs["gradients"][n]) for n, g in ours["gradients"].items())
        again = 1 if "frozen" in name else 2  # times that the tower's blocks run
        assert ours["passes"] == again * theirs["passes"]


@pytest.mark.parametrize(
    ("family", "which"), [("tiny_policy_2_5", "some"), ("tiny_policy_moe", "more")]
)
def test_other_families_too(request, tmp_path, family, which):
    """A mixture of experts, whose layers are two units each, in all that shards and replicas do."""
    results = found(request.getfixturevalue(family), tmp_path, which)
    for ranks in (1, 2):
        recomputes_exactly(results[ranks])
    for ranks in (1, 2):
        for name in ("whole", "single", "second rank has text"):
            agree(results[ranks][name], results[1]["whole"])
        for name in ("frozen vision", "frozen vision, single"):
            same_where_not_frozen(results, results[ranks][name])
        if which == "more":
            clips(results[ranks])
            offloads(results[ranks])
    if which == "more":
        for name in ("replicas, single", "reduced once"):
            agree(results[2][name], results[1]["whole"])
        reduces_once(results[2])


@pytest.mark.parametrize("ranks", [1, 2])
def test_other_aggregations_do_not_depend_on_them_either(results, ranks):
    agree(results[ranks]["sequence mean, single"], results[1]["sequence mean"])
    whole, other = results[1]["whole"], results[1]["sequence mean"]
    assert relative(whole["gradients"], other["gradients"]) > 0.01


@pytest.mark.parametrize("name", ["replicas", "replicas, single", "reduced once"])
def test_whenever_gradients_are_reduced_they_are_the_same(results, name):
    agree(results[2][name], results[1]["whole"])


def test_gradients_meet_once_a_step_where_that_takes_no_memory_or_where_it_may(results):
    reduces_once(results[2])
    assert results[2]["replicas"]["reductions"] == results[2]["replicas, single"]["reductions"]


def reduces_once(results: dict[str, dict]) -> None:
    sums, scatters = ({n: r["reductions"][i] for n, r in results.items()} for i in (0, 1))
    units = scatters["whole"]
    assert units > 3 and scatters["single"] == 8 * units  # one micro-batch per response
    assert scatters["reduced once"] == units
    assert sums["replicas, single"] == units  # over replicas


def test_bfloat16_is_near(results):
    ours, theirs = results[2]["bfloat16"], results[1]["whole"]
    flat = [torch.cat([g.flatten() for g in r["gradients"].values()]) for r in (ours, theirs)]
    assert torch.nn.functional.cosine_similarity(*flat, dim=0) > 0.99
    for key in ("policy/loss", "policy/entropy"):
        assert ours["metrics"][key] == pytest.approx(theirs["metrics"][key], rel=0.02)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("part", ["vision", "projector", "language"])
def test_frozen_weights_stay_bit_for_bit_and_all_others_move(results, ranks, part):
    result, family = results[ranks][f"frozen {part}"], FAMILIES["qwen3_vl"].value
    still = {name for name, t in result["before"].items() if torch.equal(t, result["after"][name])}
    assert still == {name for name in result["before"] if family.part_of(name) == part}
    assert {family.part_of(n) for n in result["gradients"]} == {
        "vision", "projector", "language"
    } - {part}  # fmt: skip


def same_where_not_frozen(results: dict, ours: dict) -> None:
    whole = results[1]["whole"]["gradients"]
    assert relative(ours["gradients"], {name: whole[name] for name in ours["gradients"]}) < SAME


@pytest.mark.parametrize("ranks", [1, 2])
def test_frozen_parts_do_not_change_the_others_gradients(results, ranks):
    for part in ("vision", "projector", "language"):
        same_where_not_frozen(results, results[ranks][f"frozen {part}"])


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("case", ["single", "text apart", "kl"])
def test_a_frozen_tower_looks_once_at_each_sample_in_a_step(results, ranks, case):
    """However many passes the language model makes; and once at a dummy, for samples of text."""
    result = results[ranks][f"frozen vision, {case}"]
    samples, models = 3, 2 if case == "kl" else 1
    most = {1: samples, 2: 2}[ranks]  # of a rank's samples with media
    assert models * (1 + samples // ranks) <= result["passes"] <= models * (1 + most)
    assert results[ranks]["single"]["passes"] > 6
    assert not result["remembered"]
    if case != "kl":
        same_where_not_frozen(results, result)


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_norm_is_that_of_the_whole_gradient_and_clipping_scales_to_it(results, ranks):
    clips(results[ranks])


def clips(results: dict[str, dict]) -> None:
    whole, clipped = results["whole"], results["clipped"]
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in whole["gradients"].values()))
    assert whole["metrics"]["policy/grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert clipped["metrics"]["policy/grad_norm"] == pytest.approx(norm, rel=1e-5)
    scaled = {name: g * 0.01 / norm for name, g in whole["gradients"].items()}
    assert relative(clipped["gradients"], scaled) < 1e-4


@pytest.mark.parametrize("ranks", [1, 2])
def test_an_offloaded_optimizer_makes_the_same_step(results, ranks):
    offloads(results[ranks])


def offloads(results: dict[str, dict]) -> None:
    whole, offloaded = results["whole"], results["offloaded"]
    for name, gradient in whole["gradients"].items():
        assert torch.equal(gradient, offloaded["gradients"][name])
        assert torch.allclose(offloaded["after"][name], whole["after"][name], rtol=0, atol=1e-7)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_reference_and_two_updates(results, ranks):
    result = results[ranks]["kl"]
    assert result["metrics"]["policy/kl"] > 0  # the second mini-batch sees a policy that moved
    assert not math.isnan(result["metrics"]["policy/clip_frac"])
    moved = [not torch.equal(t, result["after"][n]) for n, t in result["before"].items()]
    assert all(moved)


def learner_of(config: PolicyConfig, algorithm: AlgorithmConfig, dims) -> Learner:
    """Of ten steps, captions of 12 tokens."""
    policy = load_policy(config, dims)
    optimizer = build_optimizer(policy, config)
    return Learner(policy, None, optimizer, config, algorithm, 1.0, 12, 10, dims)


def texts(learner: Learner) -> list:
    policy, path = learner.policy, learner.config.path
    return [
        group(prompt(path, "text", i), responses(policy.config, policy.banned, 3, i), i)
        for i in range(2)
    ]


@pytest.mark.parametrize("updates", [1, 2])
def test_a_custom_correction_sees_the_log_probs_before_the_update(dims, tiny_policy, updates):
    """Also where the ratio of the loss is that to the engine, which needs none of them."""
    config = PolicyConfig(path=str(tiny_policy), dtype="float32", lr=1e-2)
    function = f"{ROOT}/tests/programs/custom_entries.py:drift"
    corrections = {"tis": {"type": "none"}, "drift": {"type": "custom", "import_path": function}}
    algorithm = AlgorithmConfig(old="engine", corrections=corrections, updates=updates)
    learner = learner_of(config, algorithm, dims)
    moved = learner.update(texts(learner), 0)["mismatch/drift_clipped_frac"]
    assert moved == 0 if updates == 1 else moved > 0.4  # all of the second mini-batch's tokens


def test_the_mismatch_is_that_before_the_update(dims, tiny_policy):
    """Of all mini-batches, though later ones meet a policy that has moved."""
    config = PolicyConfig(path=str(tiny_policy), dtype="float32", lr=1e-2)
    found = []
    for updates in (1, 2):
        learner = learner_of(config, AlgorithmConfig(old="trainer", updates=updates), dims)
        metrics = learner.update(texts(learner), 0)
        found.append([metrics[f"mismatch/logprob_abs_{kind}"] for kind in ("mean", "max")])
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-6)
    assert found[1][0] == pytest.approx(found[0][0], rel=0.02)  # a mean of two halves' means


def test_a_batch_of_fewer_groups_than_updates_makes_fewer_steps(dims, tiny_policy):
    config = PolicyConfig(path=str(tiny_policy), dtype="float32", lr=1e-3)
    found = []
    for updates in (1, 4):
        learner = learner_of(config, AlgorithmConfig(updates=updates), dims)
        metrics = learner.update(texts(learner)[:1], 0)
        weights = [p.full_tensor().clone() for p in learner.policy.parameters()]
        found.append((metrics["policy/loss"], metrics["policy/grad_norm"], weights))
    (loss, norm, weights), (same_loss, same_norm, same_weights) = found
    assert (loss, norm) == (same_loss, same_norm) and norm > 0
    assert all(torch.equal(a, b) for a, b in zip(weights, same_weights, strict=True))


def test_steps_follow_every_schedule(dims, tiny_policy):
    base = PolicyConfig(path=str(tiny_policy), lr=1e-3, min_lr_ratio=0.1)
    learner = learner_of(base, AlgorithmConfig(), dims)
    rates = {}
    for name in get_args(PolicyConfig.model_fields["schedule"].annotation):
        learner.config = base.replace(schedule=name)
        rates[name] = learner.update(texts(learner), 7)["policy/lr"]
        assert rates[name] == pytest.approx(learning_rate(learner.config, 7, 10))
    assert rates["constant"] == 1e-3 and rates["linear"] == pytest.approx(1e-3 * (1 - 0.9 * 0.7))
    assert 1e-4 < rates["cosine"] < rates["linear"]


def test_the_learning_rate_warms_up_and_decays():
    config = PolicyConfig(lr=1.0, warmup_steps=2, schedule="cosine", min_lr_ratio=0.1)
    rates = [learning_rate(config, step, 12) for step in range(13)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[7] == pytest.approx(0.1 + 0.9 * 0.5)
    assert rates[2:] == sorted(rates[2:], reverse=True) and rates[12] == pytest.approx(0.1)
    shorter = config.replace(schedule_steps=12)  # whatever the run's length
    assert [learning_rate(shorter, step, 99) for step in range(13)] == rates
    assert learning_rate(shorter, 50, 99) == pytest.approx(0.1)
    longer = config.replace(schedule_steps=22)  # a run that stops before the end of the schedule
    assert learning_rate(longer, 12, 12) == pytest.approx(0.1 + 0.9 * 0.5)


def test_a_share_of_the_run_is_warm_up():
    config = PolicyConfig(lr=1.0, warmup_share=0.1, schedule="linear")
    steps = config.replace(warmup_share=0.0, warmup_steps=3)
    for step in range(21):
        assert learning_rate(config, step, 21) == learning_rate(steps, step, 21)
    assert learning_rate(config, 2, 21, peak=0.5) == 0.5


def test_parts_have_rates_of_their_own(tiny_policy, dims):
    """Each parameter is in one group, and the schedule holds for all of them."""
    base = PolicyConfig(path=str(tiny_policy), lr=1e-2, weight_decay=0.1)
    policy = load_policy(base, dims)
    config = base.replace(lr_vision=0.0, lr_projector=1e-3, schedule="linear", schedule_steps=10)
    optimizer = build_optimizer(policy, config)
    names = {p: n.removeprefix("hf.") for n, p in policy.named_parameters()}
    grouped = [names[p] for g in optimizer.param_groups for p in g["params"]]
    assert sorted(grouped) == sorted(names.values())
    for parameter in policy.parameters():
        parameter.grad = torch.ones_like(parameter)
    apply_gradients(policy, optimizer, config, 1.0, 1.0, step=6, update=5, updates=10)
    wanted = {"vision": 0.0, "projector": 5e-4, "language": 5e-3}
    for held in optimizer.param_groups:
        for parameter in held["params"]:
            part = policy.family.part_of(names[parameter])
            assert held["lr"] == pytest.approx(wanted[part])
            assert held["weight_decay"] == (0.1 if parameter.ndim >= 2 else 0.0)
    assert len(build_optimizer(policy, base).param_groups) == 2


def test_biases_and_norms_have_no_weight_decay():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    optimizer = build_optimizer(model, PolicyConfig(weight_decay=0.1))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert {n: decay[id(p)] for n, p in model.named_parameters()} == {
        "0.weight": 0.1, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0
    }  # fmt: skip
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ModelError, match="leaves nothing to train"):
        build_optimizer(model, PolicyConfig(freeze=["language"]))


def test_a_rate_of_a_part_that_is_not_there_is_refused(tiny_reader, dims):
    policy = load_policy(PolicyConfig(path=str(tiny_reader)), dims)
    with pytest.raises(ModelError, match="policy.lr_vision: a qwen3 has no vision"):
        build_optimizer(policy, PolicyConfig(lr_vision=1e-5))


@pytest.mark.parametrize(
    ("lr", "gradient", "loss", "said"),
    [
        (1e39, 1.0, 0.5, "step 4: 2 of the weights are not finite after the optimizer's step, e.g"),
        (1e-3, math.nan, 0.5, "step 4: the gradient's norm is nan; the weights are as they were"),
        (1e-3, 1.0, math.inf, "step 4: the loss is inf; the weights are as they were"),
        (1e-3, 1.0, 0.5, ""),
    ],
)
def test_a_step_that_ruins_the_weights_ends_the_run(dims, lr, gradient, loss, said):
    model, config = torch.nn.Linear(3, 3), PolicyConfig(lr=lr)
    optimizer = build_optimizer(model, config)

    def step() -> float:
        """The second of two updates of step 4."""
        norm = Norm(squared_norms(model)).value
        apply_gradients(model, optimizer, config, loss, norm, step=4, update=7, updates=18)
        return norm

    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    if not said:
        assert step() == pytest.approx(math.sqrt(12))
        return
    with pytest.raises(FloatingPointError, match=said):
        step()
    finite = all(p.isfinite().all() for p in model.parameters())
    assert finite == ("as they were" in said)
