"""How much of a GPU an update uses."""

from __future__ import annotations

from caprl_native.policy.flops import Work

# Dense bfloat16 FLOP/s by what torch calls the device; of names that fit, the first counts.
PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "H800": 989e12,
    "GH200": 989e12,
    "H20": 148e12,
    "B200": 2250e12,
    "B100": 1750e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


def rates(work: Work, seconds: float, ranks: int, device: str = "") -> dict[str, float]:
    """Metrics of an update that took so long on so many ranks.

    `device`: the GPU's name; without one, or for one whose peak is not known here, there is no
    `perf/mfu`.
    """
    per_rank = work.flops / seconds / ranks
    found = {
        "perf/tflops_per_gpu": per_rank / 1e12,
        "perf/train_tokens_per_s_per_gpu": work.tokens / seconds / ranks,
    }
    peak = next((peak for name, peak in PEAKS.items() if name in device), None)
    return found | ({"perf/mfu": per_rank / peak} if peak else {})
