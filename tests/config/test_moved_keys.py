"""Settings that have new names: each old one is refused with the new one."""

from __future__ import annotations

import pytest

from caprl_native.config.cli import ConfigError, load
from caprl_native.config.schema import Config
from caprl_native.config.tree import leaves

OLD_KEYS = {
    "reward.alpha": "reward.terms.timestamps.weight",
    "reward.beta": "reward.terms.length.weight",
    "reward.accuracy.draws": "reward.terms.accuracy.draws",
    "reward.accuracy.cannot_answer": "reward.terms.accuracy.cannot_answer",
    "reward.timestamps.rule": "reward.terms.timestamps.rule",
    "reward.timestamps.min_brackets": "reward.terms.timestamps.min_brackets",
    "reward.timestamps.max_minute": "reward.terms.timestamps.max_minute",
    "reward.length.l1": "reward.terms.length.l1",
    "reward.length.l2": "reward.terms.length.l2",
    "algorithm.advantage": "algorithm.advantage.type",
    "algorithm.std": "algorithm.advantage.std",
    "algorithm.std_eps": "algorithm.advantage.eps",
    "algorithm.loss": "algorithm.loss.type",
    "algorithm.clip_low": "algorithm.loss.clip_low",
    "algorithm.clip_high": "algorithm.loss.clip_high",
    "algorithm.dual_clip": "algorithm.loss.dual_clip",
    "algorithm.kl": "algorithm.kl.type",
    "algorithm.kl_weight": "algorithm.kl.weight",
    "algorithm.reference": "algorithm.kl.reference",
    "algorithm.tis_cap": "algorithm.corrections.tis.cap",
}
NOTES = {"algorithm.tis_cap": '; in place of 0: algorithm.corrections.tis.type = "none"'}


@pytest.mark.parametrize("old", OLD_KEYS)
def test_moved_keys_name_the_new_ones(old, write):
    new = OLD_KEYS[old]
    table, _, name = old.rpartition(".")
    file = write(f"[{table}]\n{name} = 1\n")
    said = f'{old}: is now "{new}"' + NOTES.get(old, "")
    for files, words, place in (([file], [], "a.toml:"), ([], [f"--{old}", "1"], "command line: ")):
        with pytest.raises(ConfigError) as error:
            load(Config, files, words)
        assert str(error.value).startswith(place) and str(error.value).endswith(said)
    terms = {f"reward.terms.{name}": name for name in ("timestamps", "length")}
    assert new in {leaf.key for leaf in leaves(Config, terms)}
