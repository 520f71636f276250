"""Where a run's numbers and captions go: metrics.jsonl, rollout log, backends, progress bar."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from caprl_native.config.schema import LogConfig
from caprl_native.distributed.errors import writing
from caprl_native.distributed.world import gather_on_main
from caprl_native.files import atomic_write, file_name
from caprl_native.observe.alarms import caption_figures
from caprl_native.observe.backends import close_backend, open_backends
from caprl_native.observe.metrics import Metric, added, plain
from caprl_native.observe.rollout_index import index_file, index_text
from caprl_native.observe.tables import log_table, table_rows
from caprl_native.types import Group, MediaRef, Sample

ALARMS = "alarms.jsonl"  # in the run's folder: what it warned of


class RunLog:
    """Rank 0 writes; the other ranks' calls take part in the gathering and write nothing."""

    def __init__(
        self, folder: Path, config: LogConfig, *, main: bool, name: str, resolved: str
    ) -> None:
        self.folder, self.config, self.main = folder, config, main
        self.times: dict[str, float] = {}
        self._first: dict[str, float] = {}
        self._since = time.perf_counter()
        self._bar: tqdm | None = None
        self._backends = open_backends(config, name, folder, resolved) if main else []

    def start(self, step: int, steps: int, first: Mapping[str, float] | None = None) -> None:
        """Begins after `step` of `steps`: later lines of an earlier, killed process are dropped.

        `first`: what goes into the run's first line.
        """
        if not self.main:
            return
        self._first = {} if step else dict(first or {})
        for file in (self.folder / "metrics.jsonl", self.folder / ALARMS):
            if file.exists():
                text = file.read_text(errors="replace")  # a kill may have cut a character in two
                kept = [line for line in text.split("\n") if _step_of(line) <= step]
                _replace(file, "".join(f"{line}\n" for line in kept if line) if step else "")
        show = self.config.progress and sys.stderr.isatty()
        self._bar = tqdm(total=steps, initial=step, unit="step", disable=not show, smoothing=0.1)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Adds the seconds spent inside to `time/<phase>` of the step."""
        began = time.perf_counter()
        yield
        self.times[phase] = self.times.get(phase, 0.0) + time.perf_counter() - began

    def metrics(self, step: int, metrics: dict[str, float]) -> None:
        """One JSON line; also to the backends."""
        if not self.main:
            return
        metrics, self._first = metrics | self._first, {}
        name = self.folder / "metrics.jsonl"
        with writing(name), name.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        for backend in self._backends:
            backend.log_dict(metrics, step)

    def alarms(self, step: int, given: Mapping[str, str]) -> None:
        """Keeps what was warned of, by the metric that is out of its bounds."""
        if not (self.main and given):
            return
        name = self.folder / ALARMS
        with writing(name), name.open("a") as file:
            for metric, text in given.items():
                file.write(json.dumps({"step": step, "metric": metric, "text": text}) + "\n")

    def take_seconds(self) -> tuple[float, dict[str, float]]:
        """Seconds since the last call, and those of the phases within, as `time/<phase>`."""
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        times = {f"time/{phase}": spent for phase, spent in self.times.items()}
        self.times = {}
        return seconds, times

    def progress(self, step: int, seconds: float, shown: dict[str, str]) -> None:
        """Moves the bar, or prints a line where there is no terminal.

        `seconds`: what the step took; `shown`: the numbers to show, by name.
        """
        if self._bar is None:
            return
        self._bar.update()
        if not self._bar.disable:
            self._bar.set_postfix(shown)
        elif self.config.progress:
            text = ", ".join(f"{k} {v}" for k, v in shown.items())
            left = (self._bar.total - step) * seconds
            print(
                f"step {step}/{self._bar.total}: {text}, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    def rollouts(
        self, step: int, groups: Sequence[Group], local: Mapping[str, Metric]
    ) -> dict[str, Metric]:
        """Writes the step's captions, with what the reader made of them (a collective).

        With them go this rank's pieces of metrics; returns those of all, merged, on rank 0.
        """
        name = f"rollouts/step_{step:06d}.jsonl"
        by_sample = step if self.config.per_sample else None
        return self._write(name, groups, self.config.rollouts, local, by_sample, shown=step)

    def evaluation(
        self, step: int, groups: Sequence[Group], local: Mapping[str, Metric]
    ) -> dict[str, Metric]:
        """The same of the held-out captions (a collective)."""
        return self._write(f"eval/step_{step:06d}.jsonl", groups, -1, local)

    def blind(self, step: int, groups: Sequence[Group]) -> None:
        """What the reader answered without captions (a collective)."""
        self._write(f"blind/step_{step:06d}.jsonl", groups, -1, {})

    def _write(
        self,
        name: str,
        groups: Sequence[Group],
        limit: int,
        local: Mapping[str, Metric],
        by_sample: int | None = None,
        shown: int | None = None,
    ) -> dict[str, Metric]:
        """`by_sample`: the step whose captions go into files by sample, too, all of them; `shown`:
        that whose first groups go to the backends."""
        records = records_of(groups, None if limit < 0 or by_sample is not None else limit)
        parts = gather_on_main((records, plain(local)))
        if self.main:
            records = [record for part, _ in parts for record in part]
            kept = records if limit < 0 else records[:limit]
            write_records(self.folder, name, kept)
            if shown is not None and self.config.tables:
                self._show(shown, kept)
            if by_sample is not None:
                for sample, text in _by_sample(records, by_sample).items():
                    folder = self.folder / self.config.per_sample / str(by_sample)
                    _replace(folder / f"{file_name(sample)}.json", text)
        return added(metrics for _, metrics in parts)

    def _show(self, step: int, records: Sequence[dict[str, Any]]) -> None:
        """The first groups as a table with pictures, in each backend."""
        if self._backends:
            rows = table_rows(records, self.config.tables)
            with self.timed("tables"):
                for backend in self._backends:
                    log_table(backend, rows, step)

    def close(self, *, failed: bool = False) -> None:
        """Ends what was begun; Weights & Biases shows whether the run has `failed`."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        backends, self._backends = self._backends, []
        for backend in backends:
            close_backend(backend, failed=failed)


def write_records(folder: Path, name: str, records: Sequence[dict[str, Any]]) -> None:
    """Writes a file of captions into a run's folder, a line each, and its index."""
    lines = [json.dumps(r, ensure_ascii=False) + "\n" for r in records]
    _replace(folder / name, "".join(lines))
    _replace(index_file(folder, name), index_text(records, lines))


def records_of(groups: Sequence[Group], limit: int | None = None) -> list[dict[str, Any]]:
    """Of these groups' captions, or of the first `limit`, what the log says of each."""
    captions = ((group, i, r) for group in groups for i, r in enumerate(group.rollouts))
    return [
        {
            "id": group.sample.id,
            "source": group.sample.source,
            "media": [m.name for m in group.sample.media],
            "media_refs": [_ref(m) for m in group.sample.media],
            "prompt": _prompt_text(group.sample),
            "prompt_tokens": len(group.prompt),
            "rollout": i,
            "caption": r.text,
            "tokens": len(r.token_ids),
            "finish_reason": r.finish_reason,
            "rewards": r.rewards,
            "parts": r.parts,
            "figures": caption_figures(r.text),
            "total": r.total,
            "advantage": r.advantage,
            "failure": r.failure,
            "reader": r.reading,
            **_of_the_record(group.sample),
        }
        for group, i, r in islice(captions, limit)
    ]


def _ref(medium: MediaRef) -> dict[str, Any]:
    """How a medium is opened again; its name stands beside it. What has no file is `embedded`."""
    found: dict[str, Any] = {"kind": medium.kind, "embedded": medium.path is None}
    found |= {"start": medium.start, "end": medium.end, "fps": medium.fps}
    return {name: value for name, value in found.items() if value not in (None, False)}


def _of_the_record(sample: Sample) -> dict[str, Any]:
    """What few records have: what they call themselves, what came before them, and how long their
    video lasts."""
    found = {"kind": sample.kind, "context": sample.context, "seconds": sample.seconds}
    return {name: value for name, value in found.items() if value}


def _by_sample(records: Sequence[dict[str, Any]], step: int) -> dict[str, str]:
    """The captions of a step as a JSON text for each sample, by its id."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        found.setdefault(record["id"], []).append(record)
    return {
        name: json.dumps(_one(name, rows, step), ensure_ascii=False, indent=1)
        for name, rows in found.items()
    }


def _one(name: str, rows: Sequence[dict[str, Any]], step: int) -> dict[str, Any]:
    """The log of a sample: its captions' input, texts and rewards."""
    head = {"id": name, "type": rows[0].get("kind", ""), "global_step": step}
    items = [{"input": row["prompt"], **row} for row in rows]
    for item in items:
        del item["prompt"], item["id"]
    return {**head, "num_items": len(items), "items": items}


def _prompt_text(sample: Sample) -> str:
    """What the policy was asked, media as `<image>` and `<video>`, a line per turn after others."""
    turns = [
        "".join(p["text"] if p["type"] == "text" else f"<{p['type']}>" for p in m["content"])
        for m in sample.messages
    ]
    return "\n".join(turns)


def _step_of(line: str) -> float:
    """The step of a metrics line; a line that a kill cut short belongs to no step."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")


def _replace(file: Path, text: str) -> None:
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as opened:
            opened.write(text)
