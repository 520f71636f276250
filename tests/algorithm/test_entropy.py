"""Entropy and label log-probs: the golden rows, for the tiled computation that training uses."""

import torch

from caprl_native.algorithm.aggregation import Denominators, aggregate
from caprl_native.policy.logprobs import token_logprobs

TABLE = "entropy.json"


def tiled(logits: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log-probs and entropies `[2, T]`, token by token: their logits, with an LM head of ones.

    A logit of minus infinity is that of a banned token.
    """
    head = torch.eye(logits.shape[-1], dtype=logits.dtype)
    found = []
    for row, label in zip(logits, labels, strict=True):
        banned = row.isinf().nonzero()[:, 0].tolist()
        hidden = row.masked_fill(row.isinf(), 0.0)[None]
        scores = token_logprobs(
            hidden, head, label[None], banned=banned, temperature=temperature, tile=3
        )
        found.append((scores.logprobs.item(), scores.entropy.item()))
    return torch.tensor(found).T


def test_golden(case: dict) -> None:
    batch, output = case["inputs"], case["output"]
    logits, shape = batch["logits"], batch["logits"].shape[:2]
    labels = batch["labels"].long().flatten()
    temperature = case["params"].get("temperature", 1.0)
    logprobs, entropy = tiled(logits.flatten(0, 1), labels, temperature)
    got = (logprobs if case["kind"] == "label_log_prob" else entropy).view(shape)
    want = case.get("sensible_per_token", output["per_token"]).float()
    # In float32: logits of 1000 are exact to 6e-5.
    tolerance = 2e-5 if logits[logits.isfinite()].abs().max() < 100 else 1e-4
    torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)
    for key, value in output.items():
        if key.startswith("loss_") and value == value:
            mask = batch["mask"]
            mean = aggregate(got, mask, key.removeprefix("loss_"), Denominators.of(mask))
            assert abs(mean.item() - value) < tolerance * max(abs(value), 1)
