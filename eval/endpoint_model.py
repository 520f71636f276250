"""A model behind an OpenAI-compatible chat endpoint."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from caprl_native.config import MediaConfig
from caprl_native.data.media import DecodedImage, MediaError
from caprl_native.endpoint import Endpoint
from caprl_native.types import MediaRef
from eval.config import CaptionerConfig, ModelConfig
from eval.models import Decoded, Picture, Request, Result, decoded_media, failed
from eval.store import Reply


class EndpointModel:
    """An OpenAI-compatible chat server. Failed requests are tried again, with growing pauses."""

    def __init__(self, config: ModelConfig, media: MediaConfig) -> None:
        import openai

        self.config, self.media = config, media
        self.video_as = config.video_as if isinstance(config, CaptionerConfig) else "frames"
        self.server = Endpoint(config)
        self.client = openai.OpenAI(**self.server.client_options())

    def complete(self, requests: Iterable[Request]) -> Iterator[Result]:
        coming = iter(requests)
        running: set[Future[list[Result]]] = set()
        with ThreadPoolExecutor(self.config.concurrency, "endpoint") as pool:
            try:
                while True:
                    for request in islice(coming, self.config.concurrency - len(running)):
                        running.add(pool.submit(self._results, request))
                    if not running:
                        return
                    ended, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in ended:
                        yield from future.result()
            finally:
                for future in running:
                    future.cancel()

    def _results(self, request: Request) -> list[Result]:
        try:
            messages, pictures = self._messages(request)
        except MediaError as error:
            return list(failed(request, f"media: {error}"))
        return [
            Result(key, self._reply(messages, request.seed + i, request.prefix), pictures)
            for i, key in enumerate(request.keys)
        ]

    def _messages(self, request: Request) -> tuple[list[dict[str, Any]], tuple[Picture, ...]]:
        """The chat with its media as data URLs, and what the report shows of them."""
        if not request.media:
            return list(request.messages), ()
        decoded, pictures = decoded_media(request, self.media)
        media = [self._parts(d, medium) for d, medium in zip(decoded, request.media, strict=True)]
        return _with_media(request.messages, media), pictures

    def _parts(self, decoded: Decoded, medium: MediaRef) -> list[dict[str, Any]]:
        if isinstance(decoded, DecodedImage):
            return [_image_part(decoded.image, "PNG")]
        whole = medium.start is None and medium.end is None and medium.fps is None
        if self.video_as == "file" and whole and medium.path:
            data = base64.b64encode(Path(medium.path).read_bytes()).decode()
            return [{"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{data}"}}]
        frames = zip(decoded.timestamps, decoded.frames, strict=True)
        return [
            part
            for seconds, frame in frames
            for part in (
                {"type": "text", "text": f"<{seconds:.1f} seconds>"},
                _image_part(Image.fromarray(frame), "JPEG"),
            )
        ]

    def _reply(self, messages: list[dict[str, Any]], seed: int, opening: str) -> Reply:
        import openai

        try:
            reply = self.client.chat.completions.create(
                **self.server.request(messages, seed, opening)
            )
        except (openai.OpenAIError, ValueError) as error:  # ValueError: a reply that is not JSON
            return Reply(failure=self.server.reason(error))
        text = self.server.text(reply, opening)
        if text is None:
            return Reply(failure=self.server.no_text)
        usage = getattr(reply, "usage", None)
        tokens = usage.completion_tokens if usage else None
        return Reply(text.strip(), tokens, reply.choices[0].finish_reason)

    def close(self) -> None:
        self.client.close()


def _image_part(image: Image.Image, kind: Literal["PNG", "JPEG"]) -> dict[str, Any]:
    file = io.BytesIO()
    image.save(file, kind, quality=90)
    data = base64.b64encode(file.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind.lower()};base64,{data}"}}


def _with_media(
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
