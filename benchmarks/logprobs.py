"""Peak memory of log-probs with their backward pass: in tiles, and from materialised logits.

    python benchmarks/logprobs.py tiles|full     the bytes above what the inputs take

4,096 response tokens, 151,936 vocabulary entries, hidden size 64, float32.
"""

from __future__ import annotations

import json
import sys

import torch
from common import Watch

from caprl_native.policy.logprobs import token_logprobs

TOKENS, VOCABULARY, WIDTH = 4096, 151_936, 64


def tiles(hidden: torch.Tensor, weight: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return token_logprobs(hidden, weight, ids, banned=[0])[0]


def full(hidden: torch.Tensor, weight: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The usual way: logits, log-softmax, gather."""
    logits = torch.nn.functional.linear(hidden, weight)
    return logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]


def measure(way: str) -> int:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, device=device, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, device=device, requires_grad=True)
    ids = torch.randint(1, VOCABULARY, (TOKENS,), device=device)
    with Watch() as watch:
        globals()[way](hidden, weight, ids).sum().backward()
    return watch.extra


def main() -> None:
    (way,) = sys.argv[1:]
    print(json.dumps(measure(way)))


if __name__ == "__main__":
    main()
