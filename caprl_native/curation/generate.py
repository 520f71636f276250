"""Stage 1: a vision-language model writes questions about each image or video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from caprl_native.config.media import MediaConfig
from caprl_native.curation.config import WriterConfig
from caprl_native.curation.identity import media_key, seeing_identity
from caprl_native.curation.prompts import VERSION, writer_messages
from caprl_native.data.listing import Entry
from caprl_native.inference.jobs.task import Outcome, Task
from caprl_native.inference.models import Request
from caprl_native.inference.store import Reply
from caprl_native.seeds import seed_of

KEY = "0"


class Write(Task):
    """One request per input; equal files are asked about once.

    Its record: `output`, `finish_reason`, `seed`.
    """

    def __init__(self, writer: WriterConfig, media: MediaConfig, seed: int) -> None:
        self.writer, self.media, self.seed = writer, media, seed
        self._identity = ["write", VERSION, *seeing_identity(writer, media), seed]
        self._identity += [writer.questions, writer.choices, writer.time_share]

    @property
    def identity(self) -> list[Any]:
        return self._identity

    def content(self, entry: Entry) -> str:
        return media_key(entry.media)

    def requests(self, entry: Entry) -> Sequence[Request]:
        w = self.writer
        messages = writer_messages(entry.media, w.questions, w.choices, w.time_share)
        return [Request((KEY,), messages, self._seed(entry), entry.id, entry.media)]

    def _seed(self, entry: Entry) -> int:
        """Of what the media show, so that a file's name does not matter."""
        return seed_of("curation", "write", self.seed, media_key(entry.media))

    def finish(self, entry: Entry, replies: Mapping[str, Reply]) -> Outcome:
        reply = replies[KEY]
        if reply.failure or reply.text is None:
            return Outcome(failure=reply.failure or "the writer wrote nothing")
        record = {"output": reply.text, "finish_reason": reply.finish, "seed": self._seed(entry)}
        counts = {"tokens": reply.tokens or 0, "outputs cut off": int(reply.finish == "length")}
        return Outcome(record, counts={name: count for name, count in counts.items() if count})
