"""A run's rollout log in the layouts of CapRL++'s own logs, for tools that read those.

    python tools/reference_logs.py outputs/video --out outputs/video/reference_logs

`captions_NAME.jsonl` is that of data.caption_log_dir, `zero_reward.jsonl` of ZERO_REWARD_LOG_PATH
(captions with no question answered rightly), `longest_response.jsonl` the longest captions of each
step. Time stamps are those at which a step's log was written. Logs are replaced.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without an installation

from caprl_native.files import atomic_write  # noqa: E402

Row = dict[str, Any]


def of_captions(row: Row, written: str) -> Row:
    """A caption with its medium; of several media the first, as theirs."""
    kind = "video" if "<video>" in row["prompt"] else "image" if row["media"] else "unknown"
    return {
        "timestamp": written,
        "media_path": row["media"][0] if row["media"] else "unknown",
        "prompt": row["prompt"].replace("<image>", "").replace("<video>", "").strip()[:500],
        "caption": row["caption"],
        "media_type": kind,
        "prompt_length": row.get("prompt_tokens"),  # null: older logs do not have it
        "response_length": row["tokens"],
    }


def of_questions(row: Row) -> Row:
    """A caption with what the reader was asked. Expected answers have no text: null."""
    questions = [
        {
            "question": asked["question"],
            "correct_answer": asked["right"],
            "model_answer": asked.get("answer"),
        }
        for asked in row["reader"] or []
    ]
    lengths = {"response_length": row["tokens"], "reward": row["total"]}
    return {"caption": row["caption"], **lengths, "rewards": row["rewards"], "questions": questions}


def convert(run: Path, out: Path) -> dict[str, int]:
    """Writes the three logs of a run's folder; returns how many lines each has.

    Raises:
        ValueError: there is no rollout log, or a line of it is not one.
    """
    names = (f"captions_{run.resolve().name}", "zero_reward", "longest_response")
    logs: dict[str, list[Row]] = {name: [] for name in names}
    files = sorted(run.glob("rollouts/step_*.jsonl"))
    if not files:
        raise ValueError(f"{run}: expected a run's folder, with rollouts/step_*.jsonl in it")
    captions, zero, longest = logs.values()
    for file in files:
        written = datetime.fromtimestamp(file.stat().st_mtime).isoformat()
        rows = list(_rows(file))
        captions += [of_captions(row, written) for row in rows]
        zero += [of_questions(row) for row in rows if _none_right(row)]
        most = max((row["tokens"] for row in rows), default=0)
        longest += [
            of_questions(row) | {"batch_max_response_length": most}
            for row in rows
            if row["tokens"] == most
        ]
    out.mkdir(parents=True, exist_ok=True)
    for name, lines in logs.items():
        with atomic_write(out / f"{name}.jsonl") as opened:
            opened.write("".join(json.dumps(x, ensure_ascii=False) + "\n" for x in lines))
    return {name: len(lines) for name, lines in logs.items()}


def _rows(file: Path) -> Iterator[Row]:
    text = file.read_text(encoding="utf-8")  # splitlines would cut at a caption's U+2028
    for number, line in enumerate(text.rstrip("\n").split("\n") if text else [], 1):
        try:
            row = json.loads(line)
            row["prompt"], row["media"], row["tokens"], row["reader"], row["parts"]  # noqa: B018
        except (ValueError, KeyError, TypeError) as error:
            problem = f"{type(error).__name__}: {error}"
            raise ValueError(f"{file}:{number}: is no line of a rollout log ({problem})") from error
        yield row


def _none_right(row: Row) -> bool:
    """Whether there were questions, and the reader answered none of them rightly."""
    shares = [value for name, value in row["parts"].items() if name.endswith("/right")]
    return bool(row["reader"]) and bool(shares) and not any(shares)


def main(argv: list[str] | None = None) -> int:
    """The command line: exits 2 where there is no rollout log to convert."""
    parser = argparse.ArgumentParser(description="A rollout log in CapRL++'s layouts.")
    parser.add_argument("run", type=Path, help="a run's folder (run.dir)")
    parser.add_argument("--out", type=Path, help="default: RUN/reference_logs")
    args = parser.parse_args(argv)
    try:
        counts = convert(args.run, args.out or args.run / "reference_logs")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(", ".join(f"{name}: {count} lines" for name, count in counts.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
