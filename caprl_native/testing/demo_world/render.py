"""Draws scenes: 128 x 128 images, and videos of 64 x 64 at two frames per second."""

from __future__ import annotations

import math
import random
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from caprl_native.testing.demo_world.scenes import Scene

IMAGE_SIDE, VIDEO_SIDE = 128, 64
FPS, FRAMES = 2, 10
RGB = {
    "red": (220, 30, 30), "orange": (245, 140, 20), "yellow": (240, 225, 40),
    "green": (30, 160, 60), "blue": (40, 80, 225), "purple": (140, 45, 170),
    "white": (250, 250, 250), "grey": (140, 140, 140), "black": (15, 15, 15),
    "pink": (255, 190, 205),
}  # fmt: skip
RADIUS = {"tiny": 14.0, "small": 20.0, "big": 27.0, "huge": 36.0}
CORNERS = [(8.0, 8.0), (120.0, 8.0), (8.0, 120.0), (120.0, 120.0)]  # of pips, in filling order
_SCALE = 2  # shapes are drawn this much larger and then reduced, which smooths their edges


def _polygon(shape: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    if shape == "star":
        turns = [(i, r if i % 2 == 0 else r * 0.4) for i in range(10)]
        angles = [(math.pi * (i / 5 - 0.5), d) for i, d in turns]
        return [(x + d * math.cos(a), y + d * math.sin(a)) for a, d in angles]
    w = r * 0.33
    unit: dict[str, list[tuple[float, float]]] = {
        "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
        "triangle": [(0, -1), (0.95, 0.8), (-0.95, 0.8)],
        "diamond": [(0, -1), (0.7, 0), (0, 1), (-0.7, 0)],
    }
    if shape == "cross":
        corners = [(w, r), (w, w), (r, w), (r, -w), (w, -w), (w, -r)]
        return [(x + a, y + b) for a, b in corners] + [(x - a, y - b) for a, b in corners]
    return [(x + a * r, y + b * r) for a, b in unit[shape]]


def _mask(side: int, shape: str, spots: list[tuple[float, float]], r: float) -> np.ndarray:
    """`[side, side]` in 0..1: how much of each pixel the shapes at `spots` cover."""
    canvas = Image.new("L", (side * _SCALE, side * _SCALE), 0)
    draw = ImageDraw.Draw(canvas)
    for x, y in spots:
        x, y, radius = x * _SCALE, y * _SCALE, r * _SCALE
        if shape == "circle":
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        else:
            draw.polygon(_polygon(shape, x, y, radius), fill=255)
    return np.asarray(canvas.resize((side, side), Image.Resampling.BOX), np.float32) / 255


def _holes(
    side: int, texture: str, spots: list[tuple[float, float]], r: float, shape: str
) -> np.ndarray:
    """`[side, side]` in 0..1: where a texture lets the background or white show through."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    if texture == "hollow":
        return _mask(side, shape, spots, r * 0.6)
    if texture == "striped":
        return (y % 8 < 4).astype(np.float32)
    if texture == "dotted":
        return (((x % 8) - 3.5) ** 2 + ((y % 8) - 3.5) ** 2 < 6.0).astype(np.float32)
    return np.zeros((side, side), np.float32)


def _colour(name: str, rng: random.Random) -> np.ndarray:
    """The named colour, a little off."""
    return np.clip([c + rng.randint(-10, 10) for c in RGB[name]], 0, 255).astype(np.float32)


def _paint(
    ground: np.ndarray, fill: np.ndarray, mask: np.ndarray, holes: np.ndarray, through: np.ndarray
) -> np.ndarray:
    inside = fill * (1 - holes[..., None]) + through * holes[..., None]
    return ground * (1 - mask[..., None]) + inside * mask[..., None]


def draw_image(scene: Scene, rng: random.Random) -> np.ndarray:
    """uint8 `[128, 128, 3]`: one shape off the centre, and one to four pips in the corners."""
    v, side = scene.values, IMAGE_SIDE
    way = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}[v["place"]]
    off = 22.0
    x, y = (side / 2 + w * off + rng.uniform(-2, 2) for w in way)
    spots = [(x, y)]
    r = RADIUS[v["size"]] + rng.uniform(-1, 1)
    ground = np.broadcast_to(_colour(v["background"], rng), (side, side, 3))
    through = ground if v["texture"] == "hollow" else np.full((side, side, 3), 255, np.float32)
    holes = _holes(side, v["texture"], spots, r, v["shape"])
    picture = _paint(
        ground, _colour(v["colour"], rng), _mask(side, v["shape"], spots, r), holes, through
    )
    pips = CORNERS[: 1 + ("one", "two", "three", "four").index(v["count"])]
    none = np.zeros((side, side), np.float32)
    pip = _colour("black" if v["background"] != "black" else "white", rng)
    picture = _paint(picture, pip, _mask(side, "circle", pips, 4.5), none, ground)
    return picture.round().astype(np.uint8)


def draw_video(scene: Scene, rng: random.Random) -> np.ndarray:
    """uint8 `[10, 64, 64, 3]`: a moving shape that turns another colour and changes its form."""
    v, side = scene.values, VIDEO_SIDE
    ground = np.broadcast_to(_colour(v["background"], rng), (side, side, 3))
    start, end = _colour(v["start"], rng), _colour(v["turn"], rng)
    way = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[v["motion"]]
    turn, change = (FPS * int(v[k][4:6]) for k in ("turn_time", "event_time"))
    drift = rng.uniform(-1, 1), rng.uniform(-1, 1)
    frames = []
    for t in range(FRAMES):
        at = 3.0 * (t - (FRAMES - 1) / 2)
        x, y = side / 2 + way[0] * at + drift[0], side / 2 + way[1] * at + drift[1]
        form = v["event"] if t >= change else ""
        r = {"grows": 17.0, "shrinks": 6.0, "doubles": 8.5}.get(form, 12.0)
        spots = [(x, y)]
        if form == "doubles":  # side by side across the way that it moves
            a, b = 10 * abs(way[1]), 10 * abs(way[0])
            spots = [(x - a, y - b), (x + a, y + b)]
        holes = _holes(side, "hollow" if form == "hollows" else "solid", spots, r, v["shape"])
        fill = end if t >= turn else start
        frames.append(_paint(ground, fill, _mask(side, v["shape"], spots, r), holes, ground))
    return np.stack(frames).round().astype(np.uint8)


def write_png(path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture).save(path)


def write_mp4(path: Path, frames: np.ndarray) -> None:
    """Raises OSError if the codec is missing."""
    height, width = frames.shape[1:3]
    out = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (width, height))
    if not out.isOpened():
        raise OSError(f"{path}: OpenCV cannot write MP4 (mp4v) here")
    for frame in frames:
        out.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    out.release()
