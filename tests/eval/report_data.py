"""Made-up runs and items for tests of the report page; nothing in them was measured."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from caprl_native.data.media import DecodedImage, DecodedVideo
from caprl_native.inference.pictures import strip_times, thumbnail

Record = dict[str, Any]

TITLES = {"charts": "ChartQA Pro", "scenes": "MMStar", "clips": "Video-MME", "moments": "Charades"}
UNITS = {"charts": "%", "scenes": "%", "clips": "%", "moments": "points"}
METRICS = {"charts": "relaxed accuracy", "moments": "mean IoU"}
VIDEOS = ("clips", "moments")
DURATIONS = {"short": 64.0, "medium": 312.5, "long": 2710.0}
CATEGORIES = ("Knowledge", "Film & Television", "Sports", "Life Record", "Multilingual")
N = 4

PEOPLE = ("a woman in a green coat", "two children", "an elderly man", "a cyclist", "a cook")
DEEDS = ("crossed the square", "waited under the awning", "folded a paper map", "fed the pigeons")
PLACES = ("beside a tiled fountain", "in front of a bakery", "near the tram stop", "on the steps")
LIGHTS = ("The light was low and warm", "Rain had left the stones dark", "The sky was overcast")


HOSTILE = "\n".join(
    [
        "</script><script>alert(1)</script>",
        "<img src=x onerror=alert(2)><!-- <script>",
        "line\u2028separator\u2029and \x00 and \x7f",
        "lone \ud800 surrogate",
        "\u202egnp.exe \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
        "\U0001f469\u200d\U0001f680 @@ITEMS@@ &amp; &lt; $& ${x} `",
    ]
)


def caption_text(rng: random.Random, sentences: int, duration: float | None = None) -> str:
    """Plain sentences; for a video each begins with a time, in one of the forms in use."""
    starts = sorted(rng.uniform(0, duration or 0) for _ in range(sentences))
    ends = [*starts[1:], duration or 0]
    style = rng.randrange(4)
    lines = [
        (f"{_time(style, a, b)} " if duration else "") + _sentence(rng)
        for a, b in zip(starts, ends, strict=True)
    ]
    return "\n".join(lines) if duration else " ".join(lines)


def _sentence(rng: random.Random) -> str:
    who, does = rng.choice(PEOPLE), rng.choice(DEEDS)
    return f"{who.capitalize()} {does} {rng.choice(PLACES)}. {rng.choice(LIGHTS)}."


def _time(style: int, start: float, end: float) -> str:
    if style == 0:
        return f"[{_clock(start)} - {_clock(end)}]"
    if style == 1:
        return f"<{start:.1f} seconds>"
    return f"[{start:.0f}s-{end:.0f}s]" if style == 2 else _clock(start)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


def make_item(index: int, benchmark: str, *, sentences: int = 8) -> Record:
    """One item with four captions, the same for the same index; about one in nine lacks a part."""
    rng = random.Random(index)
    duration = rng.choice(list(DURATIONS)) if benchmark in VIDEOS else None
    seconds = DURATIONS[duration] if duration else None
    groups = {"category": rng.choice(CATEGORIES)} | ({"duration": duration} if duration else {})
    choices = [f"{p} {d}" for p, d in zip(PEOPLE[:4], rng.sample(DEEDS, 4), strict=True)]
    skill = rng.random()
    captions = [_caption(rng, skill, seconds, benchmark, sentences) for _ in range(N)]
    scores = [c["verdict"]["score"] for c in captions if c["verdict"]]
    return {
        "id": f"{benchmark}-{index:05d}",
        "benchmark": benchmark,
        "media": [_medium(index, duration, seconds)],
        "question": f"What happened {rng.choice(PLACES)}, and who was it that did so?",
        "choices": [] if benchmark == "moments" else choices,
        "answer": [12.0, 18.5] if benchmark == "moments" else "B",
        "groups": groups,
        "captions": captions,
        "mean": sum(scores) / len(scores) if scores else None,
        "best": max(scores, default=None),
        "source": f"annotations/{benchmark}.jsonl:{index + 1}",
    }


def _medium(index: int, duration: str | None, seconds: float | None) -> Record:
    if duration is None or seconds is None:
        name = f"image-{index % 12}"
        return {"kind": "image", "path": f"images/{index:05d}.jpg", "picture": name,
                "duration": None, "times": []}  # fmt: skip
    return {"kind": "video", "path": f"videos/{index:05d}.mp4", "picture": f"video-{duration}",
            "duration": seconds, "times": strip_times(_video(seconds))}  # fmt: skip


def _caption(
    rng: random.Random, skill: float, seconds: float | None, benchmark: str, sentences: int
) -> Record:
    if rng.random() < 0.01:
        answer = {"text": None, "missing": "there is no caption"}
        return {"text": None, "tokens": None, "finish": None, "missing": "the engine gave up",
                "answer": answer, "verdict": None, "judge": None}  # fmt: skip
    text = caption_text(rng, sentences, seconds)
    record: Record = {"text": text, "tokens": len(text) // 4, "missing": None}
    record |= {"verdict": None, "judge": None}
    record["finish"] = "length" if rng.random() < 0.04 else "stop"
    if rng.random() < 0.02:
        return record | {"answer": {"text": None, "missing": "timed out after 600 s"}}
    right = rng.random() < skill
    letter = "B" if right else rng.choice("ACD")
    if benchmark == "moments":
        said, score = "12 s to 18 s", round(skill * rng.random(), 3)
    else:
        said, score = letter, float(right)
    record["answer"] = {"text": f"{said}. The caption says so.", "missing": None}
    record["verdict"] = {"score": score, "said": said, "detail": {}}
    if benchmark == "moments":
        record["verdict"]["detail"] = {"iou": score}
        record["judge"] = {"text": "The same span up to rounding.", "missing": None}
    return record


def make_items(count: int, *, sentences: int = 8) -> list[Record]:
    """The benchmarks' items in turn, a quarter of each."""
    names = list(TITLES)
    return [make_item(i, names[i % len(names)], sentences=sentences) for i in range(count)]


def summarise(items: list[Record], run: str = "caprl-8b", shift: float = 0.0) -> Record:
    """The summary that belongs to the items; `shift` moves its scores, as another run's."""
    benchmarks = {
        name: _figures(name, [i for i in items if i["benchmark"] == name], shift)
        for name in TITLES
        if any(i["benchmark"] == name for i in items)
    }
    missing = sum(sum(b["missing"].values()) for b in benchmarks.values())
    models = {"captioner": f"Qwen3-VL-8B-{run}", "reader": "Qwen2.5-VL-3B-Instruct", "judge": ""}
    return {"run": run, **models, "rule": "official", "complete": missing == 0,
            "benchmarks": benchmarks}  # fmt: skip


def _figures(name: str, items: list[Record], shift: float) -> Record:
    captions = [c for i in items for c in i["captions"]]
    written = [c for c in captions if c["text"] is not None]
    best, best_ci = _mean([i["best"] for i in items], name, shift / 2)
    figure = {"unit": UNITS[name], "metric": METRICS.get(name, "accuracy"), "title": TITLES[name]}
    counts = {
        "captions": len(captions) - len(written),
        "answers": sum(c["answer"]["missing"] is not None for c in written),
        "judgements": 0,
        "media": 0,
        "rows": 0,
    }
    extra = {"R1@0.3": 61.2, "R1@0.5": 43.9, "R1@0.7": 20.6} if name == "moments" else {}
    kinds = list(dict.fromkeys(kind for i in items for kind in i["groups"]))
    return figure | {
        "modality": "video" if name in VIDEOS else "image",
        "items": len(items),
        "scored": sum(i["mean"] is not None for i in items),
        "missing": counts,
        **_with_interval(items, name, shift),
        "best": best,
        "best_ci": best_ci,
        "n": N,
        "caption_tokens": sum(c["tokens"] for c in written) / max(1, len(written)),
        "caption_characters": sum(len(c["text"]) for c in written) / max(1, len(written)),
        "metrics": extra,
        "groups": {kind: _group(items, kind, name, shift) for kind in kinds},
    }


def _group(items: list[Record], kind: str, name: str, shift: float) -> Record:
    order = list(DURATIONS) if kind == "duration" else CATEGORIES
    own = {value: [i for i in items if i["groups"].get(kind) == value] for value in order}
    return {
        value: {"items": len(found), **_with_interval(found, name, shift)}
        for value, found in own.items()
        if found
    }


def _with_interval(items: list[Record], name: str, shift: float) -> Record:
    mean, ci = _mean([i["mean"] for i in items], name, shift)
    return {"mean": mean, "mean_ci": ci}


def _mean(
    scores: list[float | None], name: str, shift: float
) -> tuple[float | None, list[float] | None]:
    known = np.array([s for s in scores if s is not None])
    if not len(known):
        return None, None
    scale = 100 if UNITS[name] == "%" else 1
    mean = scale * float(known.mean()) + shift * scale
    half = scale * 1.96 * float(known.std()) / len(known) ** 0.5
    return mean, [max(0.0, mean - half), min(float(scale), mean + half)]


@cache
def pictures() -> dict[str, str]:
    """Drawn stand-ins for the media of `make_item`."""
    images = {f"image-{k}": thumbnail(DecodedImage(_scene(k / 12, (640, 420)))) for k in range(12)}
    videos = {f"video-{name}": thumbnail(_video(s)) for name, s in DURATIONS.items()}
    return images | videos


@cache
def _video(seconds: float) -> DecodedVideo:
    """16 frames of a sun that wanders over a landscape."""
    total = int(seconds * 25)
    indices = np.linspace(0, total - 1, 16).round().astype(int).tolist()
    frames = np.stack([np.asarray(_scene(k / 15, (320, 180))) for k in range(16)])
    return DecodedVideo(frames, {"fps": 25.0, "duration": seconds, "frames_indices": indices})


def _scene(phase: float, size: tuple[int, int]) -> Image.Image:
    width, height = size
    sky = (int(70 + 120 * phase), int(120 + 40 * phase), int(200 - 90 * phase))
    image = Image.new("RGB", size, sky)
    draw = ImageDraw.Draw(image)
    x, y, r = width * (0.1 + 0.8 * phase), height * (0.55 - phase * (1 - phase) * 1.6), height * 0.1
    draw.ellipse((x - r, y - r, x + r, y + r), fill=(255, 226, 140))
    for depth, color in enumerate([(60, 92, 88), (44, 70, 62), (30, 48, 42)]):
        crest = [
            (step, height * (0.58 + 0.13 * depth) + height * 0.07 * np.sin(step / 60 + depth * 2))
            for step in range(0, width + 8, 8)
        ]
        draw.polygon([(0, height), *crest, (width, height)], fill=color)
    return image
