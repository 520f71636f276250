"""The released CapRL evaluation files: broken records, prompts in Qwen's template, choices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from caprl_native.testing.media_files import write_png
from eval.benchmarks import benchmarks
from eval.benchmarks.base import Files
from eval.benchmarks.options import parse_options
from eval.benchmarks.released import parse_chat
from eval.items import CAPTION
from tests.eval.benchmark_files import qwen_prompt, read

PROMPT = qwen_prompt("Which?\nA. one\nB. two")
BAD_RELEASED = [
    ("mmstar", {"image": None}, "image: missing"),
    ("mmstar", {"image": 3}, "image: expected a path, got 3"),
    ("mmstar", {"image": "https://example.org/a.png"}, "is no local file; download it"),
    ("mmstar", {"prompt": None}, "prompt: missing"),
    ("mmstar", {"prompt": "Which?"}, "prompt: no turn begins at character 1: 'Which?'"),
    ("mmstar", {"prompt": PROMPT.replace("<|im_end|>\n<|im_start|>user", "<|im_start|>user")},
     "turn 1 is not closed by <|im_end|>"),
    ("mmstar", {"prompt": PROMPT[: PROMPT.index("<|im_end|>\n<|im_start|>assistant")]},
     "the last turn is not closed"),
    ("mmstar", {"prompt": PROMPT.replace("user", "reader")}, "no turn begins"),
    ("mmstar", {"prompt": PROMPT[: PROMPT.index("<|im_start|>user")]}, "not the user's: system"),
    ("mmstar", {"prompt": "<|im_start|>assistant\n"}, "it has no turn of the user"),
    ("mmstar", {"prompt": PROMPT + "It is B.<|im_end|>\n"}, "not the user's: assistant"),
    ("mmstar", {"prompt": qwen_prompt("Which?", pads=0)}, "no image placeholder in the user's"),
    ("mmstar", {"prompt": qwen_prompt("Which?", pads=2)}, "2 image placeholders for 1 image(s)"),
    ("mmstar", {"prompt": PROMPT.replace("Which?", "<|vision_start|><|image_pad|><|vision_end|>")
                                .replace("<|vision_end|><|vis", "<|vision_end|>or<|vis")},
     "2 image placeholders for 1 image(s)"),
    ("mmstar", {"prompt": PROMPT.replace("<|vision_end|>", "")}, "place: '<|vision_start|>'"),
    ("mmstar", {"prompt": PROMPT.replace("B. two", "B. two <|im_en")}, "out of place: '<|im_en'"),
    ("mmstar", {"answer": ""}, "answer: empty"),
    ("mmstar", {"answer": None}, "answer: expected a text, got None"),
    ("mmstar", {"answer": []}, "answer: the list is empty"),
    ("mmstar", {"answer": "E"}, "answer: E is no choice; give a letter from A to B"),
    ("mmstar", {"answer": "two"}, "answer: ['two'] is no letter"),
    ("mathvision", {"answer": "C"}, "answer: C is no choice"),
    ("chartqapro", {"question_type": "Riddle"}, "question_type: 'Riddle' is none; one of Factoid"),
    ("chartqapro", {"Year": ["1999"]}, "year: ['1999'] is no flag; give YES or NO"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "reason"), BAD_RELEASED)
def test_a_broken_record_is_named_and_the_others_stay(tmp_path, name, change, reason):
    write_png(tmp_path / "a.png")
    good = {"image": "a.png", "prompt": PROMPT, "answer": "B"}
    file = tmp_path / "f.json"
    file.write_text(json.dumps([good, good | change, good]))
    items, (broken,) = read(name, Files((file,), None))
    assert [i.id for i in items] == ["f:1", "f:3"]
    assert broken.source == f"{file}:2" and reason in broken.reason


def test_a_malformed_line_does_not_take_the_others_along(tmp_path):
    write_png(tmp_path / "a.png")
    good = json.dumps({"image": "a.png", "prompt": PROMPT, "answer": "B"})
    file = tmp_path / "f.jsonl"
    file.write_text(f"{good}\n{good[:-9]}\n[]\n{good}\n")
    items, broken = read("mmstar", Files((file,), None))
    assert [i.id for i in items] == ["f:1", "f:4"]
    assert [b.source for b in broken] == [f"{file}:2", f"{file}:3"]
    assert "malformed JSON" in broken[0].reason and "expected an object" in broken[1].reason


@pytest.mark.parametrize("opened", ["", "<think>\n"])
def test_turns_put_back_into_the_template_are_the_references_prompt(opened):
    prompt = qwen_prompt(" What is it?\n\n(A) x ", opened)
    chat = parse_chat(prompt, 1)
    back = "".join(f"<|im_start|>{t['role']}\n{t['content']}<|im_end|>\n" for t in chat.turns)
    back += f"<|im_start|>assistant\n{chat.prefix}"
    pad = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"
    said = (
        f"<|im_start|>user\nHere is a detailed caption of an image: {CAPTION}. "
        "Please answer the question based on the caption."
    )
    assert back == prompt.replace(pad, said)
    assert chat.question == "What is it?\n\n(A) x" and chat.prefix == opened


def test_the_opened_turn_opens_the_readers(tmp_path):
    write_png(tmp_path / "a.png")
    record = {"image": "a.png", "prompt": qwen_prompt("Q?", "<think>\n"), "answer": "1"}
    (tmp_path / "f.json").write_text(json.dumps([record]))
    (item,), _ = read("chartqa", Files((tmp_path / "f.json",), None))
    assert benchmarks()["chartqa"].prefix(item) == "<think>\n"


def test_several_images_share_a_caption(tmp_path):
    paths = [write_png(tmp_path / f"{i}.png").name for i in range(2)]
    message = {"role": "user", "content": [{"type": "image", "image": p} for p in paths]}
    records = [
        {"image": image, "prompt": qwen_prompt("Q?\nA. 1\nB. 2", pads=pads), "answer": "A"}
        for image, pads in ((paths, 1), (paths, 2), ([message], 2))
    ]
    (tmp_path / "f.json").write_text(json.dumps(records))
    items, broken = read("mmmu", Files((tmp_path / "f.json",), None))
    assert not broken and [i.chat for i in items] == [items[0].chat] * 3
    assert all([Path(m.path).name for m in i.media] == paths for i in items)


def test_images_in_the_midst_of_a_question_leave_their_place(tmp_path):
    pad = "<|vision_start|><|image_pad|><|vision_end|>"
    prompt = qwen_prompt("Is it like").replace("Is it like", f"Is it like {pad}?\nA. 1\nB. 2")
    chat = parse_chat(prompt, 2)
    assert chat.question == "Is it like [image]?\n\nA. 1\nB. 2".replace("\n\n", "\n")
    (turn,) = [t["content"] for t in chat.turns if t["role"] == "user"]
    assert turn.count(CAPTION) == 1 and turn.index(CAPTION) < turn.index("[image]")


def test_media_are_found_beside_the_file_or_beside_its_folder(tmp_path):
    write_png(tmp_path / "images" / "a.png")
    (tmp_path / "json").mkdir()
    record = {"image": "images/a.png", "prompt": qwen_prompt("Q?"), "answer": "1"}
    (tmp_path / "json" / "f.json").write_text(json.dumps([record]))
    (item,), _ = read("chartqa", Files((tmp_path / "json" / "f.json",), None))
    assert item.media[0].path == str(tmp_path / "images" / "a.png")


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("Q? A: Yes, B: No, C: Both", ("Yes", "No", "Both")),
        ("Q?\nA. red\nB. blue\nAnswer with the letter.", ("red", "blue")),
        ("Q?\n(A) red\n(B) blue", ("red", "blue")),
        ("Q?\nA) red\nB) blue\nC) green", ("red", "blue", "green")),
        ("Q? (A) red (B) dark blue\nAnswer:", ("red", "dark blue")),
        ("Q?\nChoices: A. red\nB. blue", ("red", "blue")),
        ("Q?\nChoices:\nA:3\nB:4", ("3", "4")),
        ("Q?\nA. plan B. is best\nB. two\nlines\nC. x", ("plan B. is best", "two\nlines", "x")),
        ("Two runs.\nA. 1\nB. 2\nThe question's:\nA. 3\nB. 4\nC. 5", ("3", "4", "5")),
        ("Q?\nA. red\nC. blue", ()),
        ("Q?\nB. red\nC. blue", ()),
        ("What did J. A. Smith say?", ()),
        ("Which figure, (A), (B) or (C)?", ()),
        ("(A)\n(B)\n(C)", ()),
        ("", ()),
    ],
)
def test_choices_in_a_question(text, choices):
    assert parse_options(text) == choices
