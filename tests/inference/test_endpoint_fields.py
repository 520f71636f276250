"""What a server refuses or does not know: requests do without it, and say so."""

from __future__ import annotations

import json

import pytest

from caprl_native.inference.endpoint import refused_fields
from caprl_native.testing.chat_server import Reply, Request, serve
from tests.endpoint_replies import CHAT, asked, endpoint

NEW_MODEL = "Unsupported parameter: 'max_tokens' is not supported with this model. " \
    "Use 'max_completion_tokens' instead."  # fmt: skip
GREEDY = "Unsupported value: 'temperature' does not support 0.6 with this model. " \
    "Only the default (1) value is supported."  # fmt: skip


class Particular:
    """Refuses requests with certain fields, one field at a time, in a service's own words."""

    def __init__(self, **refusals: str) -> None:
        self.refusals = refusals

    def __call__(self, request: Request) -> Reply:
        for field, said in self.refusals.items():
            if field in request:
                error = {"message": said, "type": "invalid_request_error", "param": None}
                return Reply(status=400, raw=json.dumps({"error": error}).encode())
        return Reply(" A")


PREFILL = ("chat_template_kwargs", "add_generation_prompt", "continue_final_message")


@pytest.mark.parametrize(
    ("refusals", "gone"),
    [
        ({"chat_template_kwargs": "Unrecognized request argument supplied: chat_template_kwargs"},
         PREFILL),
        ({"continue_final_message": "Unknown parameter: 'continue_final_message'."}, PREFILL),
        ({"chat_template_kwargs": "Extra inputs are not permitted"}, PREFILL),
        ({"max_tokens": NEW_MODEL}, ("max_tokens",)),
        ({"temperature": GREEDY}, ("temperature",)),
        ({"seed": 'Invalid JSON payload received. Unknown name "seed": Cannot find field.'},
         ("seed",)),
        ({"top_p": "`temperature` and `top_p` cannot both be specified for this model."},
         ("top_p",)),
        ({"chat_template_kwargs": "Unrecognized request argument: chat_template_kwargs",
          "max_tokens": NEW_MODEL, "temperature": GREEDY, "seed": "seed is not supported"},
         (*PREFILL, "max_tokens", "temperature", "seed")),
    ],
)  # fmt: skip
def test_a_server_that_refuses_a_field_is_asked_without_it(
    refusals: dict[str, str], gone: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    with serve(Particular(**refusals)) as server:
        ours = endpoint(server.url)
        first = asked(ours, 6, opening="The answer is")
        asked_before = len(server.requests)
        second = asked(ours, 6, opening="The answer is")
    assert [said.text for said in first + second] == [" A"] * 12  # none counts as failed
    assert len(server.requests) == asked_before + 6  # learnt once for all
    last = server.requests[-1]
    assert not set(gone) & last.keys()
    kept = {*PREFILL, "max_tokens", "temperature", "top_p", "seed"} - set(gone)
    assert kept <= last.keys()
    assert ("max_completion_tokens" in last) == ("max_tokens" in gone)
    assert last["messages"] == (
        CHAT if PREFILL[0] in gone else [*CHAT, {"role": "assistant", "content": "The answer is"}]
    )
    assert len([r for r in caplog.records if "does not take" in r.getMessage()]) == len(refusals)


def test_a_server_that_takes_no_opened_turn_is_asked_without_one() -> None:
    def strict(request: Request) -> Reply:
        if request["messages"][-1]["role"] == "assistant":
            said = {"message": "Expected last role User or Tool for serving but got assistant"}
            return Reply(status=422, raw=json.dumps(said).encode())
        return Reply(" A")

    with serve(strict) as server:
        ours = endpoint(server.url)
        assert asked(ours)[0].text == " A"  # no opening, no refusal: its other fields are known
        assert asked(ours, opening="The answer is")[0].text == " A"


@pytest.mark.parametrize(
    "said",
    [
        "'max_tokens' or 'max_completion_tokens' is too large: 9999. This model's maximum context "
        "length is 4096 tokens and your request has 10 input tokens",
        "temperature must be between 0 and 2",
        "The model `reader` does not exist",
        "Image is too large",
        "",
    ],
)
def test_other_refusals_change_nothing(said: str) -> None:
    fields = frozenset({*PREFILL, "max_tokens", "temperature", "top_p", "seed"})
    assert refused_fields(json.dumps({"error": {"message": said}}), fields) == set()
    with serve(Particular(max_tokens=said)) as server:
        (failed,) = asked(endpoint(server.url))
    assert failed.text is None and len(server.requests) == 1
