"""Peak memory of log-probs with their backward pass: in tiles, and from materialised logits.

    python benchmarks/logprobs.py           both, each in a process of its own
    python benchmarks/logprobs.py tiles     one of them: the bytes above what its inputs take

4,096 response tokens, 151,936 vocabulary entries, hidden size 64, float32.
"""

from __future__ import annotations

import json
import resource
import sys

import common
import psutil
import torch

from caprl_native.policy.logprobs import token_logprobs

TOKENS, VOCABULARY, WIDTH = 4096, 151_936, 64


def tiles(hidden: torch.Tensor, weight: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return token_logprobs(hidden, weight, ids, banned=[0])[0]


def full(hidden: torch.Tensor, weight: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The usual way: logits, log-softmax, gather."""
    logits = torch.nn.functional.linear(hidden, weight)
    return logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]


def peak(run) -> int:
    """The most bytes that the process, or its share of the GPU, held above what it began with."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    before = psutil.Process().memory_info().rss
    run()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def measure(way: str) -> int:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, device=device, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, device=device, requires_grad=True)
    ids = torch.randint(1, VOCABULARY, (TOKENS,), device=device)
    return peak(lambda: globals()[way](hidden, weight, ids).sum().backward())


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        return
    chunked, whole = (common.in_own_process("logprobs.py", way) for way in ("tiles", "full"))
    print(json.dumps({"chunked_peak_bytes": chunked, "full_peak_bytes": whole}))


if __name__ == "__main__":
    main()
