"""Images that are damaged a little, deep, very long, or of several pictures."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from caprl_native.config.media import MediaConfig
from caprl_native.data.media import MediaError, decode
from caprl_native.data.sizes import fit_for_processors
from caprl_native.policy.families import FAMILIES
from caprl_native.testing.media_files import write_noise, write_png
from caprl_native.types import MediaRef, Sample

FAULTS = Path(__file__).parents[1] / "faults"


def image(source) -> np.ndarray:
    ref = MediaRef(
        "image", **({"data": source} if isinstance(source, bytes) else {"path": str(source)})
    )
    (found,) = decode(Sample("s", (ref,), ()), MediaConfig(image_min_pixels=1))
    assert found.image.mode == "RGB"
    return np.asarray(found.image)


def refused(source) -> str:
    with pytest.raises(MediaError) as error:
        image(source)
    return error.value.reason


def encoded(pixels: Image.Image, kind: str, **options) -> bytes:
    data = io.BytesIO()
    pixels.save(data, kind, **options)
    return data.getvalue()


def smooth(size=(320, 200)) -> Image.Image:
    """Colours that change from side to side."""
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=2).astype(np.uint8))


@pytest.mark.parametrize("name", ["exif_error.jpg", "exif_AttributeError.jpg"])
def test_a_damaged_tag_loses_neither_the_image_nor_its_orientation(name):
    with Image.open(FAULTS / name) as plain:
        upright = np.asarray(plain.transpose(Image.Transpose.ROTATE_270))
    assert (image(FAULTS / name) == upright).all()


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_orientation_is_that_of_pillow(tmp_path, turn):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = turn
    smooth((40, 20)).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as plain:
        assert (image(tmp_path / "a.png") == np.asarray(ImageOps.exif_transpose(plain))).all()


def test_tags_that_cannot_be_read_at_all_leave_the_image():
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(range(256))
    assert image(encoded(smooth(), "JPEG", exif=exif)).shape == (200, 320, 3)


def test_a_jpeg_without_its_last_bytes_is_whole():
    found = image(FAULTS / "trunc_lastbytes.jpg")
    assert found.shape == (200, 320, 3) and found.std() > 20
    for progressive in (False, True):
        data = encoded(smooth(), "JPEG", progressive=progressive)
        whole = image(data)
        for lost in (1, 2, 3):
            assert np.abs(image(data[:-lost]).astype(int) - whole).mean() < 1


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("kept", [0.3, 0.5, 0.9])
def test_a_jpeg_that_lacks_a_part_is_refused(progressive, kept):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 320, 3), np.uint8))
    data = encoded(noise, "JPEG", progressive=progressive)
    assert "truncated" in refused(data[: int(kept * len(data))])


@pytest.mark.parametrize("options", [{}, {"restart_marker_rows": 1}, {"progressive": True}])
def test_of_a_large_jpeg_all_that_is_behind_its_end_counts_as_lost(options):
    noise = np.random.default_rng(0).integers(0, 256, (90, 140, 3), np.uint8)
    data = encoded(Image.fromarray(noise).resize((1400, 900)), "JPEG", **options)
    for kept in (0.05, 0.5, 0.8):
        assert "truncated" in refused(data[: int(kept * len(data))])
    assert image(data[:-3]).shape == (900, 1400, 3)


def test_real_grey_from_0_to_1_is_scaled():
    found = image(FAULTS / "float01.tiff")
    with Image.open(FAULTS / "float01.tiff") as plain:
        wanted = (np.asarray(plain) * 255).round()
    assert (found == wanted[:, :, None]).all() and found.min() == 0 and found.max() == 255


def test_negative_integers_are_scaled_from_least_to_largest():
    found = image(FAULTS / "int32neg.tiff")
    with Image.open(FAULTS / "int32neg.tiff") as plain:
        values = np.asarray(plain)
    wanted = (values + 500) * 255 / 1000
    assert np.abs(found - wanted[:, :, None]).max() <= 0.5 and np.ptp(found) == 255


def deep(values, kind) -> bytes:
    return encoded(Image.fromarray(np.asarray(values).astype(kind)), "TIFF")


def test_deep_grey_is_never_black_by_its_range():
    ramp = np.linspace(0, 1, 64).repeat(16).reshape(64, 16)
    for values in (ramp * 1e-3, ramp * 3.5 - 1, ramp * 1e6, ramp * 255):
        assert np.ptp(image(deep(values, np.float32)).astype(int)) >= (
            0 if values.max() < 1 else 250
        )
    assert image(deep(ramp * 65535, np.uint16)).max() == 255
    assert image(deep(ramp * 200, np.int32)).max() == 200
    assert image(deep(ramp * 2e9, np.int32)).max() == 255
    assert "not finite" in refused(deep(np.where(ramp > 0.5, np.nan, ramp), np.float32))
    assert "of no known range" in refused(deep(np.full((8, 8), -7), np.int32))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_several_pictures_the_first_is_taken(kind):
    pictures = [Image.new("RGB", (32, 24), color) for color in ("red", "lime", "blue")]
    data = encoded(pictures[0], kind, save_all=True, append_images=pictures[1:])
    assert (np.abs(image(data).astype(int) - (255, 0, 0)) < 8).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA"])
def test_very_large_images_look_the_same(tmp_path, mode):
    """They are reduced before they become RGB."""
    small = smooth((200, 150)).convert(mode)
    small.resize((7200, 5400), Image.Resampling.NEAREST).save(tmp_path / "a.png", compress_level=1)
    small.save(tmp_path / "b.png")
    found, wanted = image(tmp_path / "a.png"), image(tmp_path / "b.png")
    shape = (found.shape[1], found.shape[0])
    wanted = np.asarray(Image.fromarray(wanted).resize(shape, Image.Resampling.NEAREST))
    assert np.abs(found.astype(int) - wanted).mean() < (16 if mode == "1" else 4)


# Long ones


@pytest.mark.parametrize("size", [(100, 20_000), (10, 2_000), (20_000, 100), (3, 600), (1, 200)])
def test_what_is_as_long_as_can_be_is_taken_by_the_processors(tmp_path, size):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    config = MediaConfig()
    path = write_png(tmp_path / "a.png", size)
    (found,) = decode(Sample("s", (MediaRef("image", str(path)),), ()), config)
    width, height = found.image.size
    assert max(width, height) <= 200 * min(width, height)
    processor = Qwen2VLImageProcessorPil(patch_size=16, merge_size=2)
    kwargs = FAMILIES["qwen3_vl"].value.processor_kwargs(config)["images_kwargs"]
    assert len(processor(found.image, return_tensors="np", **kwargs)["pixel_values"])


@pytest.mark.parametrize("size", [(100, 20_001), (9, 2_000), (2_001, 10), (1, 201)])
def test_what_is_longer_is_a_named_skip(tmp_path, size):
    assert "one side is over 200 times the other" in refused(write_png(tmp_path / "a.png", size))


@pytest.mark.parametrize("size", [(100, 20_000), (3, 600), (7, 1_400), (31, 6_200), (600, 3)])
@pytest.mark.parametrize("most", [1_000, 60_000, 262_144])
@pytest.mark.parametrize("frames", [2, 128])
def test_long_frames_are_taken_by_the_video_processor(size, most, frames):
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

    width, height = fit_for_processors(*size, 1, most)
    limits = {"min_pixels": 1, "max_pixels": MediaConfig().video_total_pixels}
    for factor in (28, 32):
        assert min(smart_resize(frames, height, width, 2, factor, **limits)) >= factor


def test_sound_images_are_as_pillow_reads_them(tmp_path):
    for name in ("a.png", "a.jpg", "a.webp", "a.bmp", "a.tiff", "a.gif", "a.ppm"):
        path = write_noise(tmp_path / name, (65, 43))
        with Image.open(path) as plain:
            assert (image(path) == np.asarray(plain.convert("RGB"))).all()
