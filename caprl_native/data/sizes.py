"""Which sizes of pictures are taken, and what they are reduced or enlarged to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

MAX_ASPECT = 200  # the processors refuse more
MAX_IMAGE_PIXELS = 178_956_970  # what Pillow takes for a decompression bomb
MAX_VIDEO_PIXELS = 2**26  # 8192 x 8192: decoders keep up to 17 frames
_PATCHES = (28, 32)  # the pixels of a side that become one token, by family


class Unusable(Exception):
    """Why a medium cannot be used, in words of our own."""


def check_size(width: int, height: int, most: int = MAX_IMAGE_PIXELS) -> None:
    """Raises `Unusable` for a size that cannot be decoded, or that no model could be shown."""
    what = "Image" if most == MAX_IMAGE_PIXELS else "Frame"
    if width < 1 or height < 1:
        raise Unusable(f"{what} size {width} x {height}: it has no pixels")
    if width * height > most:
        raise Unusable(
            f"{what} size {width} x {height} is over the limit of {most:,} pixels to decode"
        )
    check_aspect(width, height)


def check_aspect(width: int, height: int) -> None:
    """Raises `Unusable` for a picture that is too long for the processors."""
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise Unusable(f"size {width} x {height}: one side is over {MAX_ASPECT} times the other")


def displayed(width: int, height: int, pixel_aspect: Fraction | None) -> tuple[int, int]:
    """The size on a screen, of pixels that are `pixel_aspect` times as wide as high."""
    if not pixel_aspect or pixel_aspect <= 0:
        return width, height
    return max(1, round(width * pixel_aspect)), height


def fit(width: int, height: int, least: int, most: int) -> tuple[int, int]:
    """The nearest size of the same aspect that has from `least` to `most` pixels.

    The upper bound wins where rounding to whole pixels leaves no size between the two.
    """
    area = width * height
    if area < least:
        scale = math.sqrt(least / area)
        width, height = math.ceil(width * scale), math.ceil(height * scale)
    if width * height > most:
        scale = math.sqrt(most / (width * height))
        width, height = max(1, int(width * scale)), max(1, int(height * scale))
    return width, height


def fit_for_processors(width: int, height: int, least: int, most: int) -> tuple[int, int]:
    """`fit`, the longer side cut where rounding would take the aspect over the processors' limit.

    Raises `Unusable` where the aspect is over the limit before any rounding.
    """
    check_aspect(width, height)
    width, height = fit(width, height, least, most)
    if _taken(width, height):
        return width, height
    short = min(width, height)
    # The processors enlarge a video's short side to a patch, and may lose a pixel of it.
    for factor in (MAX_ASPECT, MAX_ASPECT - MAX_ASPECT // min(_PATCHES) - 1):
        size = (short, factor * short) if width < height else (factor * short, short)
        if _taken(*size):
            return size
    raise Unusable(f"size {width} x {height}: one side is over {MAX_ASPECT} times the other")


def _taken(width: int, height: int) -> bool:
    """Whether the processors take this size: as it is, and enlarged to a patch as videos are."""
    sizes = [(width, height)]
    for patch in _PATCHES:
        scale = max(patch / width, patch / height)
        if scale > 1:
            sizes.append((int(width * scale), int(height * scale)))
    return all(max(size) <= MAX_ASPECT * min(size) for size in sizes)


# Sizes in tokens: (columns, rows) of blocks of patches, each of which becomes one token


def ladder(
    size: tuple[int, int], top: tuple[int, int], block: int, least: int, most: int
) -> list[tuple[int, int]]:
    """The sizes in blocks that a picture may be reduced to, smallest first; the last one is `top`.

    `size`: width and height in pixels, whose aspect the steps keep as far as whole blocks can;
    `top`: the size in blocks that it has; `block`: a block's side in pixels. Steps have `least` to
    `most` pixels and an aspect that the processors take, so that these leave them as they are.
    """
    width, height = size
    steps = [top]
    for tokens in range(top[0] * top[1] - 1, 0, -1):
        columns = max(1, math.isqrt(tokens * width // height))
        rows = max(1, math.isqrt(tokens * height // width))
        fits = least <= columns * rows * block**2 <= most
        fits = fits and max(columns, rows) <= MAX_ASPECT * min(columns, rows)
        last = steps[-1]
        if fits and (columns, rows) != last and columns <= last[0] and rows <= last[1]:
            steps.append((columns, rows))
    return steps[::-1]


def share_out(
    ladders: Sequence[Sequence[tuple[int, int]]], frames: Sequence[int], tokens: int
) -> list[tuple[int, int]] | None:
    """A size from each ladder, so that all take `tokens` together at most; None: there is none.

    `frames`: how often each size counts. What takes most goes down first, a step at a time, so that
    small pictures stay as they are; in the end no picture could be a step larger.
    """
    places = [len(steps) - 1 for steps in ladders]

    def cost(i: int, place: int) -> int:
        columns, rows = ladders[i][place]
        return frames[i] * columns * rows

    free = tokens - sum(cost(i, place) for i, place in enumerate(places))
    while free < 0:
        left = [i for i, place in enumerate(places) if place]
        if not left:
            return None
        i = max(left, key=lambda i: cost(i, places[i]))
        free += cost(i, places[i]) - cost(i, places[i] - 1)
        places[i] -= 1
    for i, steps in enumerate(ladders):
        while places[i] + 1 < len(steps):
            more = cost(i, places[i] + 1) - cost(i, places[i])
            if more > free:
                break
            free -= more
            places[i] += 1
    return [steps[place] for steps, place in zip(ladders, places, strict=True)]
