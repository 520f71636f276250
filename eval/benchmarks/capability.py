"""CAPability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from caprl_native.data.formats import FieldError
from caprl_native.types import MediaRef
from eval.benchmarks.base import Benchmark, Files, Row, Rule, registered
from eval.benchmarks.judging import about_caption
from eval.items import Item, ToJudge, Verdict
from eval.scoring.capability import (
    capability_metrics,
    categorical,
    read_categories,
    read_verdict,
)


class Element(NamedTuple):
    """What an element is called, and when a caption has it right, wrong, or not at all."""

    what: str
    right: str
    absent: str
    wrong: str


_NUMBER = Element(
    "Objects and their number",
    "the caption gives this number, or lets it be counted",
    'it does not mention these objects, or gives no definite number ("some", "several")',
    "it gives another number",
)
ELEMENTS = {
    "object_category": Element(
        "Object",
        "the caption mentions this object, in whatever words",
        "it mentions no object at all",
        "it mentions objects, but not this one",
    ),
    "object_number": _NUMBER,
    "dynamic_object_number": _NUMBER,
    "object_color": Element(
        "Object and its colour",
        "the caption gives the object this colour, in whatever words",
        "it does not mention the object, or not its colour",
        "it gives the object another colour",
    ),
    "spatial_relation": Element(
        "Where objects are to each other",
        "the caption says so, in whatever words",
        "it does not mention the objects, or not where they are to each other",
        "it says otherwise",
    ),
    "scene": Element(
        "Scene",
        "the caption mentions this scene, in whatever words",
        "it says nothing of any scene",
        "it mentions a scene, but not this one",
    ),
    "OCR": Element(
        "Text in the picture",
        "the caption gives this text correctly",
        "it says nothing of this text",
        "it gives the text wrongly",
    ),
    "character_identification": Element(
        "Name of a person or character",
        "the caption gives this name",
        "it gives no name",
        "it gives another name",
    ),
    "action": Element(
        "Action",
        "the caption mentions this action, in whatever words",
        "it mentions no action at all",
        "it mentions actions, but not this one",
    ),
    "event": Element(
        "Event",
        "the caption tells this event, in whatever words",
        "it tells nothing that has to do with it",
        "it tells of it, and gets it wrong",
    ),
}
CATEGORIES: dict[str, dict[str, str]] = {
    "camera_angle": {
        "level angle": "from the height of the subject",
        "high angle": "from above",
        "low angle": "from below",
        "dutch angle": "tilted to one side, so that the horizon slopes",
    },
    "camera_movement": {
        "left": "it turns or moves to the left",
        "right": "it turns or moves to the right",
        "up": "it tilts or rises upwards",
        "down": "it tilts or sinks downwards",
        "in": "it moves towards the subject, or zooms in",
        "out": "it moves away from the subject, or zooms out",
        "fixed": "it hardly moves",
    },
    "style": {
        "realistic": "true to life",
        "animated": "drawn or computer-made: cartoons, anime, 3D",
        "special effect": "altered by practical or digital effects",
        "old-fashioned": "of a past time, vintage or classical",
        "pixel art": "made of coarse pixels",
        "sketch art": "a rough drawing of lines",
        "abstract art": "shapes and colours that depict nothing",
        "impressionism art": "light in visible strokes of the brush",
        "cubism art": "things broken into geometric planes",
    },
}
ASPECTS = {
    "camera_angle": "the camera's angle",
    "camera_movement": "the camera's movement",
    "style": "the picture's style",
}
CHECK = (
    "You check a caption of {medium} for one thing. Reply with 1 if {right}; with 0 if {absent}; "
    'with -1 if {wrong}. Write it as one JSON object and nothing else: {{"verdict": number}}'
)
CLASSIFY = (
    "You find out what a caption of {medium} says about {aspect}. These are the categories:\n"
    "{listed}\nName those that the caption says itself; infer none from anything else that it "
    'tells. Reply with one JSON object and nothing else: {{"categories": ["...", ...]}}, with an '
    "empty list if it says nothing about {aspect}, or nothing that is one of them."
)


@registered
class Capability(Benchmark):
    """Elements of 11,000 images and videos in 13 sets of annotations, checked in a caption.

    Source: `annotations/<dimension>.jsonl` of the authors' repository: `file_id`, `file_path`,
    `annotation` (a text, or an object of a number or a colour by thing), `task`, `data_type`.
    Media lie at `file_path`, or there without `data/`. Things that a record counts are an item
    each.
    Rule: a judge says whether the caption has the element right (1), wrong (-1), or does not speak
    of it (0); for camera angle, camera movement and style it names the categories that the caption
    mentions, the element unseen. Hit is the share of elements spoken of, precision the share of
    right ones among these; means over dimensions. Here a dimension that no caption speaks of has
    precision 0 (the authors' script divides by zero), "N/A" beside categories cannot be read
    (theirs: it counts), and so is missing.
    Citation: Z. Liu, C.-W. Xie, B. Wen, F. Yu, J. Chen, B. Zhang, N. Yang, P. Li, Y. Li, Z. Gao, Y.
    Zheng, H. Xie, "CAPability: A Comprehensive Visual Caption Benchmark for Evaluating Both
    Correctness and Thoroughness", NeurIPS 2025.
    """

    name = "capability"
    title = "CAPability"
    modality = "both"
    metric = "recall of elements"
    headline = ("precision", "hit", "F1")
    judged_by_model = True
    asks_reader = False

    def item(self, row: Row, files: Files) -> list[Item]:
        task, name = row.text("task", default=row.file.stem), row.text("file_id")
        if task not in ELEMENTS and task not in CATEGORIES:
            known = ", ".join([*ELEMENTS, *CATEGORIES])
            raise FieldError("task", f"{task!r:.60} is none", f"one of {known}")
        path = row.text("file_path")
        kind = "video" if row.text("data_type", default="") == "video" else "image"
        paths = [path, path.removeprefix("data/")]
        medium = MediaRef("video" if kind == "video" else "image", files.medium(row.file, *paths))
        return [
            Item(
                id=f"{task}/{name}" + (f"#{thing}" if thing else ""),
                media=(medium,),
                question=_question(task, thing, value),
                answer=value,
                groups={"dimension": task},
                caption_ids=(name,),
                source=row.source,
            )
            for thing, value in _elements(task, row.value.get("annotation"))
        ]

    def score(self, item: Item, output: str, rule: Rule) -> ToJudge:
        task, medium = item.groups["dimension"], f"a{'n' * (item.modality == 'image')} "
        medium += item.modality
        if task in CATEGORIES:
            listed = "\n".join(f"- {n}: {meaning}" for n, meaning in CATEGORIES[task].items())
            asked = CLASSIFY.format(medium=medium, aspect=ASPECTS[task], listed=listed)
            request = f"What does the caption say about {ASPECTS[task]}?"
            return ToJudge(about_caption(asked, output, request, "categories"))
        asked = CHECK.format(medium=medium, **ELEMENTS[task]._asdict())
        return ToJudge(about_caption(asked, output, item.question, "verdict"))

    def judged(self, item: Item, output: str, reply: str) -> Verdict | None:
        task = item.groups["dimension"]
        if task in CATEGORIES:
            named = read_categories(reply, CATEGORIES[task])
            if named is None:
                return None
            verdict, said = categorical(item.answer, named), ", ".join(named) or "none"
        else:
            stated = read_verdict(reply)
            if stated is None:
                return None
            verdict, said = stated, {1: "right", 0: "not there", -1: "wrong"}[stated]
        return Verdict(float(verdict == 1), said, {"verdict": verdict})

    def metrics(self, scored: Sequence[tuple[Item, Verdict | None]]) -> dict[str, float]:
        verdicts = [(i.groups["dimension"], v.detail["verdict"]) for i, v in scored if v]
        return {name: 100 * value for name, value in capability_metrics(verdicts).items()}


def _elements(task: str, value: Any) -> list[tuple[str, str]]:
    """Thing and value of each element; a text has no thing of its own. Raises `FieldError`."""
    pairs = list(value.items()) if isinstance(value, dict) else [("", value)]
    for _, element in pairs:
        if isinstance(element, bool) or not isinstance(element, str | int):
            raise FieldError("annotation", f"expected a text or a number, got {element!r:.60}")
    found = [(str(thing).strip(), str(element).strip()) for thing, element in pairs]
    if not found or not all(element for _, element in found):
        raise FieldError("annotation", "missing or empty", "give the annotated element")
    if task in CATEGORIES and found[0][1] not in CATEGORIES[task]:
        known = ", ".join(CATEGORIES[task])
        raise FieldError("annotation", f"{found[0][1]!r:.60} is no category", f"one of {known}")
    return found


def _question(task: str, thing: str, value: str) -> str:
    """What is looked for in a caption."""
    if task in CATEGORIES:
        return f"What does the caption say about {ASPECTS[task]}?"
    return f"{ELEMENTS[task].what}: {f'{thing}: ' if thing else ''}{value}"
