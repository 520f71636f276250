"""When a group of captions carries no gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from caprl_native.config.fields import Table
from caprl_native.types import Group


class FlatConfig(Table):
    by: Literal["utility", "total"] = Field(
        "utility",
        description="What has to differ within a group, or it carries no gradient and is replaced "
        'where rollout.refill is on. "utility": the reward without its shaping terms (length, time '
        'stamps), where it has others; "total": the whole reward, as published.',
    )
    spread: float = Field(
        1e-3, ge=0, description="Rewards that lie no further apart than this do not differ."
    )

    @property
    def as_published(self) -> bool:
        """Whether advantages are left to the algorithm: equal totals alone are flat."""
        return self.by == "total" and not self.spread

    def holds(self, totals: Sequence[float], utilities: Sequence[float | None]) -> bool:
        """Whether a group of these rewards is flat; one of fewer than two always is."""
        known = [u for u in utilities if u is not None]
        values = known if self.by == "utility" and len(known) == len(totals) else totals
        return len(values) < 2 or max(values) - min(values) <= self.spread

    def holds_of(self, group: Group) -> bool:
        """Whether a group's scored rollouts are flat."""
        scored = group.scored
        totals = [r.total for r in scored if r.total is not None]
        return self.holds(totals, [r.utility for r in scored])
