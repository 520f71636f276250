"""What clients of an OpenAI-compatible chat endpoint have in common."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import openai


class EndpointConfig(Protocol):
    """The settings of an endpoint; what each means stands in the config that has them."""

    endpoint: str
    model: str
    api_key_env: str
    prefill: bool
    temperature: float
    top_p: float
    max_tokens: int
    timeout_s: float
    retries: int


class Endpoint:
    """How a client is made, what a request says, and how its reply or its failure is read."""

    def __init__(self, config: EndpointConfig) -> None:
        self.config = config
        self.key = os.environ.get(config.api_key_env, "") if config.api_key_env else ""

    def client(self) -> openai.AsyncOpenAI:
        """A client of its own for every event loop. A server of this machine needs no proxy."""
        import openai

        host = urlsplit(self.config.endpoint).hostname or ""
        direct = host == "localhost" or host.startswith("127.") or host == "::1"
        return openai.AsyncOpenAI(
            base_url=self.config.endpoint,
            api_key=self.key or "none",  # without one it would look for OPENAI_API_KEY
            timeout=self.config.timeout_s,
            max_retries=self.config.retries,
            http_client=openai.DefaultAsyncHttpxClient(trust_env=not direct),
        )

    def request(
        self, messages: Sequence[dict[str, Any]], seed: int, opening: str = ""
    ) -> dict[str, Any]:
        """Keyword arguments of `chat.completions.create`; no thinking aloud where it can be told.

        `opening` opens the model's turn, where the server can go on with an opened one.
        """
        import openai

        turn, extra = [], {}
        if self.config.prefill:  # the server is known to take these
            extra = {"chat_template_kwargs": {"enable_thinking": False}}
        if self.config.prefill and opening:
            turn = [{"role": "assistant", "content": opening}]
            extra |= {"add_generation_prompt": False, "continue_final_message": True}
        return {
            "model": self.config.model,
            "messages": [*messages, *turn],
            "temperature": self.config.temperature,
            "top_p": self.config.top_p,
            "max_tokens": self.config.max_tokens,
            "seed": seed % 2**31,
            "extra_headers": None if self.key else {"Authorization": openai.Omit()},
            "extra_body": extra,
        }

    def text(self, reply: Any, opening: str = "") -> str | None:
        """What the model said after `opening`, which some servers repeat; None: no text."""
        choices = getattr(reply, "choices", None)  # a reply that is not a chat's has none
        text = choices[0].message.content if choices else None
        return text.removeprefix(opening) if text and self.config.prefill else text

    @property
    def no_text(self) -> str:
        """The failure of a reply without text."""
        return f"{self.config.endpoint}: the reply has no text"

    def reason(self, error: Exception) -> str:
        """What went wrong, in one line; a server may quote the request, key included."""
        text = " ".join(f"{type(error).__name__}: {error}".split())
        if self.key:
            text = text.replace(self.key, "***")
        return f"{self.config.endpoint}: {text[:500]}"
