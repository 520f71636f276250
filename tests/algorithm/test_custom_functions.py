"""Functions of one's own in every registry: what they may return, and errors with their name."""

from pathlib import Path

import pytest
import torch

from caprl_native.algorithm.inputs import CorrectionInputs
from caprl_native.algorithm.losses.ppo import Ppo
from caprl_native.algorithm.objective import (
    advantages_of,
    corrections_of,
    kl_estimate,
    policy_loss,
)
from caprl_native.algorithm.registries import ADVANTAGES, CORRECTIONS, KL, LOSSES

ROOT = Path(__file__).parents[2]
ENTRIES = ROOT / "tests" / "programs" / "custom_entries.py"

torch.manual_seed(0)
LOGPROBS, OLD = -torch.rand(3, 5).double(), -torch.rand(3, 5).double()
ADVANTAGE, MASK = torch.randn(3, 1).double(), torch.rand(3, 5) < 0.8


def run(kind: str, function: str, **options: object) -> torch.Tensor:
    """What comes of a custom entry `function` in the registry `kind`."""
    registry = {"loss": LOSSES, "advantage": ADVANTAGES, "kl": KL, "correction": CORRECTIONS}[kind]
    path = function if ":" in function else f"{ENTRIES}:{function}"
    custom = registry["custom"].options(import_path=path, options=options)
    if kind == "loss":
        return policy_loss(LOGPROBS, OLD, ADVANTAGE, MASK, custom)[0]
    if kind == "advantage":
        return advantages_of(torch.tensor([0.1, 0.5, 0.9]), [0, 0, 0], custom)
    if kind == "kl":
        return kl_estimate(LOGPROBS, OLD, custom)
    inputs = CorrectionInputs(LOGPROBS, LOGPROBS, OLD, ADVANTAGE.expand(3, 5), MASK)
    return corrections_of(inputs, {"mine": custom})[0]


def test_they_get_the_inputs_and_their_options() -> None:
    ppo = policy_loss(LOGPROBS, OLD, ADVANTAGE, MASK, Ppo(clip_low=0.99, clip_high=1e9))[0]
    torch.testing.assert_close(run("loss", "loss", scale=0.5), 0.5 * ppo)
    torch.testing.assert_close(run("advantage", "advantage", scale=2.0),
                               torch.tensor([-0.8, 0.0, 0.8]).double())  # fmt: skip
    torch.testing.assert_close(run("kl", "kl", scale=3.0), 3 * (LOGPROBS - OLD).square())
    assert torch.equal(run("correction", "correction", scale=0.5), 0.5 * MASK.double())


def test_the_example_is_a_loss() -> None:
    path = f"{ROOT / 'examples' / 'custom_loss.py'}:asymmetric"
    with torch.no_grad():
        lopsided, fair = (run("loss", path, negative=share) for share in (0.0, 1.0))
        unclipped = policy_loss(LOGPROBS, OLD, ADVANTAGE, MASK, Ppo(clip_low=0.99, clip_high=1e9))
        good = policy_loss(
            LOGPROBS, OLD, ADVANTAGE.clamp(min=0), MASK, Ppo(clip_low=0.99, clip_high=1e9)
        )
    torch.testing.assert_close(fair, unclipped[0])
    torch.testing.assert_close(lopsided, good[0])


@pytest.mark.parametrize("kind", ["loss", "advantage", "kl", "correction"])
def test_errors_carry_the_name(kind: str) -> None:
    with pytest.raises(ZeroDivisionError, match="no tokens") as caught:
        run(kind, "failing")
    assert "custom_entries.py:failing, which the config names" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match=r"of_another_shape must return a tensor \[3.*\], not 1.0"):
        run(kind, "of_another_shape")


def test_advantages_are_finite() -> None:
    with pytest.raises(ValueError, match="not_finite returned advantages that are not finite"):
        run("advantage", "not_finite")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("", "expected package.module:name"),
        ("no_such_module:f", "No module named 'no_such_module'"),
        ("math:pi", "math:pi is not a function"),
        (f"{ENTRIES}:nothing", "has no 'nothing'"),
    ],
)
def test_a_path_to_nothing_is_found_with_the_config(path: str, said: str) -> None:
    ((name, expected),) = LOSSES["custom"].options(import_path=path).conflicts()
    assert name == "import_path" and said in expected
