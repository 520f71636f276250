"""Texts that captions leave: which, for whom, and when they are seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from caprl_native.config.history import HistoryConfig
from caprl_native.config.media import MediaConfig
from caprl_native.config.schema import DataConfig
from caprl_native.data.carried import Entry, History
from caprl_native.data.loader import LoadedSample, Loader, build_loader, eval_batches
from caprl_native.data.picks import left_by
from caprl_native.data.records import DataError, read_records
from caprl_native.files import file_name
from caprl_native.types import Group, Rollout, Sample
from tests.data.segments import write_rows

GOLDEN = Path(__file__).parents[1] / "golden" / "rl"
MEDIA = MediaConfig(image_min_pixels=1)
VIDEOS = {"film": 3, "show": 3, "talk": 2}


def loader(
    file: Path, shard: int = 0, shards: int = 1, folder: Path | None = None, **data: object
) -> Loader:
    values = {"batch_size": 2, "workers": 0, "curriculum": "step"} | data
    config = DataConfig(**values)
    records = read_records([str(file)], kind="media", curriculum=config.curriculum)
    return build_loader(
        records, config, MEDIA, seed=1, shard=shard, num_shards=shards, history=History(folder)
    )


def told(item: LoadedSample) -> str:
    return f"{item.sample.id}: {item.sample.context}"


def run(shards: list[Loader], batches: int) -> list[str]:
    """What the prompts of so many batches tell; each batch leaves "ID at BATCH"."""
    seen = []
    for _ in range(batches):
        number = shards[0]._delivered
        items = [item for part in shards for item in next(part)]
        seen += sorted(map(told, items))
        left = [
            Entry(c.series, c.key, item.sample.id, f"{item.sample.id} at {number}")
            for item in items
            if (c := item.sample.carried) is not None
        ]
        for part in shards:
            part.carry(left)
    return seen


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_rows(tmp_path, VIDEOS)


def test_prompts_tell_what_was_left_in_the_stages_before(file: Path, tmp_path: Path) -> None:
    own = loader(file, folder=tmp_path / "history")
    assert own.schedule.counts == [2, 2, 1]
    seen = run([own], 5)
    assert {line.split(": ", 1)[1] for line in seen[:3]} == {""}
    at = {line.split(":")[0]: k // 2 for k, line in enumerate(seen[:4])}
    for line in seen[3:6]:
        identity, _, text = line.partition(": ")
        before = identity.replace("*1", "*0")
        assert text.rpartition(" at ")[0] == before, (line, at)
    film = next(line for line in seen[6:] if line.startswith("film*2"))
    assert film.count(" at ") == 2 and film.index("film*0") < film.index("film*1")
    kept = json.loads((tmp_path / "history/film.json").read_text())
    assert list(kept) == ["0", "1", "2"] and kept["2"].startswith("film*2 at ")


@pytest.mark.parametrize(("cut", "shards"), [(cut, 1 + cut % 3) for cut in range(8)])
def test_killed_anywhere_on_any_ranks_the_prompts_are_the_same(
    file: Path, tmp_path: Path, shards: int, cut: int
) -> None:
    """Eight batches: an epoch of five and three of the next, whose first stage sees nothing."""
    whole = run([loader(file)], 8)
    first = loader(file, folder=tmp_path / "history")
    seen = run([first], cut)
    state = json.dumps([first.state_dict(), first.history.state_dict()])
    run([first], 1)  # beyond the checkpoint
    parts = [loader(file, k, shards, tmp_path / "history") for k in range(shards)]
    for part in parts:
        position, texts = json.loads(state)
        part.load_state_dict(position)
        part.history.load_state_dict(texts)
        part.history.write_all()
    names = [p.stem for p in (tmp_path / "history").glob("*")]
    assert sorted(names) == sorted(parts[0].history.settled | parts[0].history._fresh)
    assert seen + run(parts, 8 - cut) == whole


def test_a_text_is_seen_from_the_next_stage_on() -> None:
    history = History()
    history.add([Entry("film", "0", "a", "old")])
    history.settle()
    history.add([Entry("film", "0", "a", "new"), Entry("film", "1", "b", "x")])
    assert history.settled == {"film": {"0": "old"}}
    assert history.texts("film") == {"0": "new", "1": "x"}
    history.settle()
    assert history.settled == {"film": {"0": "new", "1": "x"}}


def test_of_two_texts_under_one_key_the_last_by_id_counts() -> None:
    for order in (1, -1):
        history = History()
        history.add([Entry("film", "0", "a", "1"), Entry("film", "0", "b", "0")][::order])
        assert history.texts("film") == {"0": "0"}


def test_no_stage_begins_before_what_the_one_before_left_is_known(file: Path) -> None:
    own = loader(file)
    assert len([next(own), next(own)]) == 2
    with pytest.raises(RuntimeError, match="a stage is to begin"):
        next(own)


def test_a_text_that_no_record_leaves_is_an_error_at_the_start(file: Path, caplog) -> None:
    rows = file.read_text().splitlines()
    file.write_text("\n".join(rows[1:]))  # the first segment of "film" is gone
    with pytest.raises(DataError, match=r"2 text.*\n.*line 1: needs the text '0' of 'film'"):
        loader(file)
    own = loader(file, history={"missing": "empty"})
    assert "taken as empty" in caplog.text
    seen = run([own], len(own.schedule))
    assert "film*1: " in seen


def test_without_stages_nothing_comes_before_anything(file: Path) -> None:
    with pytest.raises(DataError, match=r"give data\.curriculum the column"):
        loader(file, curriculum="")


def test_a_sample_that_could_not_be_used_leaves_nothing(file: Path, tmp_path: Path) -> None:
    (tmp_path / "film/0_face.png").write_bytes(b"no picture")
    message = r"line 2: needs the text '0' of 'film'"
    with pytest.raises(DataError, match=f"could not be used:\n.*{message}"):
        run_of_usable(loader(file))
    seen = run_of_usable(loader(file, history={"missing": "empty"}))
    assert "film*1: " in seen


def run_of_usable(own: Loader) -> list[str]:
    seen = []
    for _ in range(len(own.schedule)):
        items = [item for item in next(own) if isinstance(item, LoadedSample)]
        seen += map(told, items)
        own.carry(Entry(i.sample.carried.series, i.sample.carried.key, "", "x") for i in items)
    return seen


def test_settings_without_use_and_held_out_records_are_refused(file: Path, tmp_path: Path) -> None:
    records = read_records([str(file)], kind="media")
    with pytest.raises(DataError, match="held-out records whose prompts need nothing"):
        next(eval_batches(records, DataConfig(batch_size=2), MEDIA, shard=0, num_shards=1))
    plain = tmp_path / "plain.jsonl"
    plain.write_text(json.dumps({"image": "film/0_face.png"}) + "\n")
    with pytest.raises(DataError, match=r"data\.history: no record"):
        loader(plain, curriculum="", batch_size=1, history={"pick": "best"})


def test_files_have_names_that_can_be() -> None:
    names = ["film*3", "a/b", "..", "ä" * 300, "ä" * 301, "a%2Fb"]
    assert file_name("film*3") == "film*3" and "/" not in file_name("a/b")
    assert len({file_name(n) for n in names}) == 6 and all(len(file_name(n)) < 250 for n in names)


# Which caption of a group


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    file = write_rows(tmp_path_factory.mktemp("one"), {"film": 1})
    return read_records([str(file)], kind="media")[0]


def rollout(text: str | None, total: float | None, **parts: float) -> Rollout:
    written = "no form" if text is None else f'so</think>{{"description": "{text}"}}'
    named = {f"memory/{name}": value for name, value in parts.items()}
    return Rollout([], [], "stop", written, total=total, parts=named)


@pytest.mark.parametrize(
    ("pick", "text"), [("first_valid", "b"), ("best", "d"), ("none_if_wrong", "c")]
)
def test_the_setting_says_which_caption_is_taken(sample: Sample, pick: str, text: str) -> None:
    rollouts = [
        rollout("z", 9.0, correct=1, state=1),  # the term says that its form is wrong
        rollout(None, 8.0, correct=0),
        rollout("a", None),  # its judge has failed
        rollout("b", 0.1, correct=0, state=0),
        rollout("c", 0.5, correct=1, state=0),
        rollout("d", 0.7, correct=0, state=0),
        rollout("e", 0.5, correct=1, state=0),
    ]
    (entry,) = left_by([Group(sample, None, rollouts)], HistoryConfig(pick=pick))
    assert entry == Entry("film", "0", "film*0", text)
    (entry,) = left_by([Group(sample, None, rollouts[:3])], HistoryConfig(pick=pick))
    assert entry.text == ""


def test_right_captions_must_be_known(sample: Sample) -> None:
    group = Group(sample, None, [rollout("a", 1.0)])
    with pytest.raises(DataError, match=r"data\.history\.right: no term .* 'correct'"):
        left_by([group], HistoryConfig(pick="none_if_wrong"))
    group.rollouts[0].parts = {"mine/true": 1.0}
    config = HistoryConfig(pick="none_if_wrong", right="mine/true")
    assert left_by([group], config)[0].text == "a"


def test_control_tokens_that_a_caption_spells_are_parted(sample: Sample) -> None:
    (entry,) = left_by([Group(sample, None, [rollout("<|im_end|>", 1.0)])], HistoryConfig())
    assert entry.text == "< |im_end|>"


def picks() -> list:
    found = json.loads((GOLDEN / "m3_picked_memory.json").read_text())["cases"]
    return [pytest.param(c, id=c["id"]) for c in found if c["kind"] == "pick"]


RIGHT = {"pick_judge_error_counts": "b", "pick_empty_then_ok": "b", "pick_memory_not_list": "d"}


@pytest.mark.parametrize("case", picks())
def test_golden_picks(sample: Sample, case: dict) -> None:
    """Where the reference takes what a failed judge or no memory left, the next one is taken."""
    rollouts = []
    for log in case["input"]["logs"]:
        memory = log.get("output_memory") if isinstance(log, dict) else None
        state = log["fail_parsing"] if isinstance(log, dict) else 1
        text = memory[0] if isinstance(memory, list) and memory else None
        rollouts.append(rollout(text, None if state == 2 else 0.0, state=float(state)))
    (entry,) = left_by([Group(sample, None, rollouts)], HistoryConfig())
    assert entry.text == RIGHT.get(case["id"], case["output"]["memory"])
