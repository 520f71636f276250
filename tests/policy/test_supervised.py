"""A supervised update: transformers' loss, the same however it is cut, over one rank or two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from caprl_native.config.schema import PolicyConfig
from caprl_native.policy.families import family_of
from caprl_native.policy.families.qwen import normalised
from caprl_native.policy.fsdp import load_policy
from caprl_native.policy.model import load_hf
from caprl_native.policy.packing import ASSISTANT, OTHERS, PackedRow
from caprl_native.testing.samples import relative
from tests.programs.supervised import all_rows
from tests.ranks import run_ranks

SAME = 1e-5  # relative, of gradients; the loss agrees to 1e-6
MODELS = ["tiny_policy", "tiny_policy_2_5", "tiny_reader"]


@pytest.fixture(scope="module", params=MODELS)
def found(request, tmp_path_factory) -> Iterator[tuple[Path, dict[int, dict]]]:
    """The model, and by number of ranks what tests/programs/supervised.py found."""
    path, folder = request.getfixturevalue(request.param), tmp_path_factory.mktemp("found")
    results = {}
    for ranks in (1, 2):
        reports = run_ranks("supervised", ranks, path, folder)
        assert all(r == reports[0] for r in reports), "metrics differ between ranks"
        results[ranks] = torch.load(folder / f"{ranks}.pt")
    return path, results


CASES = ["whole", "halves", "single", "no checkpointing", "first rank has all"]
CASES.append("second rank has text")


@pytest.mark.parametrize("ranks", [1, 2])
def test_loss_and_gradients_do_not_depend_on_cuts_ranks_or_recomputation(found, ranks):
    _, results = found
    whole = results[1]["whole"]
    for case in CASES:
        ours = results[ranks][case]
        assert relative(ours["gradients"], whole["gradients"]) < SAME, case
        for key, value in whole["metrics"].items():
            assert ours["metrics"][key] == pytest.approx(value, rel=1e-6, abs=1e-9), (case, key)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_step_without_a_token_changes_nothing(found, ranks):
    result = found[1][ranks]["nobody has any"]
    assert result["metrics"] == {} and result["gradients"] == {}
    assert all(torch.equal(t, result["after"][n]) for n, t in result["before"].items())


@pytest.mark.parametrize("ranks", [1, 2])
def test_frozen_parts_stay_bit_for_bit_and_the_other_moves(found, ranks):
    path, results = found
    if "frozen" not in results[ranks]:
        assert not family_of(path, or_text=True).sees_media
        return
    result, family = results[ranks]["frozen"], family_of(path)
    still = {n for n, t in result["before"].items() if torch.equal(t, result["after"][n])}
    assert still == {n for n in result["before"] if family.part_of(n) != "language"}
    whole = results[1]["whole"]["gradients"]
    assert relative(result["gradients"], {n: whole[n] for n in result["gradients"]}) < SAME


def test_loss_accuracy_and_gradients_are_those_of_plain_sequences(found, dims):
    """Among them text after a video, which stands at the family's positions."""
    path, results = found
    policy = load_policy(PolicyConfig(path=str(path), dtype="float32"), dims)
    hf = load_hf(path)
    parts = [plain(hf, policy, row) for row in all_rows(policy, str(path))]
    logits, labels, speakers = (torch.cat(p) for p in zip(*parts, strict=True))
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    spoken = speakers == ASSISTANT
    loss = losses[spoken].mean()
    (loss + losses[speakers == OTHERS].mean()).backward()
    whole = results[1]["whole"]
    assert whole["metrics"]["policy/loss"] == pytest.approx(loss.item(), rel=1e-6)
    right = (logits.argmax(-1) == labels)[spoken].double().mean().item()
    assert whole["metrics"]["policy/accuracy"] == pytest.approx(right)
    theirs = {n: p.grad for n, p in hf.named_parameters()}
    assert relative(whole["gradients"], theirs) < SAME


def plain(hf, policy, row: PackedRow) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, labels and speakers of a row's scored tokens, by transformers alone but for the
    positions."""
    (response,), given = row.responses, row.prompt
    tail = torch.tensor(response)
    own = policy.positions(given)
    after = int(own.max()) + 1 + torch.arange(len(tail)).expand(len(own), -1)
    positions = torch.cat([own, after], dim=1)
    inputs = {
        "input_ids": torch.cat([given.ids, tail])[None],
        "position_ids": positions[:, None] if len(own) > 1 else positions,
    }
    if given.media is not None:
        kind = ("pixel_values_videos", "video_grid_thw")
        if not (given.token_types == 2).any():
            kind = ("pixel_values", "image_grid_thw")
        inputs |= dict(zip(kind, (normalised(given.media), given.media["grid"]), strict=True))
        types = torch.cat([given.token_types, torch.zeros_like(tail)])[None]
        inputs["mm_token_type_ids"] = types
    speakers = torch.cat([row.scored, torch.full_like(tail, ASSISTANT)])[1:]
    logits, labels = hf(**inputs).logits[0, :-1], inputs["input_ids"][0, 1:]
    scored = speakers > 0
    return logits[scored], labels[scored], speakers[scored]
