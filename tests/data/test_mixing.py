"""Data sets mixed: how many records of each an epoch has, and none twice before all come once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caprl_native.config.cli import ConfigError, check_sft, load
from caprl_native.config.data import SftDataConfig
from caprl_native.config.media import MediaConfig
from caprl_native.config.schema import SftConfig
from caprl_native.data.invalid import Invalid
from caprl_native.data.loader import build_loader
from caprl_native.data.mixing import Mixture
from caprl_native.data.records import DataError, read_records
from caprl_native.dry_run import Device, plan_sft


def write_lists(folder: Path, sizes: dict[str, int]) -> list[str]:
    """JSON lists of texts; a record's answer is its file's name."""
    for name, size in sizes.items():
        turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": name}]
        rows = [{"id": f"{name}{i}", "conversations": turns} for i in range(size)]
        (folder / f"{name}.json").write_text(json.dumps(rows, indent=1))
    return [str(folder / f"{name}.json") for name in sizes]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("counts", [[3, 5], [10, 1], [25, 7]])
def test_no_record_comes_again_before_all_have_come(counts: list[int], shuffle: bool) -> None:
    mixture = Mixture([np.arange(10), np.arange(10, 17)], counts)
    orders = [mixture.order(seed=3, epoch=e, shuffle=shuffle) for e in range(40)]
    for order in orders:
        assert [int((order < 10).sum()), int((order >= 10).sum())] == counts
    for source, count in zip(mixture.sources, counts, strict=True):
        seen: Counter[int] = Counter({int(i): 0 for i in source})
        for order in orders[: 3 * len(source) // count + 1]:
            seen.update(int(i) for i in order if i in source)
            assert max(seen.values()) - min(seen.values()) <= 1 + (count > len(source))
    again = [mixture.order(seed=3, epoch=e, shuffle=shuffle) for e in range(40)]
    assert all(np.array_equal(a, b) for a, b in zip(orders, again, strict=True))
    other = mixture.order(seed=4, epoch=0, shuffle=shuffle)
    assert np.array_equal(other, orders[0]) != shuffle or sum(counts) < 3


def test_a_loader_mixes_files_and_goes_on_in_mid_epoch(tmp_path: Path) -> None:
    """A pattern is one entry, whatever it matches; batches hold records of all entries."""
    write_lists(tmp_path, {"a1": 6, "a2": 6, "b": 8})
    files = [str(tmp_path / "a*.json"), str(tmp_path / "b.json")]

    def loader(**mix: object):
        config = SftDataConfig(files=files, batch_size=4, workers=0, **mix)
        records = read_records(files, kind="response")
        return build_loader(records, config, MediaConfig(), seed=1, shard=0, num_shards=1)

    def answers(batch) -> list[str]:
        return [item.sample.response or "" for item in batch]

    mixed = loader(mix=[0.5, 2.0])
    assert mixed.batches_per_epoch == (6 + 16) // 4
    found = [answers(next(mixed)) for _ in range(mixed.batches_per_epoch)]
    assert any({"b"} < set(batch) for batch in found)
    sized = loader(mix_records=[2, 10])
    assert sized.batches_per_epoch == 3
    counts = Counter(a[0] for _ in range(3) for a in answers(next(sized)))
    assert counts == {"a": 2, "b": 10}
    fresh = loader(mix=[0.5, 2.0])
    for _ in range(2):
        next(fresh)
    resumed = loader(mix=[0.5, 2.0])
    resumed.load_state_dict(fresh.state_dict())
    assert [answers(next(resumed)) for _ in range(3)] == found[2:]
    with pytest.raises(DataError, match=r"mix was \[6, 16\]"):
        loader(mix=[1.0, 1.0]).load_state_dict(fresh.state_dict())


@pytest.mark.parametrize("mix", [{"mix": [1.0, 1.0]}, {"mix_records": [2, 2]}])
def test_an_entry_of_which_nothing_is_left_is_named(tmp_path: Path, mix: dict[str, Any]) -> None:
    files = write_lists(tmp_path, {"a": 6, "b": 4, "": 3})[::2]  # an answer that is empty is wrong
    invalid = Invalid(records="drop", max_share=1.0)
    records = read_records(files, kind="response", invalid=invalid)
    config = SftDataConfig(files=files, batch_size=2, workers=0, **mix)
    with pytest.raises(
        DataError, match=r"/\.json: data\.mix takes records of it, and none is left to"
    ):
        build_loader(records, config, MediaConfig(), seed=1, shard=0, num_shards=1)


def test_the_plan_counts_what_an_epoch_has(tmp_path: Path) -> None:
    files = write_lists(tmp_path, {"a": 12, "b": 8})
    config = SftConfig(run={"epochs": 2}, policy={"path": "gone"})
    config.data.files, config.data.batch_size, config.data.mix = files, 4, [0.5, 2.0]
    assert "10: 5 per epoch x 2" in plan_sft(config, 1, device=Device.of(0))


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--data.mix=[1.0]"], "data.mix: expected none, or one number for each of the 2"),
        (["--data.mix=[1.0, 0.0]"], "numbers above 0"),
        (["--data.mix=[1.0, 1.0]", "--data.mix_records=[1, 2]"], "none where data.mix_records"),
        (["--data.mix_records=[1, 2]", "--data.curriculum=c"], "none with a curriculum"),
    ],
)
def test_contradictions_are_errors(words: list[str], problem: str) -> None:
    base = ["--data.files=['a.json', 'b.json']", "--policy.path=m"]
    with pytest.raises(ConfigError, match=problem.replace("[", r"\[")):
        check_sft(load(SftConfig, [], [*base, *words]))
