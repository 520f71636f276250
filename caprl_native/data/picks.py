"""Which caption of a group leaves its text for later prompts."""

from __future__ import annotations

from collections.abc import Sequence

from caprl_native.config.history import HistoryConfig
from caprl_native.data.carried import Entry
from caprl_native.data.fields import DataError
from caprl_native.text.control_tokens import parted
from caprl_native.types import Carried, Group, Rollout


def left_by(groups: Sequence[Group], config: HistoryConfig) -> list[Entry]:
    """What groups leave: an entry each, an empty one where no caption of a group is taken.

    A control token that a caption spells gets a blank: it would make later prompts unusable.

    Raises:
        DataError: captions are told apart by a part of the reward that no term logs.
    """
    found = []
    for group in groups:
        carried = group.sample.carried
        if carried is not None and carried.key:
            text = picked(carried, group.rollouts, config)
            found.append(Entry(carried.series, carried.key, group.sample.id, parted(text)))
    return found


def picked(carried: Carried, rollouts: Sequence[Rollout], config: HistoryConfig) -> str:
    """The text of the caption that is taken; "" where none is."""
    texts = [(r, text) for r in rollouts if (text := _valid_text(carried, r, config)) is not None]
    if config.pick == "none_if_wrong":
        texts = [(r, text) for r, text in texts if _right(r, config) > 0.5]
    if not texts:
        return ""
    if config.pick == "first_valid":
        return texts[0][1]
    return max(texts, key=lambda pair: pair[0].total or 0.0)[1]  # the first of equals


def _valid_text(carried: Carried, rollout: Rollout, config: HistoryConfig) -> str | None:
    """The text of a caption of the right form; None without a reward: its judge has failed."""
    if rollout.total is None or _part(rollout, config.state):
        return None
    return carried.text_of(rollout.text)


def _right(rollout: Rollout, config: HistoryConfig) -> float:
    value = _part(rollout, config.right)
    if value is None:
        raise DataError(
            f"data.history.right: no term of the reward logs a part {config.right!r} (there are: "
            f'{", ".join(rollout.parts) or "none"}); name one, or set data.history.pick = "best"'
        )
    return value


def _part(rollout: Rollout, name: str) -> float | None:
    """A part by its whole name, or by its name within whichever term has it."""
    if name in rollout.parts:
        return rollout.parts[name]
    return next((v for k, v in rollout.parts.items() if k.partition("/")[2] == name), None)
