"""The four things of the algorithm that one adds in one file, each in its registry.

The config's `[algorithm.loss]`, `[algorithm.advantage]`, `[algorithm.kl]` and
`[algorithm.corrections.NAME]` are the options of an entry; its function gets them:

- `LOSSES`: `(LossInputs, options) -> TokenTerms`, the loss of each token;
- `ADVANTAGES`: `(AdvantageInputs, options) -> Tensor`, `[B]`, one advantage for each response;
- `KL`: `(difference_bt, options) -> Tensor`, `[B, T]`, the estimate at each token;
- `CORRECTIONS`: `(CorrectionInputs, options) -> Correction | None`, `[B, T]`, what token losses are
  multiplied with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from caprl_native.registry import Registry

LOSSES: Registry[Callable[..., Any]] = Registry("loss", "caprl_native.algorithm.losses")
ADVANTAGES: Registry[Callable[..., Any]] = Registry(
    "advantage", "caprl_native.algorithm.advantages"
)
KL: Registry[Callable[..., Any]] = Registry("KL estimator", "caprl_native.algorithm.kl")
CORRECTIONS: Registry[Callable[..., Any]] = Registry(
    "correction", "caprl_native.algorithm.corrections"
)
