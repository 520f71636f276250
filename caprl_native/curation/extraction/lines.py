"""Questions written line by line: a heading, options, an answer; in whatever dress."""

from __future__ import annotations

from caprl_native.curation.extraction import marks
from caprl_native.curation.extraction.marks import Label
from caprl_native.curation.extraction.raw import RawQuestion, shortened

MOST = 100  # questions that are read of an output
_MOST_LINES, _MOST_OPTIONS = 20_000, 40


def read_lines(text: str) -> list[RawQuestion]:
    """The questions of an output, in order; more than `MOST` are cut off with one more."""
    reader = _Reader(marks.lines_of(text))
    return reader.read()


class _Reader:
    """What was read of a question so far.

    `text`: lines that are or may become its text; `raw`: it, once its options have begun.
    """

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self.found: list[RawQuestion] = []
        self.raw: RawQuestion | None = None
        self.text: list[str] = []
        self.number: int | None = None
        self.start = 0
        self.headed = self.gap = self.awaiting = self.in_key = False

    def read(self) -> list[RawQuestion]:
        for i, line in enumerate(self.lines[:_MOST_LINES]):
            if len(self.found) > MOST:
                break
            if line.strip():
                self._take(i, line)
            else:
                self.gap = True
        self._end(len(self.lines))
        return self.found

    def _take(self, i: int, original: str) -> None:
        line = marks.cleaned(original)
        if not line or marks.is_table_rule(original):
            self.gap = True
        elif marks.is_separator(original):
            self._rule(i)
        elif not (self._key(line) or self._answer(i, line)):
            self._other(i, line)
            self.gap = False

    def _rule(self, i: int) -> None:
        if self.raw:
            self.raw.is_closed = True
            self._end(i)
        self.gap = True

    # --- answers ------------------------------------------------------------------------------

    def _key(self, line: str) -> bool:
        """A line of a list of answers: "1. B"."""
        if not (self.awaiting or self.in_key):
            return False
        pairs = marks.key_pairs(line)
        if not pairs and self.in_key:
            head = marks.heading(line)
            pairs = [(head.number, head.rest)] if head and head.number and head.rest else []
        if not pairs:
            self.in_key = self.in_key and not marks.heading(line)
            return False
        self._note_key(pairs)
        return True

    def _note_key(self, pairs: list[tuple[int, str]]) -> None:
        self.in_key, self.awaiting = True, False
        known = [*self.found, *([self.raw] if self.raw else [])]
        by_number = {raw.number or place + 1: raw for place, raw in enumerate(known)}
        for number, answer in pairs:
            if (raw := by_number.get(number)) and not raw.answers:
                raw.answers.append(answer)
                raw.is_closed = True

    def _answer(self, i: int, line: str) -> bool:
        if self.awaiting and self.raw and not marks.heading(line):
            self.raw.answers.append(line)
            self.awaiting = False
            return True
        said = marks.answer_line(line)
        if said is None or not (self.raw or self.headed or self.found):
            return False
        if said.for_all and (pairs := marks.key_pairs(said.value)):
            self._note_key(pairs)
        elif not said.value and said.for_all and (self.raw is None or self.raw.answers):
            self.in_key = bool(self.raw or self.found)
        elif not said.value:
            self.awaiting = True
            self.in_key = "s" in line[-2:].lower() or "key" in line.lower()
        else:
            self._note(i, said.value)
        return True

    def _note(self, i: int, answer: str) -> None:
        if self.raw is None and self.headed:
            self._begin(i)
        if self.raw:
            self.raw.answers.append(answer)

    # --- questions and options ----------------------------------------------------------------

    def _other(self, i: int, line: str) -> None:
        rest = marks.without_options_word(line)
        if rest is not None and (self.text or self.raw):
            if not rest:
                return
            line = rest
        if self._option(i, line):
            return
        if head := marks.heading(line):
            self._heading(i, head)
        elif marks.EXPLANATION.match(line):
            if self.raw and self.raw.answers:
                self.raw.is_closed = True
        else:
            self._plain(i, line)

    def _heading(self, i: int, head: marks.Heading) -> None:
        self.awaiting = self.in_key = False
        if self.raw or self.headed:
            if self.raw and self.raw.answers:
                self.raw.is_closed = True
            self._end(i)
        self.headed, self.number, self.start = True, head.number, i
        before, options = marks.options_in(head.rest)
        self.text = [before] if before else []
        if options and before:
            self._begin(i)
            self._add_all(options)

    def _option(self, i: int, line: str) -> bool:
        label = marks.label(line)
        if label is None:
            return False
        if self.raw and self.raw.answers:
            if label.letter != "A" or not self.text:
                return False
            self.raw.is_closed = True
            self._end(i, keep_text=True)
        elif self.raw and label.letter == "A" and self.text:
            self._end(i, keep_text=True)
        if self.raw is None:
            if label.letter != "A" or not (self.text or self.headed):
                return False
            self._begin(i)
        _, several = marks.options_in(line, label.letter, label.style)
        self._add_all(several or [label])
        return True

    def _begin(self, i: int) -> None:
        self.raw = RawQuestion(" ".join(self.text).strip(), self.start + 1, number=self.number)
        self.text = []

    def _add_all(self, labels: list[Label]) -> None:
        assert self.raw is not None
        last = labels[-1]
        if found := marks.TRAILING_ANSWER.search(last.rest):
            labels = [*labels[:-1], last._replace(rest=last.rest[: found.start()].strip())]
            value = last.rest[found.end() :].strip().rstrip(")]\uff09\u3011").strip()
            self.raw.answers += [value] if value else []
            self.awaiting = not value
        for label in labels:
            self._add(self.raw, label)

    @staticmethod
    def _add(raw: RawQuestion, label: Label) -> None:
        if len(raw.choices) == _MOST_OPTIONS:
            return
        raw.in_order &= ord(label.letter) - ord("A") == len(raw.choices)
        text, is_right = marks.unmarked(label.rest)
        raw.marked += [len(raw.choices)] if is_right else []
        raw.choices.append(text)

    def _plain(self, i: int, line: str) -> None:
        raw = self.raw
        if raw and not raw.answers and not self.gap and raw.choices:
            text, is_right = marks.unmarked(f"{raw.choices[-1]} {line}")
            raw.choices[-1] = text
            raw.marked += [len(raw.choices) - 1] if is_right else []
            return
        if raw and raw.answers:
            raw.is_closed = True
        if not self.headed and (self.gap or not self.text):
            self.text = []
            self._next_start = i
            self.start = i if raw is None else self.start
        before, options = marks.options_in(line) if not (raw and raw.choices) else (line, [])
        if (raw and raw.answers) and (parts := marks.options_in(line))[1]:
            self._end(i)
            self.start, (before, options) = i, parts
        self.text.append(before)
        if options and before:
            self._begin(i)
            self._add_all(options)

    # --- the end of a question ----------------------------------------------------------------

    def _end(self, i: int, keep_text: bool = False) -> None:
        """What was read becomes a question; one that has a heading alone, too."""
        raw = self.raw
        if raw is None and self.headed:
            raw = RawQuestion(" ".join(self.text).strip(), self.start + 1, number=self.number)
        if raw:
            raw.text = shortened("\n".join(self.lines[raw.line - 1 : min(i, raw.line + 40)]))
            self.found.append(raw)
        self.raw, self.number, self.headed, self.awaiting = None, None, False, False
        if keep_text:
            self.start = self._next_start
        else:
            self.text = []

    _next_start = 0
