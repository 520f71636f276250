"""A model behind an OpenAI-compatible chat endpoint."""

from __future__ import annotations

import asyncio
import base64
import io
import mimetypes
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from caprl_native.config.media import MediaConfig
from caprl_native.config.models import ModelConfig, VisionModelConfig
from caprl_native.data.media import DecodedImage, decode
from caprl_native.inference.endpoint_pool import Connections, servers_of
from caprl_native.inference.models import (
    Decoded,
    Drawn,
    Picture,
    Request,
    Result,
    pictures_of,
    unprepared,
)
from caprl_native.inference.recent import Recent
from caprl_native.inference.store import Reply
from caprl_native.text.control_tokens import without_control_tokens
from caprl_native.types import MediaRef


class EndpointModel:
    """An OpenAI-compatible chat server. Failed requests are tried again, with growing pauses."""

    def __init__(self, config: ModelConfig, media: MediaConfig) -> None:
        self.config, self.media = config, media
        seeing = config if isinstance(config, VisionModelConfig) else VisionModelConfig()
        self.video_as, self.workers = seeing.video_as, seeing.workers
        self.servers = servers_of(config)
        self._encoded = Recent(self._parts, self.workers)

    def complete(self, requests: Iterable[Request | None]) -> Iterator[Result]:
        """Left early, by Ctrl-C or otherwise, it drops what is in flight and does not wait."""
        coming = iter(requests)
        replies: set[asyncio.Task[Result]] = set()
        with asyncio.Runner() as runner:
            calls = _Calls(self, runner.get_loop())
            try:
                while True:
                    while len(replies) < self.config.concurrency and (
                        request := next(coming, None)
                    ):
                        replies |= calls.begin(request)
                    if not replies:
                        return
                    ended, replies = runner.run(_first_of(replies))
                    for reply in ended:
                        yield reply.result()
            finally:
                runner.run(calls.close())

    def messages(self, request: Request) -> tuple[list[dict[str, Any]], tuple[Picture, ...]]:
        """The chat with its media as data URLs, and what the report shows of them.

        Raises `MediaError`.
        """
        decoded, parts = self._encoded.of(request)
        return with_media(request.messages, parts), pictures_of(request, decoded)

    def _parts(self, request: Request) -> tuple[list[Decoded], list[list[dict[str, Any]]]]:
        """The media as pixels, and in the protocol's form."""
        decoded = decode(request.sample, self.media)
        pairs = zip(decoded, request.media, strict=True)
        return decoded, [media_parts(d, medium, self.video_as) for d, medium in pairs]

    def close(self) -> None:
        """Every call of `complete` has a client of its own, which ends with it."""


Chat = tuple[list[dict[str, Any]], tuple[Picture, ...]]


class _Calls:
    """What one event loop has under way: chats being made, replies being waited for."""

    def __init__(self, model: EndpointModel, loop: asyncio.AbstractEventLoop) -> None:
        self.model, self.loop = model, loop
        self._connections: dict[Drawn | None, Connections] = {None: Connections(model.servers)}
        self._decoding = asyncio.Semaphore(model.workers)
        self._in_flight = asyncio.Semaphore(model.config.concurrency)

    def begin(self, request: Request) -> set[asyncio.Task[Result]]:
        """A task for each of its replies; its media are decoded once for all."""
        chat = self.loop.create_task(self._chat(request))
        numbers = range(len(request.keys))
        return {self.loop.create_task(self._result(chat, request, i)) for i in numbers}

    def _connection(self, drawn: Drawn | None) -> Connections:
        """The servers, told to draw tokens like this."""
        if drawn not in self._connections:
            config = self.model.config.replace(**vars(drawn))
            self._connections[drawn] = Connections(servers_of(config))
        return self._connections[drawn]

    async def close(self) -> None:
        for connection in self._connections.values():
            await connection.close()

    async def _chat(self, request: Request) -> Chat | str:
        if not request.media:
            return without_control_tokens(request.messages), ()
        async with self._decoding:
            return await asyncio.to_thread(self._messages, request)

    def _messages(self, request: Request) -> Chat | str:
        """The chat, or why there is none. (A future that gets a StopIteration never ends.)"""
        try:
            return self.model.messages(request)
        except Exception as error:
            return unprepared(error)

    async def _result(
        self, chat: asyncio.Task[Chat | str], request: Request, number: int
    ) -> Result:
        key = request.keys[number]
        prepared = await chat
        if isinstance(prepared, str):
            return Result(key, Reply(failure=prepared))
        messages, pictures = prepared
        async with self._in_flight:
            connection = self._connection(request.drawn)
            said = await connection.ask(messages, request.seed + number, request.prefix)
        text = None if said.text is None else said.text.strip()
        failure = f"refused: {said.failure}" if said.refused else said.failure
        return Result(key, Reply(text, said.tokens, said.finish, failure), pictures)


async def _first_of(
    tasks: set[asyncio.Task[Result]],
) -> tuple[set[asyncio.Task[Result]], set[asyncio.Task[Result]]]:
    """The tasks that have ended, at least one, and the others."""
    return await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


def media_parts(
    decoded: Decoded, medium: MediaRef, video_as: Literal["frames", "file"]
) -> list[dict[str, Any]]:
    """A medium in the protocol's form: an image, a video's frames with their times, or its file
    (of clips and of folders of frames the frames all the same)."""
    if isinstance(decoded, DecodedImage):
        return [_image_part(decoded.image, "PNG")]
    whole = medium.start is None and medium.end is None and medium.fps is None
    if video_as == "file" and whole and medium.path and Path(medium.path).is_file():
        kind = mimetypes.guess_type(medium.path)[0] or "video/mp4"
        url = _data_url(kind, Path(medium.path).read_bytes())
        return [{"type": "video_url", "video_url": {"url": url}}]
    frames = zip(decoded.timestamps, decoded.frames, strict=True)
    return [
        part
        for seconds, frame in frames
        for part in (
            {"type": "text", "text": f"<{seconds:.1f} seconds>"},
            _image_part(Image.fromarray(frame), "JPEG"),
        )
    ]


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _image_part(image: Image.Image, kind: Literal["PNG", "JPEG"]) -> dict[str, Any]:
    file = io.BytesIO()
    image.save(file, kind, quality=90)
    url = _data_url(f"image/{kind.lower()}", file.getvalue())
    return {"type": "image_url", "image_url": {"url": url}}


def with_media(
    messages: Sequence[dict[str, Any]], media: Sequence[list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """The chat with its media parts, in order, replaced by those of the protocol."""
    left = iter(media)
    return [
        {
            "role": turn["role"],
            "content": [
                part
                for given in turn["content"]
                for part in ([given] if given["type"] == "text" else next(left))
            ],
        }
        for turn in messages
    ]
