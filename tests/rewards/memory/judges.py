"""Judges of memories behind a real server, which tells from a request what it is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from caprl_native.rewards.base import TermContext
from caprl_native.rewards.memory.options import MemoryOptions
from caprl_native.rewards.rubric import Rubric, WeightedTerm
from caprl_native.rewards.terms.memory import Memory
from caprl_native.testing.chat_server import Reply
from caprl_native.testing.media_files import write_mp4, write_png
from caprl_native.types import Group, MediaRef, Rollout, Sample

Asked = Literal["correctness", "label", "usefulness"]
Rule = Callable[[Asked, list[str]], Reply | str]


def asked(request: dict[str, Any]) -> Asked:
    """What a request is about."""
    said = str(request["messages"][0]["content"])
    if "RANK START" in said:
        return "usefulness"
    return "label" if '"label"' in said else "correctness"


def texts(request: dict[str, Any]) -> list[str]:
    """The descriptions that it shows, in their order."""
    shown = request["messages"][-1]["content"]
    text = shown if isinstance(shown, str) else shown[-1]["text"]
    parts = [part for part in text.split("\n\n") if part.startswith(("The desc", "Description"))]
    return ["\n".join(line[2:] for line in part.splitlines()[1:]) for part in parts]


def ranking(order: list[int]) -> str:
    return f"Well.\n[RANK START]\n{order}\n[RANK END]"


def sound(kind: Asked, shown: list[str]) -> str:
    """True and new unless the text says otherwise; the shortest is the most useful."""
    if kind == "usefulness":
        return ranking(sorted(range(1, len(shown) + 1), key=lambda i: len(shown[i - 1])))
    return json.dumps({"reason": "so", kind: int(f"not {kind}" not in shown[0])})


def answering(rule: Rule = sound) -> Callable[[dict[str, Any]], Reply]:
    def answer(request: dict[str, Any]) -> Reply:
        reply = rule(asked(request), texts(request))
        return reply if isinstance(reply, Reply) else Reply(reply)

    return answer


def segment(folder: Path, name: str = "v*3", context: str | None = "| <face_1> came in.") -> Sample:
    """A clip and a face."""
    folder.mkdir(exist_ok=True)
    clip, face = folder / "clip.mp4", folder / "face.png"
    if not clip.exists():
        write_mp4(clip, 8, 4.0)
        write_png(face)
    media = (MediaRef("image", str(face)), MediaRef("video", str(clip)))
    return Sample(name, media, (), source="rows:1", context=context)


def memory(text: str) -> str:
    return f"<think>hm</think>{json.dumps({'description': text})}"


def group(sample: Sample, *outputs: str) -> Group:
    """Rollouts of 4 tokens, one of them thought."""
    rollouts = [Rollout([1, 2, 3, 4], [], "stop", o, thoughts=(1, 2)) for o in outputs]
    return Group(sample, None, rollouts)


def options(**settings: Any) -> MemoryOptions:
    """One judge for all; what is given for it, or for the term."""
    own = {k: settings.pop(k) for k in list(settings) if k in MemoryOptions.model_fields}
    judge = {"model": "judge", "timeout_s": 10.0, "retries": 0, "video_max_frames": 4, **settings}
    return MemoryOptions(**{"correctness": judge, **own})


def scored(groups: list[Group], settings: MemoryOptions, *, overlap: bool = True) -> dict[str, Any]:
    """Fills the groups' rollouts; returns the term's metrics."""
    context = TermContext(lambda: None)
    with closing(Memory(settings, context)) as term:
        rubric = Rubric([WeightedTerm("memory", 1.0, term)], context, overlap=overlap)
        scoring = rubric.begin(1)
        for g in groups:
            for i, rollout in enumerate(g.rollouts):
                scoring.add(g.sample, i, rollout, of=len(g.rollouts))
        scoring.finish()
        return {name: m.value for name, m in rubric.metrics().items()}
