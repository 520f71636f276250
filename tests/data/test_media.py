"""Files -> pixels: sizes, orientation, frames and their times; and what is said of broken files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from caprl_native.config.media import MediaConfig
from caprl_native.data.media import (
    DecodedImage,
    DecodedVideo,
    MediaError,
    decode,
    fit,
    sample_frames,
)
from caprl_native.data.videos import natural_order
from caprl_native.testing.media_files import (
    moving_square,
    truncate,
    write_mp4,
    write_noise,
    write_png,
)
from caprl_native.types import MediaRef, Sample

ANY_SIZE = MediaConfig(image_min_pixels=1)


def image(path, config=ANY_SIZE) -> np.ndarray:
    ref = MediaRef("image", data=path) if isinstance(path, bytes) else MediaRef("image", str(path))
    (item,) = decode(Sample("s", (ref,), ()), config)
    assert isinstance(item, DecodedImage) and item.image.mode == "RGB"
    return np.asarray(item.image)


def video(path, config=ANY_SIZE, **chosen) -> DecodedVideo:
    source = {"data": path} if isinstance(path, bytes) else {"path": str(path)}
    ref = MediaRef("video", **source, **chosen)
    (item,) = decode(Sample("s", (ref,), ()), config)
    assert isinstance(item, DecodedVideo) and item.frames.dtype == np.uint8
    assert item.frames.shape[0] == len(item.metadata["frames_indices"]) == len(item.timestamps)
    return item


def test_a_sample_gets_all_its_media_in_order(tmp_path):
    refs = (
        MediaRef("image", str(write_png(tmp_path / "a.png", color=(9, 8, 7)))),
        MediaRef("video", str(write_mp4(tmp_path / "v.mp4"))),
        MediaRef("image", data=write_png(tmp_path / "b.png", color=(1, 2, 3)).read_bytes()),
    )
    first, second, third = decode(Sample("s", refs, ()), ANY_SIZE)
    assert isinstance(second, DecodedVideo)
    assert first.image.getpixel((0, 0)) == (9, 8, 7) and third.image.getpixel((0, 0)) == (1, 2, 3)


def test_bytes_and_paths_give_the_same_pixels(tmp_path):
    png, mp4 = write_noise(tmp_path / "a.png"), write_mp4(tmp_path / "v.mp4")
    assert (image(png) == image(png.read_bytes())).all()
    assert (image(png) == np.asarray(Image.open(png))).all()
    assert (video(mp4).frames == video(mp4.read_bytes()).frames).all()


@pytest.mark.parametrize(
    ("mode", "color", "seen"),
    [
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("LA", (0, 0), (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("I;16", 0x8000, (128, 128, 128)),
    ],
)
def test_every_mode_becomes_rgb_over_white(tmp_path, mode, color, seen):
    pixels = image(write_png(tmp_path / "a.png", color=color, mode=mode))
    assert (pixels == seen).all()


def test_orientation_is_applied(tmp_path):
    picture = Image.new("RGB", (40, 20), "black")
    picture.paste("white", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture.save(tmp_path / "a.png", exif=exif)
    pixels = image(tmp_path / "a.png")
    assert pixels.shape == (40, 20, 3)
    assert pixels[:19].min() == 255 and pixels[21:].max() == 0


@pytest.mark.parametrize("size", [(64, 48), (4000, 30), (3, 400), (1, 1), (1920, 1080)])
@pytest.mark.parametrize(("least", "most"), [(1, 10**9), (4096, 10**6), (10**4, 2 * 10**4)])
def test_sizes_lie_between_the_bounds_and_keep_the_aspect(size, least, most):
    width, height = fit(*size, least, most)
    assert least <= width * height <= most
    if least <= size[0] * size[1] <= most:
        assert (width, height) == size
    # One scale explains both sides, up to whole pixels.
    assert (width - 2) / size[0] <= (height + 2) / size[1]
    assert (height - 2) / size[1] <= (width + 2) / size[0]


def test_images_are_fitted(tmp_path):
    small, large = (
        write_noise(tmp_path / "s.png", (20, 10)),
        write_noise(tmp_path / "l.png", (400, 200)),
    )
    config = MediaConfig(image_min_pixels=800, image_max_pixels=5000)
    assert image(small, config).shape == (20, 40, 3)
    assert image(large, config).shape == (50, 100, 3)


def test_frames_are_the_files_own(tmp_path):
    config = MediaConfig(video_fps=1000, video_max_frames=1000)
    found = video(write_mp4(tmp_path / "v.mp4", 20, fps=10), config)
    wanted = np.stack(moving_square(20)).astype(int)
    assert found.metadata["frames_indices"] == list(range(20))
    errors = np.abs(found.frames.astype(int)[:, None] - wanted[None]).mean(axis=(2, 3, 4))
    assert (errors.argmin(axis=1) == np.arange(20)).all()
    np.testing.assert_allclose(found.timestamps, np.arange(20) / 10)


def test_metadata_is_what_engine_and_processor_take(tmp_path):
    found = video(write_mp4(tmp_path / "v.mp4", 40, fps=8), MediaConfig(video_fps=2))
    indices = found.metadata.pop("frames_indices")
    assert found.metadata == {
        "fps": 8.0,
        "duration": 5.0,
        "total_num_frames": 40,
        "video_backend": "pyav",
        "do_sample_frames": False,
    }
    assert len(indices) == 10 and indices[0] == 0 and indices[-1] == 39
    assert all(type(i) is int for i in indices)


@pytest.mark.parametrize("total", [1, 2, 3, 7, 100, 5000])
@pytest.mark.parametrize("fps", [1.0, 24.0, 59.94])
@pytest.mark.parametrize(("least", "most"), [(4, 128), (5, 9), (2, 2)])
def test_frame_numbers_are_even_within_bounds_and_increasing(total, fps, least, most):
    config = MediaConfig(video_min_frames=least, video_max_frames=most)
    indices = sample_frames(total, fps, config)
    assert len(indices) % 2 == 0 and len(indices) <= max(most, 2)
    assert len(indices) >= min(least, total - total % 2)
    assert indices[0] == 0 and indices[-1] == total - 1
    if total > 1:
        assert (np.diff(indices) > 0).all()
    else:
        assert indices == [0, 0]


def test_frames_are_capped_each_and_together(tmp_path):
    path = write_mp4(tmp_path / "v.mp4", moving_square(20, (160, 120)), fps=10)
    every = {"video_fps": 10, "image_min_pixels": 1}
    each = video(path, MediaConfig(**every, video_frame_pixels=1200)).frames
    assert each.shape == (20, 30, 40, 3)
    together = video(path, MediaConfig(**every, video_total_pixels=20 * 300)).frames
    assert together.shape == (20, 15, 20, 3)
    assert np.ptp(each.astype(int), axis=0).max() > 50  # still moving


def test_a_video_of_one_frame_gives_it_twice(tmp_path):
    frames = video(write_mp4(tmp_path / "v.mp4", 1)).frames
    assert len(frames) == 2 and (frames[0] == frames[1]).all()


def fast_start(path):
    """Moves the index of an MP4 to its front, as files made for streaming have it."""
    data, boxes, at = path.read_bytes(), {}, 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        boxes[data[at + 4 : at + 8]] = bytearray(data[at : at + size])
        at += size
    moov = boxes.pop(b"moov")
    at = moov.find(b"stco") + 8  # the offsets of the chunks, which now lie later
    for i in range(int.from_bytes(moov[at : at + 4], "big")):
        entry = slice(at + 4 + 4 * i, at + 8 + 4 * i)
        moov[entry] = (int.from_bytes(moov[entry], "big") + len(moov)).to_bytes(4, "big")
    path.write_bytes(boxes.pop(b"ftyp") + moov + b"".join(boxes.values()))
    return path


def broken(tmp_path, name):
    """A broken medium and a part of the reason."""
    path = tmp_path / name
    if name == "missing.png" or name == "missing.mp4":
        return "No such file"
    if name == "folder.png":
        path.mkdir()
        return "Is a directory"
    if name == "cut.png" or name == "cut.jpg":
        truncate(write_noise(path))
        return "truncated"
    if name == "text.jpg":
        path.write_text("this is no image")
        return "cannot identify"
    if name == "flipped.png":
        data = bytearray(write_noise(path).read_bytes())
        data[60:200] = bytes(140)
        path.write_bytes(data)
        return ""
    if name == "thin.png":
        write_png(path, (2000, 2))
        return "200 times"
    if name == "bomb.png":
        write_png(path, (20000, 10000), 1, mode="1")
        return "Image size"
    if name == "cut.mp4":
        truncate(write_mp4(path))
        return ""
    if name == "cut_stream.mp4":
        truncate(fast_start(write_mp4(path, moving_square(60, (320, 240)))), 0.6)
        return ""
    if name == "empty.mp4":
        path.touch()
        return ""
    path.write_bytes(bytes(range(256)) * 10)
    return ""


IMAGES = ["missing", "folder", "cut", "flipped", "thin", "bomb", "garbage"]
VIDEOS = ["missing", "cut", "cut_stream", "empty", "garbage"]
BROKEN = [f"{n}.png" for n in IMAGES] + ["cut.jpg", "text.jpg"] + [f"{n}.mp4" for n in VIDEOS]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_with_its_reason(tmp_path, name):
    reason = broken(tmp_path, name)
    path = str(tmp_path / name)
    kind = "video" if name.endswith("mp4") else "image"
    refs = [MediaRef(kind, path)]
    if (tmp_path / name).is_file():
        refs.append(MediaRef(kind, data=(tmp_path / name).read_bytes(), label="row 3"))
    for ref in refs:
        with pytest.raises(MediaError) as error:
            decode(Sample("s7", (ref,), ()), ANY_SIZE)
        assert error.value.sample == "s7" and error.value.name == ref.name
        assert reason in error.value.reason and error.value.reason
        assert "\n" not in str(error.value)


def test_a_stream_with_its_index_in_front_is_whole(tmp_path):
    path = write_mp4(tmp_path / "v.mp4", 20)
    plain = video(path).frames
    assert (video(fast_start(path)).frames == plain).all()


EVERY_FRAME = MediaConfig(video_fps=1000, video_max_frames=1000)


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [
        (0.5, 1.5, 5, 14),
        (None, 1.0, 0, 9),
        (1.0, None, 10, 19),
        (0.0, 2.0, 0, 19),
        (1.6, 99.0, 16, 19),
        (0.52, 0.53, 5, 5),
    ],
)
def test_a_clip_is_like_a_file_that_holds_nothing_else(tmp_path, start, end, first, last):
    path = write_mp4(tmp_path / "v.mp4", 20, fps=10)
    whole, clip = video(path, EVERY_FRAME), video(path, EVERY_FRAME, start=start, end=end)
    count = last - first + 1
    assert clip.metadata["total_num_frames"] == count
    assert clip.metadata["duration"] == pytest.approx(count / 10)
    assert clip.metadata["frames_indices"] == (list(range(count)) if count > 1 else [0, 0])
    np.testing.assert_allclose(clip.timestamps, np.array(clip.metadata["frames_indices"]) / 10)
    indices = [first + i for i in clip.metadata["frames_indices"]]
    assert (clip.frames == whole.frames[indices]).all()
    assert (video(path.read_bytes(), EVERY_FRAME, start=start, end=end).frames == clip.frames).all()


def frame_folder(folder, count=12, suffix=".png"):
    """The frames of `moving_square` under names that sort wrongly as texts."""
    folder.mkdir()
    for i, frame in enumerate(moving_square(count), 1):
        Image.fromarray(frame).save(folder / f"{i}{suffix}")
    (folder / "notes.txt").write_text("no frame")
    return folder


def test_frames_are_in_one_order_however_their_folder_lists_them():
    names = ["1.png", "01.png", "02.png", "2.png", "10.png"]
    for listed in (names, names[::-1]):
        files = sorted(map(Path, listed), key=natural_order)
        assert [f.name for f in files] == ["01.png", "1.png", "02.png", "2.png", "10.png"]


def test_a_folder_of_images_is_a_video(tmp_path):
    folder = frame_folder(tmp_path / "clip")
    whole = video(folder, EVERY_FRAME, fps=3)
    assert (whole.frames == np.stack(moving_square(12))).all()
    assert whole.metadata["fps"] == 3 and whole.metadata["duration"] == 4
    clip = video(folder, EVERY_FRAME, fps=3, start=1, end=3)
    assert (clip.frames == whole.frames[3:9]).all() and clip.timestamps[0] == 0


def test_frames_of_a_folder_may_be_jpegs(tmp_path):
    found = video(frame_folder(tmp_path / "clip", suffix=".jpg"), EVERY_FRAME, fps=3)
    wanted = np.stack(moving_square(12)).astype(int)
    errors = np.abs(found.frames.astype(int)[:, None] - wanted[None]).mean(axis=(2, 3, 4))
    assert (errors.argmin(axis=1) == np.arange(12)).all()


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        ({"start": 2.0}, "the clip starts at 2 s, outside of the video's 2.00 s"),
        ({"start": -1.0}, "the clip starts at -1 s, outside"),
        ({"start": 1.0, "end": 1.0}, "the clip ends at 1 s, not after its start at 1 s"),
        ({"start": float("nan")}, "the clip starts at nan s, outside"),
    ],
)
def test_a_clip_outside_of_the_video_is_named(tmp_path, chosen, reason):
    path = write_mp4(tmp_path / "v.mp4", 20, fps=10)
    with pytest.raises(MediaError, match=reason):
        video(path, **chosen)


def test_what_is_wrong_with_a_folder_is_named(tmp_path):
    folder = frame_folder(tmp_path / "clip")
    with pytest.raises(MediaError, match="frames per second are not given"):
        video(folder)
    with pytest.raises(MediaError, match="no usable frame rate"):
        video(folder, fps=0)
    write_png(folder / "7.png", (10, 10))
    with pytest.raises(MediaError, match=r"differ in size, see 7\.png"):
        video(folder, EVERY_FRAME, fps=3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MediaError, match="the folder has no frames"):
        video(tmp_path / "empty", fps=3)


@pytest.mark.parametrize(("total", "count"), [(1, 2), (2, 2), (3, 2), (127, 126), (900, 128)])
@pytest.mark.parametrize("fps", [1.0, 29.97])
def test_uniform_frames_do_not_depend_on_the_length(total, count, fps):
    config = MediaConfig(video_frames="uniform", video_fps=0.1)
    indices = sample_frames(total, fps, config)
    assert len(indices) == count and indices[0] == 0 and indices[-1] == total - 1
    steps = np.diff(indices)
    assert total < 3 or steps.max() - steps.min() <= 1


def test_uniform_frames_have_their_own_times(tmp_path):
    """5 s at 8 frames a second: 12 frames, each at its index / 8; of a clip, counted from 0."""
    config = MediaConfig(video_frames="uniform", video_max_frames=12)
    path = write_mp4(tmp_path / "v.mp4", 40, fps=8)
    found = video(path, config)
    indices = np.linspace(0, 39, 12).round()
    np.testing.assert_allclose(found.timestamps, indices / 8)
    sample = Sample("s", (MediaRef("video", str(path), start=1.0, end=3.0),), ())
    (clip,) = decode(sample, config)
    assert isinstance(clip, DecodedVideo) and len(clip.frames) == 12
    assert clip.timestamps[0] == 0.0 and clip.timestamps[-1] == 15 / 8
