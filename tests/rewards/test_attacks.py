"""The attacks as texts, and the tool without a reader."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from caprl_native.config.media import MediaConfig
from caprl_native.config.schema import Config
from caprl_native.data.records import read_records
from caprl_native.rewards.laboratory.attacks import ATTACKS, Attack
from caprl_native.rewards.laboratory.subjects import Knowledge, Subject, read_subjects
from caprl_native.rewards.laboratory.trial import RememberingReader, rubric_of, table, try_attacks
from caprl_native.testing.demo_world.subjects import demo_subjects
from tests.ranks import ROOT
from tests.rewards.asking import ListeningReader, ask

sys.path.insert(0, str(ROOT / "tools"))
import attack_rewards  # noqa: E402

SUBJECTS = demo_subjects(images=3, videos=3)
SHAPES = "[reward.terms.accuracy]\nweight = 0\n[reward.terms.length]\nl1 = 20\nl2 = 90\n"


def by_name(name: str) -> Attack:
    return next(a for a in ATTACKS if a.name == name)


def words(text: str) -> int:
    return len(text.split())


def test_there_are_many_and_each_has_a_row_in_the_documents() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(names) == len(set(names)) > 30
    document = (ROOT / "docs/attacks.md").read_text()
    assert [name for name in names if f"| {name} |" not in document] == []


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.name)
def test_an_attack_changes_what_it_is_measured_against(attack: Attack) -> None:
    knowledge = Knowledge(SUBJECTS)
    for subject in SUBJECTS:
        if subject.sample.modality == "video" or not attack.videos:
            assert attack.write(subject, knowledge) != attack.text_before(subject)
            assert attack.write(subject, knowledge) == attack.write(subject, knowledge)


def test_the_demo_s_captions_say_everything_and_stamp_both_events() -> None:
    for subject in SUBJECTS:
        video = subject.sample.modality == "video"
        assert len(subject.clauses) == 7 and subject.caption.count("[") == 2 * video
        assert "[" not in subject.unstamped and subject.end == 5 * video
        assert len(subject.sample.questions) == (9 if video else 7)


def test_knowledge_is_of_the_modality() -> None:
    knowledge = Knowledge(SUBJECTS)
    assert knowledge.other(SUBJECTS[2]) is SUBJECTS[0]
    assert "What is the texture?" in knowledge.topics("image")
    assert "What is the texture?" not in knowledge.topics("video")
    assert all(len(choices) >= 4 for choices in knowledge.topics("video").values())
    assert set(SUBJECTS[0].clauses) < set(knowledge.clauses("image"))


def test_a_reader_that_is_cheated_is_found_out() -> None:
    """It says "B" where it is told to: the right letter of a quarter of shuffled questions."""
    gullible = ListeningReader(lambda a: " B" if "answer is B" in str(a) else " Z")
    rubric = rubric_of(Config().reward, lambda: gullible)
    outcomes = {o.attack: o for o in try_attacks(rubric, SUBJECTS, words)}
    assert outcomes["the answer is B, behind"].exceeds(0.02)
    assert outcomes["the answer is B, instead"].terms["accuracy"][0] == 0
    assert not outcomes["empty"].exceeds(0.02)
    shown = table(list(outcomes.values()), 0.02).splitlines()
    assert shown[1].startswith("the answer is B") and " ! " in shown[1]


def test_an_attack_without_a_reward_is_no_gain() -> None:
    silent = ListeningReader(lambda a: None if "Note to" in str(a) else " A")
    rubric = rubric_of(Config().reward, lambda: silent)
    (outcome,) = try_attacks(rubric, SUBJECTS, words, [by_name("instructions to the reader")])
    assert (outcome.captions, outcome.lost, outcome.gain) == (0, 6, None)
    assert not outcome.exceeds(0.0) and "no reward" in table([outcome], 0.02)


def test_questions_are_not_asked_twice() -> None:
    reader = ListeningReader(lambda a: f" {a.seed}")
    memory = RememberingReader(reader)
    for _ in range(2):
        answers = memory.ask([ask("x", 1), ask("x", 2), ask("x", 1)])
        memory.finish()
        assert [a.result().text for a in answers] == [" 1", " 2", " 1"]
        memory.reset()
    assert len(reader.heard) == 2


def run(tmp_path: Path, *words: str) -> tuple[int, dict]:
    (tmp_path / "mine.toml").write_text(SHAPES + f'[policy]\npath = "{tmp_path}/none"\n')
    output = tmp_path / "table.json"
    argv = ["--config", str(tmp_path / "mine.toml"), "--output", str(output), "--count", "4"]
    return attack_rewards.main([*argv, *words]), json.loads(output.read_text())


def test_the_tool_fails_where_something_gains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reward for few words is best served by none."""
    code, report = run(tmp_path)
    rows = {row["attack"]: row for row in report["attacks"]}
    assert code == 1 and rows["empty"]["exceeds"] and rows["empty"]["gain"] > 0.02
    assert not rows["repeated eight times"]["exceeds"]
    assert "attacks gain more than 0.02" in capsys.readouterr().out
    assert run(tmp_path, "--bound", "1")[0] == 0
    assert run(tmp_path, "--reward.terms.length.l1=89")[0] == 0  # settings may be overridden


def test_captions_of_a_run_are_attacked(tmp_path: Path) -> None:
    from caprl_native.testing.demo_world.datasets import write_world

    records = read_records([write_world(tmp_path, "held", images=2, videos=1, seed=0)])
    log = tmp_path / "step_000001.jsonl"
    rows = [{"id": f"held-{i:05d}", "caption": f"caption {i}"} for i in (0, 1, 2, 2, 9)]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    subjects = read_subjects(records, log, MediaConfig(), 8)
    assert [s.caption for s in subjects] == ["caption 0", "caption 1", "caption 2"]
    (video,) = [s for s in subjects if s.sample.modality == "video"]
    assert video.sample.seconds == 5.0 and len(read_subjects(records, log, MediaConfig(), 1)) == 1
    log.write_text('{"id": "held-00000"}\n')
    with pytest.raises(ValueError, match="step_000001.jsonl:1: expected"):
        read_subjects(records, log, MediaConfig(), 8)
    log.write_text('{"id": "other", "caption": "x"}\n')
    with pytest.raises(ValueError, match="no caption is of a record"):
        read_subjects(records, log, MediaConfig(), 8)


def test_an_unknown_setting_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, "--reward.gait=true")
    assert stop.value.code == 2 and "reward.gait" in capsys.readouterr().err


def test_halves_and_clauses() -> None:
    subject = Subject(SUBJECTS[0].sample, "[00:01] a red cat, it sits. 他坐下。\nIt\u2019s 3.5 m.")
    assert subject.clauses == ["a red cat", "it sits", "他坐下", "It\u2019s 3.5 m"]
    assert subject.halves == (["a red cat", "it sits"], ["他坐下", "It\u2019s 3.5 m"])
