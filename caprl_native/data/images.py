"""Image files -> RGB pixels, with Pillow.

Formats come from a list: some of Pillow's others start programs, or take any bytes for theirs.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from caprl_native.data.sizes import Unusable, check_size

_LISTED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "QOI")
Image.init()
FORMATS = tuple(name for name in _LISTED if name in Image.OPEN)  # some builds lack one
ORIENTATION = 0x0112  # the tag of EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LARGE = 2**25  # pixels of a source above which it is reduced before it becomes RGB
MAX_MISSING = 0.05  # the share of an image that may be lost with the end of its file
_MISSING_PIXELS = 1024  # or so many: of a small image one block is more than the share
_END_OF_JPEG = b"\xff\xd9"


def read_image(source: BinaryIO, wanted_pixels: int) -> Image.Image:
    """RGB, upright. `wanted_pixels`: far larger images may be reduced, to no less than 4 times it.

    Raises `Unusable`, `OSError`, or what Pillow raises on damaged files.
    """
    with _open(source) as image:
        check_size(*image.size)
        factor = _reduction(image.size, wanted_pixels)
        if factor > 1:
            image.draft("RGB", (image.width // factor, image.height // factor))
        pixels = _loaded(image, source)
        turn = _TURNS.get(_orientation(image))  # now, for looking at the tags of a PNG loads it
        if factor > 1:
            pixels = _reduced(pixels, wanted_pixels)
        return to_rgb(pixels if turn is None else pixels.transpose(turn))


@contextmanager
def _open(source: BinaryIO) -> Iterator[Image.Image]:
    Image.MAX_IMAGE_PIXELS = None  # `check_size` says it in words of our own
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd tags
        try:
            image = Image.open(source, formats=FORMATS)
        except UnidentifiedImageError:
            kinds = ", ".join(FORMATS)
            raise Unusable(f"cannot identify an image in it (of {kinds})") from None
        with image:
            yield image


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1, upright, where the tags are too damaged to say."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow raises nearly anything on damaged tags; the pixels are sound
        return 1
    return found if isinstance(found, int) else 1


# Files that end early


def _loaded(image: Image.Image, source: BinaryIO) -> Image.Image:
    """The image with its pixels; a JPEG that lacks no more than its last bytes is taken."""
    try:
        image.load()
        return image
    except OSError as error:
        if image.format not in ("JPEG", "MPO") or "truncated" not in str(error):
            raise
    whole, missing = _without_end(source, image.size)
    area = whole.width * whole.height
    if missing > max(MAX_MISSING * area, _MISSING_PIXELS):
        raise Unusable(f"the file is truncated, {missing / area:.0%} of the image is lost")
    return whole


def _without_end(source: BinaryIO, size: tuple[int, int]) -> tuple[Image.Image, int]:
    """A JPEG whose end is lost, and how many pixels were lost with it.

    It is decoded with two endings. What differs stands on the ending, not on the file; where either
    has run out, libjpeg leaves its middle grey (which Pillow inverts of CMYK).
    """
    source.seek(0)
    data = source.read()
    endings = (_END_OF_JPEG, bytes(range(1, 128)) * 64 + _END_OF_JPEG)
    images = []
    for ending in endings:
        image = Image.open(io.BytesIO(data + ending), formats=FORMATS)
        image.draft("RGB", size)
        image.load()
        images.append(image)
    first, second = (np.asarray(i).reshape(i.height, i.width, -1) for i in images)
    lost = (first != second).any(axis=2) | np.isin(first, (127, 128)).all(axis=2)
    return images[0], int(np.count_nonzero(lost))


# Pixels


def _reduction(size: tuple[int, int], wanted_pixels: int) -> int:
    """The whole factor by which the sides of a very large image may be reduced at once."""
    area = size[0] * size[1]
    if area <= LARGE:
        return 1
    return max(1, min(int((area / (4 * wanted_pixels)) ** 0.5), min(size)))


def _reduced(image: Image.Image, wanted_pixels: int) -> Image.Image:
    factor = _reduction(image.size, wanted_pixels)
    if factor == 1 or image.mode.startswith(("I", "F")):
        return image
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image.reduce(factor)


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB; what is transparent becomes white, 16-bit grey loses its low byte."""
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_grey(np.asarray(image)))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _grey(values: np.ndarray) -> np.ndarray:
    """uint8 of deep grey: 0 to 255 and 16 bits by their range, reals from 0 to 1 by theirs.

    Whatever lies outside of these is scaled from its least to its largest value.
    """
    real = values.dtype.kind == "f"
    if real and not np.isfinite(values).all():
        raise Unusable("some of its pixels are not finite numbers")
    low, high = values.min().item(), values.max().item()
    if real and low >= 0 and high <= 1:
        return (values * 255).round().astype(np.uint8)
    if not real and low >= 0 and high < 2**16:
        return (values >> 8 if high > 255 else values).astype(np.uint8)
    if low == high:
        raise Unusable(f"all of its pixels are {low:g}, of no known range")
    scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    return scaled.round().astype(np.uint8)
