"""Scenes of the demo's world, and what can be said and asked about them.

An attribute is mentioned by one clause in which its own key word stands beside the value ("size
tiny", "moves left"), so that a caption can be read without working out what belongs to what.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
EVENTS = ("grows", "shrinks", "doubles", "hollows")
TIMES = ("[00:01]", "[00:02]", "[00:03]", "[00:04]")
CHOICES = 4

Modality = Literal["image", "video"]


@dataclass(frozen=True)
class Attribute:
    """`clause` holds `{}` where the value goes. A time has none: it stamps that of `stamps`."""

    name: str
    values: tuple[str, ...]
    question: str
    clause: str = ""
    stamps: str = ""


SHAPE = Attribute(
    "shape",
    ("circle", "square", "triangle", "star", "cross", "diamond"),
    "What is the shape?",
    "shape {}",
)
BACKGROUND = Attribute(
    "background", ("white", "grey", "black", "pink"), "What is the background?", "background {}"
)
IMAGE = (
    SHAPE,
    Attribute("colour", COLOURS, "What is the colour?", "colour {}"),
    Attribute("size", ("tiny", "small", "big", "huge"), "What is the size?", "size {}"),
    Attribute("count", ("one", "two", "three", "four"), "What is the count?", "count {}"),
    Attribute("place", ("left", "right", "top", "bottom"), "What is the place?", "place {}"),
    Attribute(
        "texture", ("solid", "striped", "dotted", "hollow"), "What is the texture?", "texture {}"
    ),
    BACKGROUND,
)
VIDEO = (
    SHAPE,
    BACKGROUND,
    Attribute("start", COLOURS, "What colour is it when it starts?", "starts {}"),
    Attribute("motion", ("left", "right", "up", "down"), "Which way does it move?", "moves {}"),
    Attribute("turn", COLOURS, "What colour is it after it turns?", "turns {}"),
    Attribute("turn_time", TIMES, "When does it turn?", stamps="turn"),
    Attribute("event", EVENTS, "What happens to its form?", "form {}"),
    Attribute("event_time", TIMES, "When does its form change?", stamps="event"),
    Attribute("order", ("turns", *EVENTS), "What happens first?", "first {}"),
)
ATTRIBUTES = {"image": IMAGE, "video": VIDEO}
PROMPTS = {"image": "Describe the image.", "video": "Describe the video."}
FULL_PROMPTS = {"image": "Describe all of the image.", "video": "Describe all of the video."}


@dataclass(frozen=True)
class Scene:
    modality: Modality
    values: dict[str, str]  # attribute name -> value

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        return ATTRIBUTES[self.modality]


@dataclass(frozen=True)
class Quiz:
    """One multiple-choice question; `choices` bare, `answer` indexes the right one."""

    attribute: str
    question: str
    choices: tuple[str, ...]
    answer: int


def sample_scene(modality: Modality, rng: random.Random) -> Scene:
    """A scene with every attribute drawn evenly; a video's two events never coincide."""
    values = {a.name: rng.choice(a.values) for a in ATTRIBUTES[modality]}
    if modality == "video":
        values["turn"] = rng.choice([c for c in COLOURS if c != values["start"]])
        values["turn_time"], values["event_time"] = rng.sample(TIMES, 2)
        first = values["turn_time"] < values["event_time"]
        values["order"] = "turns" if first else values["event"]
    return Scene(modality, values)


def mentionable(scene: Scene, wanted: Collection[str]) -> set[str]:
    """`wanted` and what a caption cannot do without: a time needs the clause that it stamps."""
    stamped = {a.stamps for a in scene.attributes if a.stamps and a.name in wanted}
    return set(wanted) | stamped


def caption(scene: Scene, wanted: Collection[str], rng: random.Random | None) -> str:
    """A caption that mentions exactly `mentionable(scene, wanted)`, shuffled if `rng` is given.

    Stamped clauses stand in the order of their times. Nothing wanted gives an empty caption.
    """
    names = mentionable(scene, wanted)
    stamps = {
        a.stamps: scene.values[a.name] for a in scene.attributes if a.stamps and a.name in names
    }
    clauses = []
    for a in scene.attributes:
        if a.clause and a.name in names:
            text = a.clause.format(scene.values[a.name])
            clauses.append(f"{stamps[a.name]} {text}" if a.name in stamps else text)
    if rng is not None:
        rng.shuffle(clauses)
    slots = [i for i, text in enumerate(clauses) if text.startswith("[")]
    for slot, text in zip(slots, sorted(clauses[i] for i in slots), strict=False):
        clauses[slot] = text
    return ", ".join(clauses) + "." if clauses else ""


def answerable(scene: Scene, wanted: Collection[str]) -> set[str]:
    """The attributes that follow from a caption: those mentioned, and what they imply."""
    names = mentionable(scene, wanted)
    if scene.modality == "video":
        if {"turn_time", "event_time"} <= names:
            names.add("order")
        if "order" in names and scene.values["order"] in EVENTS:
            names.add("event")
    return names


def quiz(scene: Scene, attribute: Attribute, rng: random.Random) -> Quiz:
    """One question on the attribute: its value among `CHOICES` of its values, shuffled."""
    right = scene.values[attribute.name]
    wrong = [v for v in attribute.values if v != right]
    if attribute.name == "order":  # what happens second is always among the choices
        both = {"turns", scene.values["event"]}
        rest = [v for v in wrong if v not in both]
        wrong = sorted(both - {right}) + rng.sample(rest, CHOICES - 2)
    choices = [right, *rng.sample(wrong, CHOICES - 1)]
    rng.shuffle(choices)
    return Quiz(attribute.name, attribute.question, tuple(choices), choices.index(right))


def mentions(scene: Scene, text: str) -> dict[str, bool]:
    """The attributes that a caption mentions -> whether rightly."""
    found: dict[str, bool] = {}
    for clause in text.strip().rstrip(".").split(","):
        *stamp, body = clause.strip().rsplit("] ", 1)
        for a in scene.attributes:
            key = a.clause.split("{}")[0]
            if not a.clause or not body.startswith(key):
                continue
            found[a.name] = found.get(a.name, True) and body == a.clause.format(
                scene.values[a.name]
            )
            for time in scene.attributes:
                if stamp and time.stamps == a.name:
                    found[time.name] = f"{stamp[0]}]" == scene.values[time.name]
    return found


def every_text() -> Iterator[str]:
    """Texts that hold every word of the world, for a vocabulary."""
    yield from (*PROMPTS.values(), *FULL_PROMPTS.values())
    for a in (*IMAGE, *VIDEO):
        yield from (a.question, a.clause.replace("{}", ""), *a.values)
