"""Decoders end where their work does not: limits of time and memory, crashes, what is no file."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import psutil
import pytest
from PIL import Image

from caprl_native.config.media import MediaConfig
from caprl_native.data.decoders import close_decoders
from caprl_native.data.media import DecodedImage, MediaError, decode
from caprl_native.testing.media_files import write_mp4, write_noise, write_png
from caprl_native.testing.video_files import ffmpeg
from caprl_native.types import MediaRef, Sample


def decoded(path, kind="image", **settings):
    ref = MediaRef(kind, str(path))
    return decode(Sample("s", (ref,), ()), MediaConfig(image_min_pixels=1, **settings))[0]


def reason(path, kind="image", **settings) -> str:
    with pytest.raises(MediaError) as error:
        decoded(path, kind, **settings)
    assert error.value.sample == "s" and error.value.name == str(path)
    return error.value.reason


def decoders() -> list[psutil.Process]:
    """The decoding processes of this one, but for those that end meanwhile."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if any("decode_worker" in part for part in child.cmdline()):
                found.append(child)
    return found


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A small file of many pixels: it takes most of a second, and 600 MB."""
    path = tmp_path_factory.mktemp("large") / "large.png"
    Image.new("P", (11_000, 11_000), 7).save(path, compress_level=1)
    return path


@pytest.mark.parametrize("kind", ["image", "video"])
def test_only_regular_files_are_opened(tmp_path, kind):
    decoded(write_png(tmp_path / "a.png"))  # a decoder takes seconds to start on a busy machine
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.png"))
        began = time.monotonic()
        assert reason(tmp_path / "pipe.png", kind) == "is a pipe, not a file"
        assert reason(tmp_path / "s.png", kind) == "is a socket, not a file"
        assert reason("/dev/zero", kind) == "is a device, not a file"
        (tmp_path / "link.png").symlink_to(tmp_path / "pipe.png")
        assert reason(tmp_path / "link.png", kind) == "is a pipe, not a file"
    assert time.monotonic() - began < 5


def test_a_pipe_among_the_frames_of_a_folder_is_named(tmp_path):
    folder = tmp_path / "clip"
    for i in range(4):
        write_png(folder / f"{i}.png")
    (folder / "2.png").unlink()
    os.mkfifo(folder / "2.png")
    ref = MediaRef("video", str(folder), fps=1)
    with pytest.raises(MediaError, match=r"2\.png: is a pipe"):
        decode(Sample("s", (ref,), ()), MediaConfig())


@pytest.mark.parametrize("kind", ["image", "video"])
def test_what_is_no_medium_at_all_is_said(tmp_path, kind):
    for content, said in (
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer"),
        (b"<!DOCTYPE html>\n<html><body>404</body></html>", "is a web page"),
    ):
        path = tmp_path / "a.bin"
        path.write_bytes(content)
        assert said in reason(path, kind)


def test_postscript_under_another_name_starts_no_program(tmp_path):
    path = tmp_path / "a.png"
    path.write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n"
        "%%EndComments\n{ } loop\nshowpage\n%%EOF\n"
    )
    began = time.monotonic()
    assert "cannot identify an image" in reason(path)
    assert time.monotonic() - began < 5


PLAYLISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{path}\n#EXT-X-ENDLIST\n",
    "list.mp4": "ffconcat version 1.0\nfile '{path}'\n",
    "list.sdp": "v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_list_of_other_files_is_no_video(tmp_path, name):
    other = write_mp4(tmp_path / "other.mp4")
    (tmp_path / name).write_text(PLAYLISTS[name].format(path=other))
    assert reason(tmp_path / name, "video") == "is not a video that can be decoded"


def test_a_decoder_that_takes_too_long_is_ended_and_the_next_file_is_decoded(tmp_path, large):
    began = time.monotonic()
    assert reason(large, decode_seconds=0.05) == "took over 0.05 s to decode (media.decode_seconds)"
    assert time.monotonic() - began < 5
    assert decoded(write_png(tmp_path / "a.png")).image.size == (64, 48)


def test_the_limit_is_of_a_cores_time_not_of_a_busy_machines_clock(tmp_path):
    path = write_png(tmp_path / "a.png")
    decoded(path)
    (decoder,) = decoders()
    decoder.suspend()
    goes_on = threading.Timer(0.8, decoder.resume)
    goes_on.start()
    began = time.monotonic()
    assert decoded(path, decode_seconds=0.4).image.size == (64, 48)
    assert time.monotonic() - began > 0.4
    goes_on.join()
    assert decoders() == [decoder]


def test_a_file_that_needs_too_much_memory_is_named_and_the_next_is_decoded(tmp_path, large):
    assert reason(large, decode_gib=0.5) == "needs over 0.5 GiB to be decoded (media.decode_gib)"
    assert decoded(write_png(tmp_path / "a.png")).image.size == (64, 48)
    assert decoded(large).image.size == (1144, 1144)


def test_sizes_are_checked_before_pixels_are_decoded(tmp_path):
    close_decoders()
    Image.new("1", (20_000, 10_000)).save(tmp_path / "a.png")
    assert "Image size 20000 x 10000 is over the limit" in reason(tmp_path / "a.png")
    source = ("-f", "lavfi", "-i", "color=size=9008x9008", "-frames:v", "1")
    ffmpeg(*source, "-c:v", "mjpeg", "-threads", "1", tmp_path / "v.mp4")
    assert "over the limit of 67,108,864 pixels" in reason(tmp_path / "v.mp4", "video")
    (decoder,) = decoders()
    assert decoder.memory_info().rss < 300 * 2**20


def test_a_crash_is_a_reason_and_the_next_file_is_decoded(tmp_path, large):
    decoded(write_png(tmp_path / "a.png"))
    (decoder,) = decoders()
    hit = threading.Timer(0.1, decoder.send_signal, [signal.SIGSEGV])
    hit.start()
    assert reason(large) == "the decoder crashed on it (signal 11)"
    hit.join()
    assert decoded(tmp_path / "a.png").image.size == (64, 48)


def test_a_decoder_killed_from_outside_is_replaced_without_a_word(tmp_path, large):
    decoded(write_png(tmp_path / "a.png"))
    for decoder in decoders():
        decoder.kill()
    assert decoded(tmp_path / "a.png").image.size == (64, 48)
    (decoder,) = decoders()
    hit = threading.Timer(0.1, decoder.kill)
    hit.start()
    assert decoded(large).image.size == (1144, 1144)
    hit.join()


def test_a_file_whose_decoders_are_all_killed_is_skipped(large):
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.05):
            for decoder in decoders():
                with suppress(psutil.NoSuchProcess):
                    decoder.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises((MediaError, RuntimeError), match="killed twice|does not start"):
            decoded(large)
    finally:
        over.set()
        killer.join()


def test_interrupts_are_for_the_program_to_decide(tmp_path):
    path = write_png(tmp_path / "a.png")
    decoded(path)
    before = decoders()
    for decoder in before:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            decoder.send_signal(number)
    assert decoded(path).image.size == (64, 48) and decoders() == before


def test_threads_have_a_decoder_each_and_these_are_kept(tmp_path):
    paths = [write_noise(tmp_path / f"{i}.png", seed=i) for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(decoded, paths))
    for path, item in zip(paths, found, strict=True):
        assert isinstance(item, DecodedImage)
        assert (np.asarray(item.image) == np.asarray(Image.open(path))).all()
    assert 1 <= len(decoders()) <= 4
    close_decoders()
    assert not decoders()


PROGRAM = """
import sys, time
from caprl_native.config.media import MediaConfig
from caprl_native.data.media import decode
from caprl_native.types import MediaRef, Sample

def item(path):
    return decode(Sample("s", (MediaRef("image", path),), ()), MediaConfig())

item(sys.argv[1])
print("decoded", flush=True)
if sys.argv[2:]:
    item(sys.argv[2])
time.sleep(60)
"""


@pytest.mark.parametrize("busy", [False, True])
def test_a_decoder_ends_with_the_process_that_started_it(tmp_path, large, busy):
    path = write_png(tmp_path / "a.png")
    command = [sys.executable, "-c", PROGRAM, str(path), *([str(large)] if busy else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"decoded\n"
        (decoder,) = psutil.Process(process.pid).children()
        time.sleep(0.2 if busy else 0)
        process.kill()
    assert not psutil.wait_procs([decoder], timeout=10)[1]
