"""What goes over the wire, `POST /get_reward`: the reference's protocol, and what ours adds to it.

The reference's: `{"prompts": [[caption, [[question, letter], ...]], ...], "query": [], "labels":
[]}` or, of the mode "vl_judge", `{"score_mode": "vl_judge", "samples": [{"caption": ...,
"video_path": ...}, ...]}`. All else is ours and optional. Raise `PROTOCOL_VERSION` with every
change that a client has to know of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
)

from caprl_native.data.choices import MAX_CHOICES, MIN_CHOICES
from caprl_native.data.question_columns import MOST_WEIGHT
from caprl_native.messages import cut
from caprl_native.rewards.service.question_text import AsGiven, parse_question
from caprl_native.types import MediaRef, Question

PROTOCOL_VERSION = 1
QA_TERMS = ("accuracy", "timestamps")  # the reward of the mode "qa", by the names of its terms
JUDGE_TERM = "judge"  # that of the mode "vl_judge"
KEY_SEPARATOR = "\x1f"  # between the parts of a caption's key, as in `seeds.seed_of`
MAX_SEED = 2**62
MAX_DRAWS = 1000

Mode = Literal["qa", "vl_judge"]
Task = Literal["image", "video"]
_Letter = Annotated[str, StringConstraints(pattern=r"^[A-Za-z]$")]
_Key = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StructuredQuestion(_Strict):
    """A question with its choices apart, so that nothing has to be found in a text."""

    question: str = Field(min_length=1)
    choices: list[str] = Field(min_length=MIN_CHOICES, max_length=MAX_CHOICES)
    answer: int = Field(ge=0, lt=MAX_CHOICES, description="Index of the right choice.")
    weight: float = Field(
        1.0, ge=0, le=MOST_WEIGHT, description="How often it is drawn, beside the others."
    )


def _form_of(question: Any) -> str:
    return "object" if isinstance(question, dict | StructuredQuestion) else "pair"


_Pair = Annotated[
    list[str],
    Field(min_length=2, max_length=2, description="Question with its choices, and a letter."),
]
_Question = Annotated[
    Annotated[_Pair, Tag("pair")] | Annotated[StructuredQuestion, Tag("object")],
    Discriminator(_form_of),
]


class _Common(_Strict):
    """The optional fields of both modes, all of them ours."""

    keys: list[_Key] | None = Field(
        None, description="One per caption; the same key and seed, the same draws."
    )
    seed: int | None = Field(None, ge=0, lt=MAX_SEED, description="Of all draws.")
    tasks: list[Task] | None = Field(None, description="One per caption: what it is of.")
    strict: bool | None = Field(
        None, description="A caption that cannot be scored fails the request with status 502."
    )
    detail: bool = Field(False, description="The reply has parts and readings, too.")
    deadline_s: float | None = Field(
        None, gt=0, le=86400, description="What is not scored by then is answered as missing."
    )


class QaBody(_Common):
    """Captions with their questions."""

    score_mode: Literal["qa"] | None = None
    prompts: list[Annotated[list[Any], Field(min_length=2, max_length=2)]] = Field(
        description="[caption, [[question, letter], ...]], or objects in place of the pairs."
    )
    query: Any = Field(None, description="Ignored.")
    labels: Any = Field(None, description="Ignored.")
    draws: int | None = Field(
        None, ge=0, le=MAX_DRAWS, description="Questions drawn per caption; 0: each once."
    )


class Prompt(_Strict):
    """A caption and its questions, once they are taken out of their list."""

    caption: str
    questions: list[_Question] = Field(min_length=1)


class JudgeSample(_Strict):
    """A caption and the file it is of."""

    caption: str
    video_path: str | None = Field(None, min_length=1, max_length=4096)
    image_path: str | None = Field(None, min_length=1, max_length=4096)


class JudgeBody(_Common):
    """Captions with the media that they are of."""

    score_mode: Literal["vl_judge"] | None = None
    samples: list[JudgeSample]


class Malformed(ValueError):
    """A body that is not of the protocol; the text names the place: "prompts[3][1][0]: ..."."""


@dataclass(frozen=True)
class Job:
    """One caption to score, as workers get it."""

    mode: Mode
    caption: str
    task: Task
    key: tuple[int | str, ...]
    questions: tuple[Question, ...] = ()
    as_given: tuple[AsGiven, ...] = ()
    draws: int | None = None
    media: MediaRef | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a caption: the values of its terms by name, or the reason why not all are.

    A term that does not apply (time stamps of an image) has no value and is no failure.
    """

    values: dict[str, float] = field(default_factory=dict)
    failure: str | None = None
    parts: dict[str, float] = field(default_factory=dict)
    reading: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Limits:
    """What one request may hold."""

    captions: int = 4096
    caption_chars: int = 65536
    questions: int = 256
    question_chars: int = 16384


# --- requests ---------------------------------------------------------------------------------


def read_body(value: Any, mode: Mode, limits: Limits) -> QaBody | JudgeBody:
    """A request's JSON value; `mode` is that of the server, which `score_mode` overrides.

    Raises Malformed.
    """
    if not isinstance(value, dict):
        raise Malformed("expected an object")
    asked = value.get("score_mode", mode)
    if asked not in ("qa", "vl_judge"):
        raise Malformed('score_mode: expected "qa" or "vl_judge"')
    schema: type[QaBody] | type[JudgeBody] = QaBody if asked == "qa" else JudgeBody
    try:
        body = schema.model_validate(value)
    except ValidationError as error:
        raise Malformed(_first(error)) from None
    items, name = (
        (body.prompts, "prompts") if isinstance(body, QaBody) else (body.samples, "samples")
    )
    if len(items) > limits.captions:
        raise Malformed(f"{name}: {len(items)} captions; a request has {limits.captions} at most")
    for other in ("keys", "tasks"):
        given = getattr(body, other)
        if given is not None and len(given) != len(items):
            raise Malformed(f"{other}: {len(given)} for {len(items)} captions")
    return body


def jobs_of_prompts(body: QaBody, task: Task, seed: int, limits: Limits) -> list[Job]:
    """The captions of a request of the mode "qa". Raises Malformed."""
    return [
        _qa_job(body, i, item, task, seed if body.seed is None else body.seed, limits)
        for i, item in enumerate(body.prompts)
    ]


def _qa_job(body: QaBody, i: int, item: list[Any], task: Task, seed: int, limits: Limits) -> Job:
    try:
        prompt = Prompt(caption=item[0], questions=item[1])
    except ValidationError as error:
        raise Malformed(_first(error, f"prompts[{i}]")) from None
    check_caption(prompt.caption, f"prompts[{i}][0]", limits)
    if len(prompt.questions) > limits.questions:
        raise Malformed(f"prompts[{i}][1]: more than {limits.questions} questions")
    parsed = [
        _question(question, f"prompts[{i}][1][{k}]", limits)
        for k, question in enumerate(prompt.questions)
    ]
    key: tuple[int | str, ...] = (seed, *_key(body.keys, i, prompt.caption, repr(parsed)))
    return Job(
        mode="qa",
        caption=prompt.caption,
        task=body.tasks[i] if body.tasks else task,
        key=key,
        questions=tuple(q for q in parsed if isinstance(q, Question)),
        as_given=tuple(q for q in parsed if isinstance(q, AsGiven)),
        draws=body.draws,
    )


def judge_job(body: JudgeBody, i: int, media: MediaRef, seed: int, limits: Limits) -> Job:
    """A caption of a request of the mode "vl_judge"; `media` is what its path was found to be.

    Raises Malformed.
    """
    sample = body.samples[i]
    check_caption(sample.caption, f"samples[{i}].caption", limits)
    seed = seed if body.seed is None else body.seed
    key: tuple[int | str, ...] = (seed, *_key(body.keys, i, sample.caption, str(media.path)))
    return Job("vl_judge", sample.caption, media.kind, key, media=media)


def check_caption(caption: str, where: str, limits: Limits) -> None:
    """Raises Malformed for a caption that is too long."""
    if len(caption) > limits.caption_chars:
        raise Malformed(
            f"{where}: {len(caption)} characters; a caption has {limits.caption_chars} at most"
        )


def _key(keys: list[str] | None, i: int, caption: str, about: str) -> tuple[str, ...]:
    """The client's key, or one made of what is asked: the same request, the same draws."""
    if keys is not None:
        return tuple(keys[i].split(KEY_SEPARATOR))
    return ("request", _digest(about), _digest(caption))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _question(
    given: list[str] | StructuredQuestion, where: str, limits: Limits
) -> Question | AsGiven:
    if isinstance(given, StructuredQuestion):
        size = len(given.question) + sum(map(len, given.choices))
        if given.answer >= len(given.choices):
            raise Malformed(f"{where}.answer: no choice has that index")
    else:
        size = len(given[0])
        if not given[0].strip():
            raise Malformed(f"{where}[0]: expected a question")
        if not (len(given[1]) == 1 and given[1].isascii() and given[1].isalpha()):
            raise Malformed(f"{where}[1]: expected a letter")
    if size > limits.question_chars:
        raise Malformed(f"{where}: more than {limits.question_chars} characters")
    if isinstance(given, StructuredQuestion):
        return Question(given.question, tuple(given.choices), given.answer, given.weight)
    return parse_question(given[0], given[1])


def _first(error: ValidationError, prefix: str = "") -> str:
    """The first thing that is wrong with a body, with its place in the request."""
    first = error.errors(include_url=False, include_input=False)[0]
    loc = [part for part in first["loc"] if part not in ("pair", "object")]
    if prefix:  # a prompt is a list on the wire: [caption, questions]
        loc = [{"caption": 0, "questions": 1}.get(str(loc[0]), loc[0]), *loc[1:]] if loc else []
    place = prefix
    for part in loc:
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else str(part)
    return f"{cut(place) or 'the body'}: {cut(first['msg'])}"


# --- replies ----------------------------------------------------------------------------------


_QA_NAMES = {"accuracy": "qa_rewards", "timestamps": "format_rewards"}


def reply_of(
    outcomes: Sequence[Outcome], mode: Mode, weights: dict[str, float], *, detail: bool
) -> dict[str, Any]:
    """The body of a reply. A caption without a reward has null, and a reason in `failures`.

    `weights`: of the terms of the mode, by name, in the order of the sum.
    """
    reply: dict[str, Any] = {"rewards": [_total(o, weights) for o in outcomes]}
    if not outcomes:
        return reply
    names = {JUDGE_TERM: "judge_rewards"} if mode == "vl_judge" else _QA_NAMES
    for term, name in names.items():
        values = [None if o.failure else o.values.get(term) for o in outcomes]
        if term in weights and (term != QA_TERMS[1] or _is_of_videos(outcomes)):
            reply[name] = values
    if failures := {str(i): o.failure for i, o in enumerate(outcomes) if o.failure}:
        reply["failures"] = failures
    if detail:
        reply["parts"] = [o.parts for o in outcomes]
        reply["readings"] = [o.reading for o in outcomes]
    return reply


def _is_of_videos(outcomes: Sequence[Outcome]) -> bool:
    """Whether time stamps were scored at all; they are not where captions are of images."""
    return any(QA_TERMS[1] in o.values for o in outcomes)


def _total(outcome: Outcome, weights: dict[str, float]) -> float | None:
    if outcome.failure:
        return None
    return sum(w * outcome.values[name] for name, w in weights.items() if name in outcome.values)
