"""The planner's bytes of activations are those of fake tensors at the published models' shapes."""

import pytest

from caprl_native.config.schema import PolicyConfig
from caprl_native.policy.activation_size import Activations, Pass
from caprl_native.policy.families import FAMILIES
from caprl_native.policy.model_size import ModelSize
from tests.policy.fake_memory import Bytes, activation_peak, config_of, micro_batch

GIB = 2**30
# Text, sides of a picture in features, lengths of responses.
LONG = (20, (84, 95), [1000] * 8)  # a prompt of 8,000 tokens
SHORT = (500, (20, 25), [400] * 16)
FAMILY = FAMILIES["qwen3_vl"].value


def both(name: str, shape: tuple, **changes: object) -> tuple[Bytes, Activations]:
    """Fake tensors' figures, and the formula's."""
    policy = PolicyConfig(logprob_chunk=8192).replace(**changes)
    config = config_of(name)
    batch = micro_batch(config, *shape)
    size = Pass(batch.ids.numel(), len(batch.targets), shape[1][0] * shape[1][1])
    model = ModelSize({}, config.to_dict())
    return activation_peak(name, batch, policy), Activations.of(policy, model, FAMILY, size)


@pytest.mark.parametrize(("name", "held"), [("2b", 4.3), ("4b", 5.4)])
def test_with_checkpoints_of_the_tower_too_the_backward_pass_waits_on_this_much(name, held):
    """GiB."""
    found, formula = both(name, LONG)
    assert found.held / GIB == pytest.approx(held, abs=0.05)
    agrees(found, formula)


CASES = [
    ("8b", SHORT, {"freeze": ["vision"]}),
    ("2b", SHORT, {"activation_checkpointing": False}),
    ("30b-a3b", SHORT, {"freeze": ["vision"]}),
    ("30b-a3b", SHORT, {"freeze": ["vision"], "activation_checkpointing": False}),
]


@pytest.mark.parametrize(("name", "shape", "changes"), CASES)
def test_the_formula_is_within_5_percent_of_fake_tensors(name, shape, changes):
    agrees(*both(name, shape, **changes))


def agrees(found: Bytes, formula: Activations) -> None:
    assert sum(formula.peak.values()) == pytest.approx(found.peak, rel=0.05)
    assert sum(formula.held.values()) == pytest.approx(found.held, rel=0.05)
