"""Short forms of settings on the command lines of tools: `--limit 5` for `--run.limit 5`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from caprl_native.config.toml import ConfigError

Words = list[str]
Lists = dict[str, list[str]]  # values of settings that are lists, by key


@dataclass(frozen=True)
class ShortForms:
    """Words and the settings that they stand for: with a value, without one, with any number.

    `others`: further words that take values, which `spelled` gives to its `special`.
    """

    values: Mapping[str, str]
    switches: Mapping[str, str]
    lists: Mapping[str, str] = field(default_factory=dict)
    others: frozenset[str] = frozenset()

    def spelled(
        self,
        argv: Sequence[str],
        special: Callable[[str, Words, Lists], Words] = lambda word, rest, lists: [word],
    ) -> Words:
        """The command line in settings. `special` takes any other word, and of the rest its values.

        Raises:
            ConfigError: a word lacks its value.
        """
        found: Words = []
        lists: Lists = {}
        rest = [part for word in argv for part in self._parted(word)]
        while rest:
            word = rest.pop(0)
            if word in self.values:
                found += [f"--{self.values[word]}", *following(word, rest, 1)]
            elif word in self.switches:
                found.append(f"--{self.switches[word]}=true")
            elif word in self.lists:
                lists.setdefault(self.lists[word], []).extend(following(word, rest))
            else:
                found += special(word, rest, lists)
        given = [part for key, values in lists.items() for part in (f"--{key}", json.dumps(values))]
        return found + given

    def _parted(self, word: str) -> Words:
        """`--limit=5` as two words; other words as they are."""
        name, equals, value = word.partition("=")
        short = {*self.values, *self.lists, *self.others}
        return [name, value] if equals and name in short else [word]


def following(word: str, rest: Words, most: int = sys.maxsize) -> Words:
    """The values after a word, taken from the rest. Raises ConfigError where there are none."""
    values: Words = []
    while rest and not rest[0].startswith("--") and len(values) < most:
        values.append(rest.pop(0))
    if not values:
        raise ConfigError(f"command line: {word}: expected a value")
    return values
