"""Entropy and label log-probs."""

import torch

from caprl_native.algorithm.aggregation import Denominators, aggregate
from caprl_native.algorithm.entropy import entropy_from_logits, label_logprobs

TABLE = "entropy.json"


def test_golden(case: dict) -> None:
    batch, output = case["inputs"], case["output"]
    if case["kind"] == "label_log_prob":
        temperature = case["params"].get("temperature", 1.0)
        got = label_logprobs(batch["logits"], batch["labels"].long(), temperature)
    else:
        got = entropy_from_logits(batch["logits"])
    want = case.get("sensible_per_token", output["per_token"])
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)
    for key, value in output.items():
        if key.startswith("loss_") and value == value:
            mask = batch["mask"]
            mean = aggregate(got, mask, key.removeprefix("loss_"), Denominators.of(mask))
            assert abs(mean.item() - value) < 1e-6


def test_banned_tokens_neither_count_nor_break_the_gradient() -> None:
    logits = torch.randn(2, 3, 7, dtype=torch.float64)
    banned = torch.cat([logits, torch.full((2, 3, 2), -torch.inf, dtype=torch.float64)], -1)
    banned.requires_grad_()
    entropy = entropy_from_logits(banned, temperature=0.7)
    torch.testing.assert_close(entropy, entropy_from_logits(logits, temperature=0.7))
    (entropy.sum() + label_logprobs(banned, torch.zeros(2, 3, dtype=torch.long)).sum()).backward()
    assert banned.grad is not None and banned.grad.isfinite().all()


def test_half_precision_is_computed_in_float32() -> None:
    logits = torch.randn(4, 50).bfloat16()
    torch.testing.assert_close(entropy_from_logits(logits), entropy_from_logits(logits.float()))
