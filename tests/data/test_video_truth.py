"""Frames and times of videos are those that ffmpeg shows, in files that gave others."""

import functools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from caprl_native.config.media import MediaConfig
from caprl_native.data.media import DecodedVideo, MediaError, decode
from caprl_native.data.sizes import Unusable
from caprl_native.data.timeline import Timeline, choose
from caprl_native.testing.media_files import truncate
from caprl_native.testing.video_files import (
    MADE,
    Shown,
    number,
    picture,
    shown_by_ffmpeg,
    write_case,
    write_video,
)
from caprl_native.types import MediaRef, Sample
from tools.compare_decoding import compare

FAULTS = Path(__file__).parents[1] / "faults"
FORTY = MediaConfig(video_fps=8, video_max_frames=40)


def video(path, config=FORTY, **clip) -> DecodedVideo:
    (found,) = decode(Sample("s", (MediaRef("video", str(path), **clip),), ()), config)
    assert isinstance(found, DecodedVideo)
    assert all(type(i) is int for i in found.metadata["frames_indices"])
    return found


def assert_shown(found: DecodedVideo, shown: Shown, start: float = 0.0) -> None:
    """Each frame is the last one shown at or before its time, from the first one's on."""
    first = shown.times[0]
    for time, frame in zip(found.timestamps, found.frames, strict=True):
        before = [i for i, t in enumerate(shown.times) if t - first <= start + time + 1e-4]
        assert number(frame) == shown.numbers[before[-1]]


@functools.cache
def shown_in(name: str) -> Shown:
    return shown_by_ffmpeg(FAULTS / name)


# name: frames, seconds, frames per second where they are constant
VIDEOS = {
    "hang_mpegts.ts": (502, 20.12, None),
    "wrong_frames_h264.avi": (1500, 60.0, 25.0),
    "L_mpeg2.mpg": (1500, 60.0, None),
    "wmv.wmv": (250, 10.0, 25.0),
    "vfr.mp4": (150, 9.84, None),
    "cut_copy.mp4": (102, 4.08, 25.0),
    "av1.mp4": (100, 4.0, 25.0),
    "pipe.mkv": (250, 10.0, 25.0),
    "anim.gif": (20, 2.0, 10.0),
    "sar.mp4": (250, 10.0, 25.0),
}


@pytest.mark.parametrize("name", VIDEOS)
def test_files_that_failed_give_the_frames_of_their_labels(name):
    count, seconds, fps = VIDEOS[name]
    shown = shown_in(name)
    found = video(FAULTS / name)
    assert len(shown.numbers) == count
    assert_shown(found, shown)
    assert found.metadata["duration"] == pytest.approx(seconds, abs=1e-6)
    assert len(found.frames) == min(40, count, 2 * int(4 * seconds))
    if fps:
        assert (found.metadata["fps"], found.metadata["total_num_frames"]) == (fps, count)
    last = shown.times[-1] - shown.times[0]
    assert found.timestamps[0] == 0 and found.timestamps[-1] == pytest.approx(last, abs=1e-3)


def test_labels_of_a_changing_rate_are_true_times():
    shown = shown_in("vfr.mp4")
    found = video(FAULTS / "vfr.mp4")
    truth = np.array(shown.times)
    assert all(np.abs(truth - time).min() < 1e-4 for time in found.timestamps)
    steps = np.diff(found.timestamps)
    assert steps.max() < 2 * steps.mean()  # evenly spaced in time, not in number


@pytest.mark.parametrize("name", ["vfr.mp4", "hang_mpegts.ts", "sar.mp4"])
@pytest.mark.parametrize(("start", "end"), [(6, 8), (6.05, 7.3), (0.5, 0.55)])
def test_a_clip_holds_what_is_shown_in_it(name, start, end):
    shown = shown_in(name)
    found = video(FAULTS / name, start=start, end=end)
    assert_shown(found, shown, start)
    length = end - start
    assert found.metadata["duration"] == pytest.approx(length, abs=0.041)
    assert found.timestamps[0] < 0.2 and found.timestamps[-1] < length


def test_pixels_are_stretched_to_the_shape_of_a_display():
    assert video(FAULTS / "sar.mp4").frames.shape[1:3] == (240, round(336 * 16 / 11))
    small = video(FAULTS / "sar.mp4", FORTY.replace(video_frame_pixels=10_000)).frames
    assert small.shape[2] / small.shape[1] == pytest.approx(112 / 55, rel=0.02)


QUICK = [  # of all in testing/video_files.py, which tools/compare_decoding.py goes through
    *("h264_open_gop.mp4", "h264_equal_times.mp4", "h264_slower.mp4", "h264_intra_refresh.mp4"),
    *("hevc_open_gop.mp4", "vp9.webm", "mpeg4_b.mp4", "xvid_b.avi", "mpeg2.mpg", "theora.ogv"),
    *("film.mkv", "cut.mp4", "turned_90.mp4", "late.mkv", "started_late.ts", "joined.ts"),
]


@pytest.mark.parametrize("name", QUICK)
def test_every_frame_and_time_is_that_of_ffmpeg(tmp_path, name):
    found = compare(write_case(name, tmp_path))
    assert found.equal, found


@pytest.mark.parametrize(("turn", "shape"), [("90", (224, 160)), ("180", (160, 224))])
def test_rotated_videos_are_upright(tmp_path, turn, shape):
    found = video(MADE[f"turned_{turn}.mp4"](tmp_path / f"turned_{turn}.mp4")).frames[0]
    assert found.shape[:2] == shape
    turned = np.rot90(picture(0), int(turn) // 90)
    assert np.abs(found.astype(int) - turned).mean() < 12


@pytest.mark.parametrize("name", ["h264_faststart.mp4", "h264.mkv", "h264_fragmented.mp4"])
def test_a_file_that_ends_early_says_where(tmp_path, name):
    path = truncate(write_case(name, tmp_path), 0.5)
    if name == "h264_fragmented.mp4":  # nothing tells how long it was to be
        assert video(path).metadata["duration"] < 5
        return
    with pytest.raises(MediaError, match=r"the file ends after \d\.\d s of 6\.0 s"):
        video(path)


def test_a_file_without_its_index_says_so(tmp_path):
    path = truncate(write_video(tmp_path / "v.mp4", "-c:v", "mpeg4"), 0.5)
    with pytest.raises(MediaError, match=r"its index \(moov\) is missing"):
        video(path)


# Timelines


def timeline(seconds, *rates, tick=Fraction(1, 1000)) -> Timeline:
    ticks = np.round(np.array(seconds) / float(tick)).astype(np.int64)
    return Timeline(ticks, int(ticks[-1]) + 40, tick, tuple(map(Fraction, rates)))


def test_a_rate_is_constant_up_to_the_rounding_of_times():
    film = np.arange(5000) * 1001 / 24000
    assert timeline(film, Fraction(24000, 1001)).constant_rate() == 24000 / 1001
    assert timeline(film, 25).constant_rate() == pytest.approx(24000 / 1001, rel=1e-5)
    assert timeline(np.delete(film, 9), Fraction(24000, 1001)).constant_rate() is None
    assert timeline([0.5, 0.54, 0.58], 25).constant_rate() is None  # it begins late
    assert timeline([0.01, 0.05, 0.09], 25).constant_rate() == 25


def test_a_still_is_shown_at_its_later_moments():
    times = timeline([*np.arange(0, 10, 0.1), 60, *np.arange(60.1, 70, 0.1)], 10)
    chosen = choose(times, MediaRef("video", "v"), MediaConfig(video_fps=1))
    seconds = np.array(chosen.metadata["frames_indices"]) / chosen.metadata["fps"]
    assert len(chosen.numbers) == 68 and (np.diff(seconds) > 0).all()
    assert chosen.numbers.count(99) > 45 and np.abs(np.diff(seconds) - 1).max() < 0.6
    for n, time in zip(chosen.numbers, seconds, strict=True):
        assert n == np.flatnonzero(times.ticks <= round(time * 1000))[-1]


def test_one_frame_without_a_rate_is_given_twice():
    chosen = choose(timeline([0.0]), MediaRef("video", "v"), MediaConfig())
    assert chosen.numbers == [0, 0] and chosen.metadata["duration"] == pytest.approx(0.04)
    with pytest.raises(Unusable, match="outside of the video's 0.04 s"):
        choose(timeline([0.0]), MediaRef("video", "v", start=1.0), MediaConfig())
