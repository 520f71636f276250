"""KL estimators: the golden rows, and their defining properties."""

import pytest
import torch

from caprl_native.algorithm.aggregation import Denominators, aggregate
from caprl_native.algorithm.kl.k3 import K3
from caprl_native.algorithm.objective import kl_estimate, kl_loss
from caprl_native.algorithm.registries import KL

TABLE = "kl_estimators.json"

FLOAT32 = {"easyr1", "openrlhf"}  # references that compute in float32


def limits_of(reference: str, estimator: str) -> tuple[float | None, float]:
    """What the reference clamps the difference, and the estimate to; 0: not the latter."""
    if reference in ("verl", "easyr1") and estimator.startswith("k3"):
        return 20.0, 10.0
    if reference == "openrlhf":
        return None, 10.0
    return 40.0 if reference == "open_instruct" else None, 0.0


def test_golden(case: dict) -> None:
    batch, reference = case["inputs"], case["reference"]
    estimator = case["params"]["estimator"]
    logprobs = batch["log_prob"].clone().requires_grad_()
    kind = {"importance_weighted_k1": "k1", "k3_other_direction": "k3_reverse"}.get(
        estimator, estimator
    )
    limit, value_limit = limits_of(reference, estimator)
    options = KL[kind].options(value_limit=value_limit)
    got = kl_estimate(logprobs, batch["ref_log_prob"], options, limit=limit)
    if estimator == "importance_weighted_k1":
        got = got * (batch["log_prob"] - batch["old_log_prob"]).exp()
    want = case.get("sensible", case["output"])
    tolerance = 2e-5 if reference in FLOAT32 else 1e-6
    mask = batch["mask"]
    mean = aggregate(got, mask, "token-mean", Denominators.of(mask))
    if "per_token" in want:
        torch.testing.assert_close(got.detach(), want["per_token"], atol=tolerance, rtol=tolerance)
    if "masked_mean" in want:
        assert mean.item() == pytest.approx(want["masked_mean"], abs=tolerance, rel=tolerance)
    if "grad_of_masked_sum" in want:
        (gradient,) = torch.autograd.grad((got * mask).sum(), logprobs)
        torch.testing.assert_close(gradient, want["grad_of_masked_sum"], atol=1e-6, rtol=1e-6)
    if "grad_log_prob" in want:
        (gradient,) = torch.autograd.grad(mean, logprobs)
        torch.testing.assert_close(gradient, want["grad_log_prob"], atol=1e-6, rtol=1e-6)


def test_the_estimators_agree_in_the_mean() -> None:
    """Exact expectation under p: k1 and k3 equal the KL, k2 and the `+` kinds have its gradient."""
    torch.manual_seed(0)
    scores = torch.randn(5, dtype=torch.float64, requires_grad=True)
    logp, logq = torch.log_softmax(scores, 0), torch.log_softmax(torch.randn(5).double(), 0)
    p = logp.exp().detach()
    kl = (logp.exp() * (logp - logq)).sum()
    for kind in ("k1", "k3"):
        torch.testing.assert_close((p * kl_estimate(logp, logq, KL[kind].options())).sum(), kl)
    (want,) = torch.autograd.grad(kl, scores, retain_graph=True)
    for kind in ("k2", "k1+", "k3+"):
        estimate = (p * kl_estimate(logp, logq, KL[kind].options())).sum()
        (got,) = torch.autograd.grad(estimate, scores, retain_graph=True)
        torch.testing.assert_close(got, want)


def test_the_kl_term_adds_up_over_micro_batches_and_ignores_padding() -> None:
    torch.manual_seed(0)
    logprobs, reference = -torch.rand(6, 5).double(), -torch.rand(6, 5).double()
    mask = torch.rand(6, 5) < 0.6
    poisoned = torch.where(mask, logprobs, torch.nan)
    whole, metrics = kl_loss(logprobs, reference, mask, K3())
    total = Denominators.of(mask)
    parts = [
        kl_loss(poisoned[rows], reference[rows], mask[rows], K3(), denominators=total)
        for rows in (slice(0, 1), slice(1, 4), slice(4, 6))
    ]
    torch.testing.assert_close(sum(part[0] for part in parts), whole)
    torch.testing.assert_close(
        sum(part[1]["kl_reference"] for part in parts), metrics["kl_reference"]
    )


def test_an_unknown_estimator_is_named() -> None:
    with pytest.raises(KeyError, match="unknown KL estimator 'k4'; valid: abs, "):
        KL["k4"]
