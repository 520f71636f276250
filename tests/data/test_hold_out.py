"""`data.hold_out`: a share of the records with media of its own, by the seed alone."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from caprl_native.config.media import MediaConfig
from caprl_native.config.schema import DataConfig
from caprl_native.data.hold_out import hold_out
from caprl_native.data.loader import build_loader
from caprl_native.data.question_columns import QuestionColumns
from caprl_native.data.records import DataError, read_records
from caprl_native.data.shared_media import SharedMedia
from tests.data.test_records import RED_OR_BLUE, jsonl


def record(i: int, *media: str, **extra):
    return {"id": f"r{i}", "images": list(media), "questions": [RED_OR_BLUE]} | extra


def written(folder, records, name="d.jsonl"):
    return jsonl(folder / name, records)


def opened(files, media_root="/media", **options):
    """Records, and which media they share."""
    shared = SharedMedia()
    return read_records(files, media_root, shared=shared, **options), shared


def ids(records):
    return [sample.id for sample in records]


def media(records):
    return {m.path for sample in records for m in sample.media}


def test_every_record_is_in_one_part_and_no_medium_in_both(tmp_path):
    """Records 2 k and 2 k + 1 share an image; every seventh record has a second one of others."""
    second = {i: [f"x{i % 3}.png"] for i in range(0, 90, 7)}
    rows = [record(i, f"{i // 2}.png", *second.get(i, [])) for i in range(90)]
    records, shared = opened([written(tmp_path, rows)])
    held = {}
    for share in (0.05, 0.1, 0.3):
        for seed in range(5):
            train, out = hold_out(records, shared, share, seed)
            assert sorted(ids(train) + ids(out)) == sorted(ids(records))
            assert not media(train) & media(out)
            assert 0 < len(out) <= round(share * 90) and len(out) > 0.5 * share * 90
            assert len(train) == len(ids(train)) and ids(pickle.loads(pickle.dumps(out))) == ids(
                out
            )
            held[share, seed] = ids(out)
            assert ids(hold_out(records, shared, share, seed)[1]) == ids(out), (
                "a function of the seed"
            )
    assert len({tuple(held[0.1, seed]) for seed in range(5)}) == 5
    assert set(held[0.1, 0]) & set(held[0.3, 0])


def test_the_order_of_the_records_does_not_matter(tmp_path):
    rows = [record(i, f"{i // 2}.png") for i in range(40)]
    one = opened([written(tmp_path, rows)])
    two = opened([written(tmp_path, rows[::-1], "e.jsonl")], "/elsewhere")
    assert sorted(ids(hold_out(*one, 0.2, 3)[1])) == sorted(ids(hold_out(*two, 0.2, 3)[1]))


def test_spellings_of_a_path_are_one_medium_and_unnamed_files_one_record_s_own(tmp_path):
    rows = [record(i, "a.png" if i % 2 else "./b/../a.png") for i in range(10)]
    with pytest.raises(DataError, match="is 1, but the smallest set .* has 10"):
        hold_out(*opened([written(tmp_path, rows)]), 0.1, 0)
    table = {
        "image": [{"bytes": b"same", "path": None}] * 10,
        "questions": [[RED_OR_BLUE]] * 10,
    }
    pq.write_table(pa.table(table), tmp_path / "d.parquet")
    train, out = hold_out(*opened([tmp_path / "d.parquet"]), 0.3, 0)
    assert (len(train), len(out)) == (7, 3)
    assert not {s.source for s in train} & {s.source for s in out}
    assert all(sample.media[0].data == b"same" for sample in out)


def test_ids_that_were_given_twice_keep_their_names(tmp_path):
    files = [written(tmp_path, [record(i, f"{k}{i}.png") for i in range(10)], f"{k}.jsonl")
             for k in "ab"]  # fmt: skip
    records, shared = opened(files)
    train, out = hold_out(records, shared, 0.5, 1)
    assert sorted(ids(train) + ids(out)) == sorted(ids(records)) and len({*ids(records)}) == 20


def test_held_out_questions_are_taken_as_they_are(tmp_path):
    """Of those left out by a blind reader's share, records without any are in neither part."""
    two = {"questions": [RED_OR_BLUE] * 2, "w": [1.0, 3.0]}
    rows = [record(i, f"{i}.png", **two, blind_accuracy=[0.9, 0.1]) for i in range(19)]
    rows.append(record(19, "19.png", **two, blind_accuracy=[0.9, 0.9]))
    columns = QuestionColumns(0.5, "w")
    records, shared = opened([written(tmp_path, rows)], columns=columns)
    train, out = hold_out(records, shared, 0.5, 0)
    assert len(train) + len(out) == 19 and "r19" not in ids(train) + ids(out)
    assert {len(sample.questions) for sample in train} == {1}
    assert {len(sample.questions) for sample in out} == {2}
    assert {q.weight for sample in out for q in sample.questions} == {1.0}
    assert {q.weight for sample in train for q in sample.questions} == {3.0}


def test_a_run_does_not_go_on_with_another_share_or_seed(tmp_path):
    rows = [record(i, f"{i}.png") for i in range(20)]
    records, shared = opened([written(tmp_path, rows)])

    def loader(share: float, seed: int):
        train, _ = hold_out(records, shared, share, seed)
        config, media = DataConfig(batch_size=2, workers=0), MediaConfig()
        return build_loader(train, config, media, seed=0, shard=0, num_shards=1)

    state = loader(0.1, 0).state_dict()
    loader(0.1, 0).load_state_dict(state)
    with pytest.raises(DataError, match="records was 18, now it is 16"):
        loader(0.2, 0).load_state_dict(state)
    with pytest.raises(DataError, match="the ids of data.files are not what they were"):
        loader(0.1, 1).load_state_dict(state)
