"""An evaluation of models that think aloud, in the marks of several families."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from caprl_native.testing.chat_server import Reply, Request, serve
from eval.prism import INCOMPLETE, main
from tests.eval.worlds import spoken

RECORDS = Path(__file__).parents[1] / "faults" / "think_mmstar.json"
THOUGHTS = {  # around a wrong letter, or, where it is cut off, around the right one
    "Seed-OSS": "<seed:think>Is it A? The answer is A.</seed:think>B",
    "Magistral": "[THINK]The answer is A.[/THINK]The answer is B.",
    "GLM": "<think>So, A.</think><|begin_of_box|>B<|end_of_box|>",
    "cut off": "<think>The answer is A. But let me",
}


def evaluate(out: Path, caption: str) -> tuple[int, dict[str, dict], list[str]]:
    """The exit code, the records by id, and what the reader was asked."""
    asked: list[str] = []

    def answer(request: Request) -> Reply:
        text, media = spoken(request["messages"])
        if media:
            return Reply(caption)
        asked.append(text)
        return Reply(next(said for name, said in THOUGHTS.items() if f"({name})" in text))

    Image.new("RGB", (32, 32)).save(out / "a.png")
    words = ["--benchmark", "mmstar", "--data-path", str(RECORDS), "--image-root", str(out)]
    words += ["--out", str(out / "run"), "--captioner.n=1", "--run.progress=false"]
    with serve(answer) as server:
        for table in ("captioner", "reader"):
            words += [f"--{table}.endpoint={server.url}", f"--{table}.model={table}"]
        code = main(words)
    lines = (out / "run" / "items.jsonl").read_text().splitlines()
    return code, {r["id"]: r for r in map(json.loads, lines)}, asked


def test_thoughts_are_no_answer_and_no_caption(tmp_path: Path) -> None:
    code, found, asked = evaluate(tmp_path, "[THINK]A blue what?[/THINK]A car in a street.")
    assert code == INCOMPLETE  # one answer was cut off
    for name in ("Seed-OSS", "Magistral", "GLM"):
        (caption,) = found[name]["captions"]
        assert caption["verdict"]["score"] == 1.0 and caption["verdict"]["said"] == "B"
        assert caption["text"] == "A car in a street."
    (caption,) = found["cut off"]["captions"]
    assert caption["verdict"] is None and "cut off" in caption["answer"]["missing"]
    assert len(asked) == 4
    assert all("A car in a street." in text and "what?" not in text for text in asked)


def test_a_caption_that_is_all_thought_is_missing(tmp_path: Path) -> None:
    code, found, asked = evaluate(tmp_path, "<think>A blue car, or is it")
    assert code == INCOMPLETE and not asked
    for record in found.values():
        (caption,) = record["captions"]
        assert caption["text"] is None and "captioner.max_tokens" in caption["missing"]
