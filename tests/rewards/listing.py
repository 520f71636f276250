"""Replies of an endpoint that list the likeliest first tokens."""

from __future__ import annotations

import json
import math

from caprl_native.testing.chat_server import Reply


def listing(chances: dict[str, float]) -> Reply:
    """A reply as OpenAI and vLLM write it."""
    top = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in chances.items()]
    first = {**top[0], "top_logprobs": top}
    message = {"role": "assistant", "content": ""}
    choice = {"index": 0, "message": message, "finish_reason": "length"}
    return Reply(
        raw=json.dumps({"choices": [choice | {"logprobs": {"content": [first]}}]}).encode()
    )
