"""What the twelve image benchmarks of CapRL's released evaluation files share.

Source: the files that InternLM/CapRL's `Prism_Evaluation/Eval_CapRL.py` reads, a JSON list or JSONL
of `{"image", "prompt", "answer"}`. `image` is a path below the data set's folder, a list of them,
or messages whose image parts name them. `prompt` is the reader's whole prompt in Qwen's chat
template, with an image placeholder where the caption goes. Fields beyond these three are used
where they are there: an id, and those that scores are broken down by.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from caprl_native.data.choices import LETTERS
from caprl_native.data.formats import FieldError
from caprl_native.types import MediaRef
from eval.benchmarks.authors import (
    Columns,
    choices_in,
    first_of,
    images_of,
    question_of,
    unnested,
    with_shared_images,
)
from eval.benchmarks.base import Benchmark, Files, Row, Rule, by_letter
from eval.benchmarks.options import parse_options, without_options
from eval.items import CAPTION, Broken, Item, ToJudge, Verdict
from eval.scoring.caprl_image import boxed, verify_math
from eval.scoring.letters import choice_letter
from eval.scoring.math_answer import final_answer, math_equal
from eval.scoring.relaxed import literal_list

# The reference puts this where the prompt has its image, word for word.
CAPTION_TEXT = (
    f"Here is a detailed caption of an image: {CAPTION}. "
    "Please answer the question based on the caption."
)
IDS = ("id", "index", "question_id", "questionId", "sample_index")
SHOWN = "The image shows the question."
ROLES = ("system", "user", "assistant")
HIDDEN_CHOICES = 5  # letters that are taken for an answer where the image shows the choices

_PAD = r"<\|vision_start\|><\|image_pad\|><\|vision_end\|>"
_PADS = re.compile(rf"{_PAD}(?:\s*{_PAD})*")
_TURN = re.compile(r"<\|im_start\|>(\w+)(?:\n|\Z)(.*?)(<\|im_end\|>\s*|\Z)", re.DOTALL)
_OTHER_IMAGE = "[image]"
_DAMAGED_TAG = re.compile(r"<\|(?:im|vision|image|video)_\w*(?:\|>?)?|<\|\w*\Z")
_GOLD_LETTER = re.compile(r"\(?([A-Za-z])\)?\.?")


class Released(Benchmark):
    """A benchmark in the released format. A subclass names its rule and what its golds are."""

    modality = "image"
    caption_text = CAPTION_TEXT
    own: ClassVar[Columns] = Columns()  # of the authors' own files
    rules: ClassVar[tuple[Rule, ...]] = ("official", "caprl")
    golds: ClassVar[Literal["letter", "text", "either"]]
    listed_golds: ClassVar[bool] = True  # a gold like "['3', 'three']" is several golds
    group_fields: ClassVar[dict[str, tuple[str, ...]]] = {}  # kind -> names of its field
    reference_score: Callable[[str, str], float] = staticmethod(verify_math)

    def rows(self, path: Path) -> Iterator[Row | Broken]:
        rows = super().rows(path)
        if path.suffix.lower() == ".json" and self.own.nested:
            return unnested(rows, self.own.nested)
        return with_shared_images(rows) if path.suffix.lower() in (".tsv", ".csv") else rows

    def item(self, row: Row, files: Files) -> Item:
        if row.value.get("prompt") is None and self.own.has(row):
            return self.own_item(row, files)
        media = image_refs(row, files)
        row.text("prompt")
        chat = parse_chat(str(row.value["prompt"]), len(media))
        golds = gold_texts(row, self.listed_golds)
        choices = () if self.golds == "text" else parse_options(chat.question)
        letter = self._letter(golds, choices)
        return Item(
            id=row.text(*IDS, default=row.name),
            media=media,
            question=chat.question,
            answer=letter or (golds[0] if len(golds) == 1 else golds),
            choices=choices if letter else (),
            groups=self.groups(row, letter),
            chat=chat.turns,
            extra={"prefix": chat.prefix, "letter": letter, "gold": str(row.value["answer"])},
            source=row.source,
        )

    def own_item(self, row: Row, files: Files) -> Item:
        """The item of a row in the authors' own file, asked in our words."""
        row = Row({**row.value, "answer": self.own_answer(row)}, row.source, row.file)
        question = self.own_question(row)
        golds = gold_texts(row, self.listed_golds)
        choices: tuple[str, ...] = ()
        if self.golds != "text":
            choices = choices_in(row, self.own)
        written = () if choices or self.golds == "text" else parse_options(question)
        choices = choices or written
        letter = self._letter(golds, choices)
        if written and letter:
            question = without_options(question)
        return Item(
            id=row.text(*IDS, default=row.name),
            media=images_of(row, files, self.own),
            question=question or SHOWN,
            answer=letter or (golds[0] if len(golds) == 1 else golds),
            choices=choices if letter else (),
            groups=self.groups(row, letter),
            extra={"letter": letter, "gold": str(row.value["answer"])},
            source=row.source,
        )

    def own_question(self, row: Row) -> str:
        """The question in the authors' file."""
        return question_of(row, self.own)

    def own_answer(self, row: Row) -> Any:
        """The gold in the authors' file."""
        return first_of(row, self.own.answer)

    def groups(self, row: Row, letter: str | None) -> dict[str, str]:
        """The kinds that the record's scores are broken down by."""
        found = {kind: row.text(*names, default="") for kind, names in self.group_fields.items()}
        if self.golds == "either":
            found["question"] = "multiple choice" if letter else "open"
        return {kind: value for kind, value in found.items() if value}

    def prefix(self, item: Item) -> str:
        return item.extra["prefix"] if item.chat else super().prefix(item)

    def score(self, item: Item, output: str, rule: Rule) -> Verdict | ToJudge:
        if rule == "caprl":
            if not item.chat:
                raise ValueError(
                    "caprl scores boxed answers, which the prompts of the released files ask for "
                    "and the authors' files do not"
                )
            return Verdict(self.reference_score(output, item.extra["gold"]), boxed(output) or None)
        return self.official(item, output)

    @abstractmethod
    def official(self, item: Item, output: str) -> Verdict | ToJudge:
        """What an answer is worth by the benchmark's own rule."""

    def _letter(self, golds: list[str], choices: tuple[str, ...]) -> str | None:
        """The gold letter, None for an open question. Raises `FieldError` for one that is none."""
        if self.golds == "text":
            return None
        match = _GOLD_LETTER.fullmatch(golds[0]) if len(golds) == 1 else None
        if match is None:
            if self.golds == "letter":
                raise FieldError("answer", f"{golds} is no letter", "give a choice's letter")
            return None
        letter = match[1].upper()
        if choices and letter not in LETTERS[: len(choices)]:
            last = LETTERS[len(choices) - 1]
            raise FieldError("answer", f"{letter} is no choice", f"give a letter from A to {last}")
        if not choices and self.golds == "either" and golds[0] not in LETTERS[:HIDDEN_CHOICES]:
            return None  # a point or a variable
        return letter


class LetterBenchmark(Released):
    """Choices alone; accuracy by letter."""

    golds = "letter"

    def official(self, item: Item, output: str) -> Verdict:
        return by_shown_letter(item, output)


class MathBenchmark(Released):
    """Choices and open questions; accuracy by letter, or by equality of value or text."""

    golds = "either"

    def official(self, item: Item, output: str) -> Verdict:
        if item.extra["letter"]:
            return by_shown_letter(item, output)
        right = any(same_value(output, gold) for gold in golds_of(item))
        return Verdict(float(right), final_answer(output))


def by_shown_letter(item: Item, output: str) -> Verdict:
    """1 for the gold letter; choices that only the image shows are known by their letters."""
    if item.choices:
        return by_letter(item, output)
    known = max(HIDDEN_CHOICES, LETTERS.index(item.answer) + 1)
    said = choice_letter(output, LETTERS[:known])
    return Verdict(float(said == item.answer), said)


def golds_of(item: Item) -> list[str]:
    """The texts that are right answers to an open question."""
    return [item.answer] if isinstance(item.answer, str) else list(item.answer)


def same_value(output: str, gold: str) -> bool:
    """Whether an answer is the gold's text, or has its value where the gold has one.

    Texts are compared without case, articles, spacing and the punctuation around them.
    """
    if _plain(final_answer(output)) == _plain(gold):
        return True
    try:
        return math_equal(output, gold)
    except ValueError:  # a gold that is no mathematics
        return False


def _plain(text: str) -> str:
    words = re.sub(r"\b(?:an?|the)\b", " ", text.casefold()).split()
    return " ".join(words).strip(" .,:;!?\"'`")


# --- fields -----------------------------------------------------------------------------------


def image_refs(row: Row, files: Files) -> tuple[MediaRef, ...]:
    """The record's images. Raises `FieldError` where there are none."""
    paths = list(_paths(row.value.get("image")))
    if not paths:
        raise FieldError("image", "missing or empty", "give a path or a list of paths")
    return tuple(MediaRef("image", files.medium(row.file, path)) for path in paths)


def _paths(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value.strip():
        if re.match(r"(https?|data):", value):
            raise FieldError("image", f"{value!r:.60} is no local file", "download it")
        yield value.strip().removeprefix("file://")
    elif isinstance(value, list):
        for part in value:
            yield from _paths(part)
    elif isinstance(value, dict) and value.get("type") != "text":
        yield from _paths(value.get("image", value.get("content")))
    elif not isinstance(value, str | dict | None):
        raise FieldError("image", f"expected a path, got {value!r:.60}", "give a path")


def gold_texts(row: Row, listed: bool) -> list[str]:
    """The texts of `answer`. Raises `FieldError` where it is empty or no text.

    `listed`: a text that is a Python list of texts stands for all of them.
    """
    value = row.value.get("answer")
    if listed and isinstance(value, str):
        value = literal_list(value.strip()) or value  # an interval is no list: "[0, 1)"
    texts = [_gold(v) for v in (value if isinstance(value, list) else [value])]
    if not texts:
        raise FieldError("answer", "the list is empty", "give the right answer")
    return texts


def _gold(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise FieldError("answer", f"expected a text, got {value!r:.60}", "give the right answer")
    if not str(value).strip() or value != value:
        raise FieldError("answer", "empty", "give the right answer")
    return str(value).strip()


# --- prompts ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chat:
    """A prompt in Qwen's template, read: turns with `CAPTION` in them, and how the reader begins.

    `question` is what stands beside the image's placeholder.
    """

    turns: tuple[dict[str, str], ...]
    prefix: str
    question: str


def parse_chat(prompt: str, images: int) -> Chat:
    """Reads "<|im_start|>user\\n...<|im_end|>\\n<|im_start|>assistant\\n".

    The placeholders stand in turns of the user, one for each image or one for all. The caption,
    which is of all images, takes the first one's place; others say "[image]". Raises `FieldError`.
    """
    turns, prefix = _opened(_turns(prompt))
    for turn in turns:
        _check_tags(_PADS.sub("", turn["content"]))
    if not any(turn["role"] == "user" for turn in turns):
        raise FieldError("prompt", "it has no turn of the user", "give the question")
    places = [(i, m) for i, t in enumerate(turns) for m in _PADS.finditer(t["content"])]
    if not places or any(turns[i]["role"] != "user" for i, _ in places):
        raise FieldError(
            "prompt",
            "no image placeholder in the user's turns, or one in another's",
            "put it where the caption goes",
        )
    pads = sum(place[0].count("<|image_pad|>") for _, place in places)
    if pads not in (1, images):
        raise FieldError(
            "prompt", f"{pads} image placeholders for {images} image(s)", "give one for each"
        )
    for turn in turns[places[0][0] + 1 :]:
        turn["content"] = _PADS.sub(_OTHER_IMAGE, turn["content"])
    (index, place), content = places[0], turns[places[0][0]]["content"]
    before, after = content[: place.start()], _PADS.sub(_OTHER_IMAGE, content[place.end() :])
    turns[index]["content"] = before + CAPTION_TEXT + after
    return Chat(tuple(turns), prefix, (before + after).strip())


def _turns(prompt: str) -> list[tuple[str, str, bool]]:
    """Role, content and whether it is closed, of every turn."""
    turns: list[tuple[str, str, bool]] = []
    at = len(prompt) - len(prompt.lstrip())
    while at < len(prompt):
        match = _TURN.match(prompt, at)
        if match is None or match[1] not in ROLES:
            raise FieldError(
                "prompt",
                f"no turn begins at character {at + 1}: {prompt[at : at + 20]!r}",
                f"expected <|im_start|> and one of {', '.join(ROLES)}",
            )
        if "<|im_start|>" in match[2]:
            raise FieldError("prompt", f"turn {len(turns) + 1} is not closed by <|im_end|>")
        turns.append((match[1], match[2], bool(match[3])))
        at = match.end()
    return turns


def _opened(turns: Sequence[tuple[str, str, bool]]) -> tuple[list[dict[str, str]], str]:
    """The closed turns, and what the assistant's open turn begins with."""
    found = [{"role": role, "content": content} for role, content, _ in turns]
    prefix = ""
    if turns and not turns[-1][2]:
        if turns[-1][0] != "assistant":
            raise FieldError("prompt", f"the last turn is not closed by <|im_end|>: {turns[-1][0]}")
        prefix = found.pop()["content"]
        _check_tags(prefix)
    if found and found[-1]["role"] != "user":
        raise FieldError(
            "prompt",
            f"the last turn before the answer is not the user's: {found[-1]['role']}",
            "end it with the user's turn, or with the assistant's opened",
        )
    return found, prefix if prefix.strip() else ""


def _check_tags(content: str) -> None:
    match = _DAMAGED_TAG.search(content)
    if match:
        raise FieldError("prompt", f"a tag is cut off or out of place: {match[0]!r}")
