"""Conversations cut at their answers: the same tokens, what is learnt of them, where they end."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from caprl_native.data.loader import SampleSkipped
from caprl_native.policy.examples import ExampleBuilder, chat_tokens
from caprl_native.policy.exchanges import TurnsChange, asked_of
from caprl_native.policy.packing import ASSISTANT, NOBODY, OTHERS, PackedRow
from caprl_native.policy.prompt import PromptBuilder
from caprl_native.testing.samples import MEDIA, noise_image, noise_video
from caprl_native.testing.tiny_models import build_tokenizer, chat_template
from caprl_native.types import MediaRef, Sample

SAID = ["a picture", "it is the image", "the video"]


def conversation(kinds: list[str | None]) -> tuple[Sample, list]:
    """A question for each kind, with a medium of that kind; the last answer is to be learnt."""
    messages, media, decoded = [], [], []
    for i, kind in enumerate(kinds):
        parts = [{"type": "text", "text": "What is it?"}]
        if kind:
            parts.insert(0, {"type": kind})
            media.append(MediaRef(kind, f"{i}"))
            decoded.append(noise_image(i) if kind == "image" else noise_video(i, 4, (64, 64)))
        messages.append({"role": "user", "content": parts})
        said = [{"type": "text", "text": SAID[i]}]
        messages.append({"role": "assistant", "content": said})
    response = SAID[len(kinds) - 1]
    return Sample("s", tuple(media), tuple(messages[:-1]), response=response), decoded


def row(path: Path, kinds: list[str | None], **options: object) -> PackedRow:
    builder = ExampleBuilder(PromptBuilder(str(path), MEDIA), **options)
    return builder(*conversation(kinds))


def scored_text(path: Path, row: PackedRow, speaker: int) -> str:
    from transformers import AutoTokenizer

    assert row.scored is not None
    text = AutoTokenizer.from_pretrained(path).decode(row.prompt.ids[row.scored == speaker])
    return text.replace("<|im_end|>", " <|im_end|>")


@pytest.mark.parametrize("model", ["tiny_policy", "tiny_policy_2_5"])
def test_a_conversation_is_what_it_would_be_as_one_prompt(model, request) -> None:
    """Tokens, media, patches and positions, with media in several turns and of both kinds."""
    from caprl_native.policy.model import load_hf

    path: Path = request.getfixturevalue(model)
    sample, decoded = conversation(["image", "video", "image"])
    whole = PromptBuilder(str(path), MEDIA)(sample, decoded)
    ours = row(path, ["image", "video", "image"]).prompt
    assert torch.equal(ours.ids, whole.ids) and torch.equal(ours.token_types, whole.token_types)
    assert ours.media and whole.media and ours.media.keys() == whole.media.keys()
    assert all(torch.equal(ours.media[k], whole.media[k]) for k in whole.media)
    assert (ours.num_patches, ours.patch_pairs) == (whole.num_patches, whole.patch_pairs)
    from caprl_native.policy.families import family_of

    config, family = load_hf(path, empty=True).config, family_of(path)  # type: ignore[attr-defined]
    assert torch.equal(family.positions(config, ours), family.positions(config, whole))


def test_every_answer_is_learnt_with_its_end_and_nothing_else(tiny_policy: Path) -> None:
    learnt = row(tiny_policy, ["image", None, None], loss_on="assistant")
    said = scored_text(tiny_policy, learnt, ASSISTANT)
    assert said.split() == ["a", "picture", "<|im_end|>", "it", "is", "the", "image", "<|im_end|>"]
    assert not (learnt.scored == OTHERS).any()
    last = row(tiny_policy, ["image", None, None], loss_on="response")
    assert (last.scored == NOBODY).all() and last.responses == learnt.responses
    every = row(tiny_policy, ["image", None, None], loss_on="all")
    assert scored_text(tiny_policy, every, ASSISTANT) == said
    assert every.scored is not None
    assert torch.equal(every.scored == NOBODY, every.prompt.token_types > 0)


def test_a_long_conversation_ends_at_the_last_answer_that_fits(tiny_policy: Path) -> None:
    kinds = ["image", None, "image"]
    parts = [len(row(tiny_policy, kinds[:n])) for n in (1, 2, 3)]
    for limit, count in ((parts[2], 3), (parts[2] - 1, 2), (parts[1], 2), (parts[1] - 1, 1)):
        cut, short = row(tiny_policy, kinds, max_tokens=limit), row(tiny_policy, kinds[:count])
        assert cut.was_cut == (count < 3)
        assert torch.equal(cut.prompt.ids, short.prompt.ids) and cut.responses == short.responses
        assert torch.equal(cut.scored, short.scored)  # type: ignore[arg-type]
        assert torch.equal(cut.prompt.media["grid"], short.prompt.media["grid"])  # type: ignore[index]
    with pytest.raises(SampleSkipped, match=f"ends at token {parts[0]}, data.max_tokens is"):
        row(tiny_policy, kinds, max_tokens=parts[0] - 1)


def test_media_that_are_reduced_leave_the_turns_where_they_are(tiny_policy: Path) -> None:
    sample, _ = conversation(["image", "image"])
    decoded = [noise_image(i, (256, 256)) for i in range(2)]
    full = ExampleBuilder(PromptBuilder(str(tiny_policy), MEDIA))(sample, decoded)
    limit = len(full.prompt) - 20
    small = ExampleBuilder(PromptBuilder(str(tiny_policy), MEDIA, limit))(sample, decoded)
    assert small.reduced_from == len(full.prompt) and len(small.prompt) <= limit
    same = [scored_text(tiny_policy, r, ASSISTANT) for r in (full, small)]
    assert same[0] == same[1] != ""


def test_a_template_that_takes_back_what_it_wrote_is_refused(tiny_reader: Path) -> None:
    """As those do that leave thoughts out of earlier turns."""
    tokenizer = build_tokenizer()
    changing = "{% if m.role == 'assistant' and loop.last %}the {% endif %}"
    tokenizer.chat_template = chat_template().replace("{{ m.role }}\n", "{{ m.role }}\n" + changing)
    sample, _ = conversation([None, None])
    plain = [{**m, "content": m["content"][0]["text"]} for m in sample.messages]
    with pytest.raises(TurnsChange, match="loss_on"):
        chat_tokens(tokenizer, plain)


def test_what_follows_an_end_of_turn_is_asked() -> None:
    turns = [{"role": r, "content": [{"type": "text"}]} for r in ("user", "assistant", "user")]
    texts = ["", "U:q|", "U:q|A:a.|\n", "U:q|A:a.|\nU:q|"]

    def render(count: int, opened: bool) -> str:
        return texts[count] + ("A:" if opened else "")

    first, last = asked_of(turns, render, "|")
    assert (first.text, last.before, last.text) == ("U:q|A:", "a.|", "\nU:q|A:")


def test_a_text_models_samples_are_read_alike(tiny_reader: Path) -> None:
    sample, _ = conversation([None, None])
    ours = ExampleBuilder(PromptBuilder(str(tiny_reader), MEDIA), max_tokens=10**6)(sample, [])
    assert scored_text(tiny_reader, ours, ASSISTANT).split() == ["a", "picture", "<|im_end|>"]
    with pytest.raises(SampleSkipped, match=r"data\.max_prompt_tokens"):
        ExampleBuilder(PromptBuilder(str(tiny_reader), MEDIA, 5))(sample, [])
    marked = dataclasses.replace(sample, response="<|im_end|>")
    with pytest.raises(SampleSkipped, match="a mark of the model's own"):
        ExampleBuilder(PromptBuilder(str(tiny_reader), MEDIA))(marked, [])
