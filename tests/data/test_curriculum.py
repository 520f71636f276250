"""A curriculum's batches: no record lost, no stage mixed, the same wherever they are read on."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from pathlib import Path

import pytest

from caprl_native.config.media import MediaConfig
from caprl_native.config.schema import DataConfig
from caprl_native.data.curriculum import Schedule
from caprl_native.data.loader import Loader, build_loader
from caprl_native.data.records import DataError, read_records
from caprl_native.testing.media_files import write_png

STAGES = [2, 0, 1, 0, 5, 0, 1, 1, 0, 0, 2, 0, 5, 0, 0, 0, 0, 0]


def schedule(size: int, stages: list[int] = STAGES, **settings: object) -> Schedule:
    values = {"seed": 3, "shuffle": True} | settings
    return Schedule(len(stages), size, stages=array("i", stages), **values)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 50])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_record_comes_once_in_the_order_of_stages(size: int, shuffle: bool) -> None:
    plan = schedule(size, shuffle=shuffle)
    for epoch in range(2):
        batches = plan.batches(epoch)
        assert len(batches) == len(plan) == sum(-(-n // size) for n in Counter(STAGES).values())
        assert sorted(i for batch in batches for i in batch) == list(range(len(STAGES)))
        stages = [{STAGES[i] for i in batch} for batch in batches]
        assert all(len(stage) == 1 for stage in stages)
        assert [min(stage) for stage in stages] == sorted(min(stage) for stage in stages)
        for stage in set(STAGES):  # as equal as can be
            sizes = {len(b) for b in batches if STAGES[b[0]] == stage}
            assert max(sizes) <= size and max(sizes) - min(sizes) <= 1
    assert shuffle == any(
        list(a) != list(b) for a, b in zip(plan.batches(0), plan.batches(1), strict=True)
    )


def test_a_stage_ends_where_the_next_begins() -> None:
    plan = schedule(4)  # 11, 3, 2 and 2 records: 3 + 1 + 1 + 1 batches
    assert plan.counts == [3, 1, 1, 1] and len(plan) == 6
    begins = [p for p in range(13) if plan.begins_stage(p)]
    assert begins == [0, 3, 4, 5, 6, 9, 10, 11, 12]
    assert [plan.stage_end(p) for p in range(7)] == [3, 3, 3, 4, 5, 6, 9]


def rows(folder: Path, stages: list[object]) -> Path:
    image = str(write_png(folder / "a.png", (8, 8)))
    lines = [json.dumps({"id": f"r{i}", "image": image, "at": s}) for i, s in enumerate(stages)]
    file = folder / "d.jsonl"
    file.write_text("\n".join(lines))
    return file


def loader(file: Path, shard: int = 0, shards: int = 1, column: str = "at", **more) -> Loader:
    records = read_records([str(file)], kind="media", curriculum=column)
    config = DataConfig(**({"batch_size": 4, "workers": 0, "curriculum": column} | more))
    media = MediaConfig(image_min_pixels=1)
    return build_loader(records, config, media, seed=3, shard=shard, num_shards=shards)


def test_ranks_share_each_batch_and_go_on_anywhere(tmp_path: Path) -> None:
    file, plan = rows(tmp_path, list(STAGES)), schedule(4)
    wanted = [sorted(b.tolist()) for epoch in (0, 1) for b in plan.batches(epoch)]
    state = None
    for k in range(len(wanted)):
        parts = [loader(file, shard, 3) for shard in range(3)]
        for part in parts if state else ():
            part.load_state_dict(json.loads(json.dumps(state)))
        seen = [item.index for part in parts for item in next(part)]
        assert sorted(seen) == wanted[k]
        states = [part.state_dict() for part in parts]
        state = states[0]
        assert states == [state] * 3


def test_the_same_stages_are_needed_to_go_on(tmp_path: Path) -> None:
    file = rows(tmp_path, list(STAGES))
    state = loader(file).state_dict()
    with pytest.raises(DataError, match="the stages of data.files"):
        loader(file, column="").load_state_dict(state)
    without = {k: v for k, v in loader(file, column="").state_dict().items() if k != "stages"}
    loader(file, column="").load_state_dict(without)  # of an earlier version
    rows(tmp_path, [*STAGES[:-1], 7])
    with pytest.raises(DataError, match="the stages of data.files"):
        loader(file).load_state_dict(state)


@pytest.mark.parametrize("value", [None, "1", 1.5, -1, True, [1]])
def test_a_record_without_a_stage_is_an_error_that_names_it(tmp_path: Path, value) -> None:
    file = rows(tmp_path, [0, value])
    with pytest.raises(DataError, match=r"d\.jsonl: line 2: at: .*unset data\.curriculum"):
        loader(file)
