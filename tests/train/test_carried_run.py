"""A thinking policy that remembers long videos: three stages, memories judged behind a server and
told to later segments, on two ranks; and the same killed and resumed."""

from __future__ import annotations

import base64
import json
import random
import statistics
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kill_resume import Moment, differences, finished, kill_at, run_unbroken
from transformers import AutoTokenizer

from caprl_native import checkpoint
from caprl_native.config.schema import Config
from caprl_native.testing.chat_server import ChatServer, Reply, serve
from caprl_native.text.faces import relabelled
from tests.data.segments import ASKED, face_maps, write_rows
from tests.rewards.memory.judges import asked, ranking, texts
from tests.train.test_loop import check_agreement, steps
from tests.train.thinker import write_thinker
from tests.train.world import Quick, rows, tiny_config, write_config

VIDEOS = dict.fromkeys(("film", "show", "talk", "trip", "game"), 3)
N = 4
DOUBTED = ("talk", 1)  # a clip that its judge says nothing readable of
THOUGHT = 2  # tokens that cost nothing


# --- the judges: what they say depends on nothing but what they are asked -----------------------


def mark(*parts: Any) -> int:
    return zlib.crc32(repr(parts).encode())


def judge(request: dict[str, Any]) -> Reply:
    """Now and then, by the request's seed, no judgement: it is asked for once more."""
    kind, shown = asked(request), texts(request)
    usage = {"prompt_tokens": len(str(request["messages"])), "completion_tokens": 5}
    said = _judgement(kind, shown, request["messages"][-1]["content"])
    if mark(request["seed"]) % 9 == 0:
        said = "Well."
    choice = {"index": 0, "message": {"role": "assistant", "content": said}}
    body = {"choices": [choice | {"finish_reason": "stop"}], "usage": usage}
    return Reply(raw=json.dumps(body).encode())


def _judgement(kind: str, shown: list[str], content: Any) -> str:
    if kind == "usefulness":
        return ranking(sorted(range(1, len(shown) + 1), key=lambda i: mark(shown[i - 1])))
    if kind == "label":
        told, _, _ = (content if isinstance(content, str) else content[-1]["text"]).partition(
            "The description:"
        )
        return json.dumps({"reason": "so", "label": int(shown[0] not in told)})
    clip = base64.b64decode(content[0]["video_url"]["url"].partition(",")[2])
    true = is_true(clip, shown[0])
    return "I cannot say." if true is None else json.dumps({"reason": "so", "correctness": true})


def is_true(clip: bytes, text: str) -> int | None:
    """Three of four memories are; None: nobody knows."""
    return None if mark(clip) in _doubted else int(mark(clip, text) % 4 > 0)


_doubted: set[int] = set()


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    with serve(judge) as server:
        yield server


# --- the run ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(server: ChatServer, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Six steps: three stages of five samples, in batches of three and two."""
    folder = tmp_path_factory.mktemp("segments")
    policy = write_thinker(folder / "policy", [ASKED])
    config = tiny_config(folder, policy, "", folder / "run")
    config.run.steps, config.run.epochs, config.run.export = 0, 1, False
    config.policy.dtype, config.policy.lr = "float32", 3e-4
    config.data.files = [str(write_rows(folder, VIDEOS, clips=True))]
    config.data.batch_size, config.data.curriculum, config.data.workers = 4, "step", 1
    config.data.max_prompt_tokens, config.rollout.max_model_len = 600, 640
    config.data.history = config.data.history.replace(
        pick="none_if_wrong", right="memory/correct", state="memory/format_error"
    )
    config.rollout.n, config.rollout.max_tokens, config.rollout.top_k = N, 12, 20
    algorithm = config.algorithm
    algorithm.advantage = {"type": "optimize_threshold"}
    algorithm.loss = {"type": "gspo_token", "clip_high": 0.28}
    algorithm.aggregation, algorithm.updates = "seq-mean-token-mean", 2
    algorithm.old, algorithm.corrections = "trainer", {"tis": {"type": "none"}}
    judges = {"endpoint": server.url, "model": "judge", "video_as": "file", "attempts": 6}
    memory = {"correctness": judges, "think_length_threshold": THOUGHT}
    config.reward.terms = {"accuracy": {"type": "none"}, "memory": memory}
    config.log.per_sample = "memory_log"
    _doubted.add(mark(clip_of(folder, *DOUBTED)))
    return config


def clip_of(folder: Path, video: str, segment: int) -> bytes:
    return (folder / video / f"{segment}.mp4").read_bytes()


@pytest.fixture(scope="module")
def plan(config: Config) -> Quick:
    return Quick((str(write_config(config, Path(config.run.dir).with_suffix(".toml"))),))


@pytest.fixture(scope="module")
def unbroken(config: Config, plan: Quick) -> tuple[Path, list[float]]:
    folder = Path(config.run.dir)
    return folder, run_unbroken(plan, folder)


@pytest.fixture(scope="module")
def groups(unbroken: tuple[Path, list[float]]) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """The log of all captions by video and segment, in the order of the steps."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for step in range(1, 7):
        for r in rows(unbroken[0] / f"rollouts/step_{step:06d}.jsonl"):
            video, _, segment = r["id"].partition("*")
            found.setdefault((video, int(segment)), []).append(r | {"step": step})
    return found


def test_the_policy_is_trained_on_stages_in_their_order(unbroken, groups) -> None:
    """Images, a video and what came before in each prompt, which trainer and engine see alike."""
    check_agreement(unbroken[0], 6)
    assert [segment for _, segment in groups] == [0] * 5 + [1] * 5 + [2] * 5
    steps_of = [group[0]["step"] for group in groups.values()]
    assert steps_of == [1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 5, 5, 5, 6, 6]


def test_histories_grow_and_are_told(unbroken, groups, config) -> None:
    """In the names of the segment's own faces, and in the very tokens of the prompt."""
    tokenizer = AutoTokenizer.from_pretrained(config.policy.path)
    plain = groups["film", 0][0]["prompt_tokens"]
    maps, left = face_maps(3), {video: {} for video in VIDEOS}
    for (video, segment), group in groups.items():
        earlier = [left[video][str(i)] for i in range(segment)]
        before = [maps[str(i)] for i in range(segment)]
        told = " ".join(relabelled(earlier, before, maps[str(segment)]))
        for r in group:
            assert r.get("context", "") == told
            assert f"[Description of the preceding part]: {told}\n" in r["prompt"]
            assert r["prompt_tokens"] == plain + len(tokenizer(told)["input_ids"])
        right = [r for r in group if r["parts"].get("memory/correct")]
        best = max(right, key=lambda r: r["total"], default=None)
        left[video][str(segment)] = best["reader"][0]["memory"] if best else ""
    found = {v: json.loads((unbroken[0] / f"history/{v}.json").read_text()) for v in VIDEOS}
    assert found == left and left[DOUBTED[0]][str(DOUBTED[1])] == ""
    assert any(text and "<face_" in text for texts in left.values() for text in texts.values())
    for line in steps(unbroken[0]):
        here = {k for k, group in groups.items() if group[0]["step"] == line["step"]}
        empty = sum(not left[video][str(segment)] for video, segment in here)
        assert (line["data/texts_left"], line["data/texts_empty"]) == (len(here) - empty, empty)


def expected(group: list[dict[str, Any]], clip: bytes) -> list[float]:
    """The rewards of a group, by what the judges would say."""
    useful = [r["parts"]["memory/useful"] for r in group if "memory/useful" in r["parts"]]
    found = []
    for r in group:
        text = r["reader"][0]["memory"]
        if text is None:
            found.append(-1.5)
            continue
        sound = not text.startswith("face 1") and text not in r.get("context", "")
        value = 0.5 if sound and is_true(clip, text) else -0.5
        if value > 0 and len(useful) > 1:
            value += 0.1 * 0.5 * r["parts"]["memory/useful"]
        over = (r["parts"]["memory/think_tokens"] - THOUGHT) / THOUGHT
        found.append(value - min(1.0, max(0.0, over)))
    return found


def test_rewards_are_those_of_what_the_judges_say(unbroken, groups) -> None:
    folder, seen = unbroken[0].parent, set()
    for (video, segment), group in groups.items():
        if (video, segment) == DOUBTED:
            assert {r["total"] for r in group} == {None}
            assert all("memory: correctness" in r["failure"] for r in group)
            continue
        want = expected(group, clip_of(folder, video, segment))
        assert [r["total"] for r in group] == pytest.approx(want)
        ranked = sorted((r for r in group if "memory/useful" in r["parts"]), key=_usefulness)
        marks = [mark(r["reader"][0]["memory"]) for r in ranked]
        assert marks == sorted(marks, reverse=True)
        seen |= {(r["parts"]["memory/format_error"], r["total"] > 0) for r in group}
    assert seen == {(0.0, True), (0.0, False), (1.0, False)}


def _usefulness(r: dict[str, Any]) -> float:
    return r["parts"]["memory/useful"]


def test_what_is_right_is_not_pushed_down(groups) -> None:
    spared = 0
    for group in groups.values():
        if group[0]["total"] is None:
            continue
        total = [r["total"] for r in group]
        mean, deviation = statistics.mean(total), statistics.stdev(total)
        for r in group:
            plain = (r["total"] - mean) / (deviation + 1e-6)
            spare = r["parts"]["memory/correct"] and r["total"] > 0 > plain
            spared += bool(spare)
            assert r["advantage"] == pytest.approx(0.0 if spare else plain, abs=1e-4)
    assert spared


def test_what_judges_cost_is_counted(unbroken, groups) -> None:
    lines = steps(unbroken[0])
    failed = [line["reward/memory/judge_failure"] for line in lines]
    assert failed == [N * (line["step"] == groups[DOUBTED][0]["step"]) for line in lines]
    assert failed == [line["data/failed_rewards"] for line in lines]
    for role in ("correctness", "label", "usefulness"):
        count = {
            name: sum(line[f"reward/memory/{role}/{name}"] for line in lines)
            for name in ("requests", "retries", "prompt_tokens", "reply_tokens")
        }
        assert count["requests"] > count["retries"] > 0 or role == "usefulness"
        assert count["reply_tokens"] == 5 * count["requests"] < count["prompt_tokens"]


def test_each_sample_has_a_log_of_its_own(unbroken, groups) -> None:
    files = sorted((unbroken[0] / "memory_log").glob("*/*.json"))
    assert len(files) == 15
    for file in files:
        log = json.loads(file.read_text())
        assert (log["id"], str(log["global_step"])) == (file.stem, file.parent.name)
        assert log["type"] == "episodic_on_policy" and log["num_items"] == len(log["items"]) == N
        assert all({"input", "caption", "rewards", "parts"} <= item.keys() for item in log["items"])


def test_killed_and_resumed_it_ends_the_same(unbroken, plan: Quick, tmp_path: Path) -> None:
    """At any moment, in the writing of a checkpoint, too; also what judges cost is the same."""
    whole, times = unbroken
    folder, rng = tmp_path / "run", random.Random()
    step = rng.randint(1, 5)
    saving = rng.random() < 0.3
    delay = rng.uniform(0, 0.1 if saving else times[step] - times[step - 1])
    moment = Moment(step, delay, saving, victim="all")
    killed = kill_at(plan, folder, moment)
    print(moment, killed, checkpoint.steps(folder / "checkpoints"))  # shown where the test fails
    (folder / "history").mkdir(exist_ok=True)
    (folder / "history/film.json").write_text('{"0": "of the future", "9": "x"}')
    (folder / "history/other.json").write_text("{}")
    resume = bool(checkpoint.steps(folder / "checkpoints"))
    finished(plan.start(folder, resume=resume), folder)
    assert differences(whole, folder) == []
