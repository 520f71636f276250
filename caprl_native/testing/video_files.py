"""Videos whose frames tell their number, in many codecs and containers, and what ffmpeg shows.

A frame's number stands in its picture: 12 black or white blocks in a row, the least bit first.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import imageio_ffmpeg
import numpy as np

BITS = 12
WIDTH, HEIGHT = 224, 160


def picture(n: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Frame `n`, uint8 `[height, width, 3]`: four colours, and its number."""
    image = np.zeros((height, width, 3), np.uint8)
    top, left = height // 2, width // 2
    image[:top, :left], image[:top, left:] = (200, 40, 40), (40, 200, 40)
    image[top:, :left], image[top:, left:] = (40, 40, 200), (200, 200, 40)
    block, row = width // (BITS + 2), max(8, height // 8)
    for bit in range(BITS):
        image[row : 2 * row, block * (bit + 1) : block * (bit + 2)] = 255 if n >> bit & 1 else 0
    return image


def number(frame: np.ndarray) -> int:
    """The number in a decoded frame, uint8 `[H, W, 3]` RGB."""
    height, width = frame.shape[:2]
    block, row = width / (BITS + 2), max(8, height / 8)
    rows = slice(int(row * 1.3), int(row * 1.7) + 1)
    blocks = [
        frame[rows, int(block * (bit + 1.3)) : int(block * (bit + 1.7)) + 1] for bit in range(BITS)
    ]
    return sum(1 << bit for bit, patch in enumerate(blocks) if patch.mean() > 127)


def ffmpeg(*arguments: object, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Runs ffmpeg; raises `RuntimeError` with its message where it fails."""
    program = imageio_ffmpeg.get_ffmpeg_exe()
    command = [program, "-hide_banner", "-y", *map(str, arguments)]
    done = subprocess.run(command, input=data, capture_output=True, timeout=120)
    if done.returncode:
        raise RuntimeError(done.stderr.decode(errors="replace")[-2000:])
    return done


@cache
def _raw(count: int) -> bytes:
    return b"".join(picture(n).tobytes() for n in range(count))


def write_video(path: Path, *options: str, count: int = 150, rate: str = "25") -> Path:
    """`count` numbered frames; `options` are ffmpeg's, of the output."""
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", rate, "-i", "-")
    ffmpeg("-loglevel", "error", *raw, *options, path, data=_raw(count))
    return path


@dataclass(frozen=True)
class Shown:
    """What ffmpeg shows: `times` in seconds from the start of the file, and `numbers`."""

    times: list[float]
    numbers: list[int]


def shown_by_ffmpeg(path: Path) -> Shown:
    done = ffmpeg(
        *("-i", path, "-map", "0:v:0", "-vf", "showinfo", "-fps_mode", "passthrough"),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-"),
    )
    log = done.stderr.decode(errors="replace")
    times = [float(t) for t in re.findall(r"\] n: *\d+ pts: *\S+ pts_time:(\S+)", log)]
    width, height = map(int, re.findall(r"Video: rawvideo.*?, (\d+)x(\d+)", log)[-1])
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)
    return Shown(times, [number(frame) for frame in frames])


# Files to compare: name -> how it is made. Every kind of container, codec, group of pictures,
# frame rate, edit list and rotation that data sets have.

_X264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-preset", "veryfast")
_X265 = ("-c:v", "libx265", "-pix_fmt", "yuv420p", "-preset", "ultrafast")
_QUIET = "log-level=none"
_AOM = ("-c:v", "libaom-av1", "-cpu-used", "8", "-pix_fmt", "yuv420p", "-g", "50")
_SVT = ("-c:v", "libsvtav1", "-preset", "12", "-pix_fmt", "yuv420p", "-g", "40")
_VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "40")
_GAPS = "select='not(between(n,40,90))*not(eq(mod(n,7),3))'"  # frames that are left out
_SLOWER = "setpts='round(if(lt(N,75),N,75+5*(N-75))/25/TB)'"  # 25, then 5 frames a second
_TWICE = "setpts='floor(if(lt(N,75),N,75+5*(N-75))/25/TB)'"  # rounded so that some times are equal

PLAIN: dict[str, tuple[str, ...]] = {
    "h264.mp4": (*_X264, "-g", "50"),
    "h264_long_gop.mp4": (*_X264, "-g", "999", "-bf", "3"),
    "h264_no_b.mp4": (*_X264, "-g", "30", "-bf", "0"),
    "h264_open_gop.mp4": (
        *_X264,
        "-g",
        "24",
        "-x264-params",
        "open-gop=1:b-pyramid=normal:bframes=5",
    ),
    "h264_intra_refresh.mp4": (*_X264, "-g", "25", "-x264-params", "intra-refresh=1"),
    "h264_interlaced.mp4": (*_X264, "-flags", "+ildct+ilme", "-x264-params", "tff=1"),
    "h264_fragmented.mp4": (*_X264, "-g", "25", "-movflags", "frag_keyframe+empty_moov"),
    "h264_faststart.mp4": (*_X264, "-movflags", "+faststart"),
    "h264_no_edit_list.mp4": (*_X264, "-use_editlist", "0"),
    "h264_gaps.mp4": ("-vf", _GAPS, "-fps_mode", "passthrough", *_X264),
    "h264_slower.mp4": ("-vf", _SLOWER, "-fps_mode", "passthrough", *_X264, "-g", "40"),
    "h264_equal_times.mp4": ("-vf", _TWICE, "-fps_mode", "passthrough", *_X264, "-g", "40"),
    "h264_wide_pixels.mp4": ("-vf", "setsar=16/11", *_X264),
    "h264.mov": (*_X264, "-g", "50"),
    "h264.mkv": (*_X264, "-g", "50"),
    "h264_gaps.mkv": ("-vf", _GAPS, "-fps_mode", "passthrough", *_X264),
    "h264.ts": (*_X264, "-g", "50"),
    "h264_interlaced.ts": (*_X264, "-flags", "+ildct+ilme", "-x264-params", "tff=1:keyint=40"),
    "h264_open_gop.ts": (*_X264, "-g", "24", "-x264-params", "open-gop=1:bframes=3"),
    "h264.flv": (*_X264, "-g", "50"),
    "h264.avi": (*_X264, "-g", "50"),
    "h264_no_b.avi": (*_X264, "-bf", "0"),
    "h264.nut": (*_X264,),
    "hevc.mp4": (*_X265, "-x265-params", f"{_QUIET}:open-gop=0:keyint=40:bframes=4"),
    "hevc_open_gop.mp4": (*_X265, "-x265-params", f"{_QUIET}:open-gop=1:keyint=40:bframes=4"),
    "hevc_open_gop.mkv": (*_X265, "-x265-params", f"{_QUIET}:open-gop=1:keyint=24:bframes=3"),
    "hevc_10_bits.mp4": (*_X265[:3], "yuv420p10le", *_X265[4:], "-x265-params", _QUIET),
    "hevc_open_gop.ts": (*_X265, "-x265-params", f"{_QUIET}:open-gop=1:keyint=24:bframes=3"),
    "hevc.ts": (*_X265, "-x265-params", f"{_QUIET}:keyint=40"),
    "hevc_slower.mp4": ("-vf", _SLOWER, "-fps_mode", "passthrough", *_X265, "-x265-params", _QUIET),
    "av1.mp4": _AOM,
    "av1_svt.mkv": _SVT,
    "av1.webm": _AOM,
    "vp9.webm": (*_VP9, "-auto-alt-ref", "1", "-lag-in-frames", "16"),
    "vp9.mp4": _VP9,
    "vp8.ogv": ("-c:v", "libvpx", "-g", "40"),
    "vp8.webm": ("-c:v", "libvpx", "-g", "40", "-auto-alt-ref", "1", "-lag-in-frames", "16"),
    "mpeg4.mp4": ("-c:v", "mpeg4", "-g", "30", "-q:v", "3"),
    "mpeg4_b.mp4": ("-c:v", "mpeg4", "-g", "30", "-bf", "2", "-q:v", "3"),
    "mpeg4_b.mkv": ("-c:v", "mpeg4", "-g", "30", "-bf", "2", "-q:v", "3"),
    "xvid.avi": ("-c:v", "libxvid", "-g", "30", "-q:v", "3"),
    "xvid_b.avi": ("-c:v", "libxvid", "-g", "30", "-bf", "2", "-q:v", "3"),
    "msmpeg4.avi": ("-c:v", "msmpeg4", "-q:v", "3"),
    "mjpeg.avi": ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p", "-q:v", "3"),
    "mjpeg.mov": ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p", "-q:v", "3"),
    "prores.mov": ("-c:v", "prores"),
    "ffv1.mkv": ("-c:v", "ffv1"),
    "mpeg2.mpg": ("-c:v", "mpeg2video", "-g", "15", "-bf", "2", "-q:v", "3"),
    "mpeg1.mpg": ("-c:v", "mpeg1video", "-g", "15", "-bf", "2", "-q:v", "3"),
    "mpeg2_interlaced.ts": ("-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-bf", "2", "-q:v", "3"),
    "mpeg2.ts": ("-c:v", "mpeg2video", "-g", "15", "-bf", "2", "-q:v", "3"),
    "mpeg2.mxf": ("-c:v", "mpeg2video", "-g", "15", "-bf", "2", "-q:v", "3"),
    "wmv2.wmv": ("-c:v", "wmv2", "-g", "30", "-q:v", "3"),
    "wmv1.asf": ("-c:v", "wmv1", "-g", "30", "-q:v", "3"),
    "flv1.flv": ("-c:v", "flv", "-g", "30", "-q:v", "3"),
    "theora.ogv": ("-c:v", "libtheora", "-g", "30", "-q:v", "9"),
    "h263.3gp": ("-vf", "scale=352:288:flags=neighbor", "-c:v", "h263", "-q:v", "3"),
    "colours.gif": ("-t", "2"),
}
RATES = {"ntsc": "30000/1001", "film": "24000/1001", "sixty": "60", "slow": "7"}


def _copied(source: Path, target: Path, *before: str, after: tuple[str, ...] = ()) -> Path:
    ffmpeg("-loglevel", "error", *before, "-i", source, "-c", "copy", *after, target)
    return target


def write_case(name: str, folder: Path) -> Path:
    """The file of a case: one of `PLAIN`, of `RATES` ("ntsc.mkv"), or of `MADE`."""
    path = folder / name
    if name in PLAIN:
        return write_video(path, *PLAIN[name])
    if path.stem in RATES:
        return write_video(path, *_X264, "-g", "48", rate=RATES[path.stem])
    return MADE[name](path)


def _plain(folder: Path, name: str) -> Path:
    source = folder / f"source_{name}"
    return source if source.exists() else write_video(source, *PLAIN[name])


def _cut(path: Path) -> Path:
    """From the middle of a group of pictures on, by an edit list."""
    return _copied(_plain(path.parent, "h264_long_gop.mp4"), path, "-ss", "1.9")


def _turned(path: Path) -> Path:
    turn = path.stem.rsplit("_", 1)[1]
    return _copied(_plain(path.parent, "h264.mp4"), path, "-display_rotation", turn)


def _late(path: Path) -> Path:
    """A video that begins 1.4 s after the sound."""
    sound = ("-f", "lavfi", "-t", "6", "-i", "sine")
    source = _plain(path.parent, "h264.mp4")
    ffmpeg(*("-loglevel", "error", *sound, "-itsoffset", "1.4", "-i", source), "-c:v", "copy", path)
    return path


def _started_late(path: Path) -> Path:
    """A recording that begins within a group of pictures."""
    data = _plain(path.parent, "h264.ts").read_bytes()
    path.write_bytes(data[188 * (len(data) // 188 // 4) :])
    return path


def _joined(path: Path) -> Path:
    """Two recordings, one behind the other: the clock starts again."""
    path.write_bytes(2 * _plain(path.parent, "h264.ts").read_bytes())
    return path


def _looped(path: Path) -> Path:
    """Copied twice into a container whose clock then ticks 24 times a frame."""
    source = _plain(path.parent, "h264.mp4")
    ffmpeg("-loglevel", "error", "-stream_loop", "1", "-i", source, "-c", "copy", path)
    return path


def _piped(path: Path) -> Path:
    """Written where nothing can be put into the header afterwards."""
    arguments = ("-i", _plain(path.parent, "h264.mkv"), "-c", "copy", "-f", "matroska", "-")
    path.write_bytes(ffmpeg("-loglevel", "error", *arguments).stdout)
    return path


MADE = {
    "cut.mp4": _cut,
    "cut.mkv": lambda path: _copied(_plain(path.parent, "h264.mkv"), path, "-ss", "2.9"),
    "turned_90.mp4": _turned,
    "turned_180.mp4": _turned,
    "turned_270.mp4": _turned,
    "late.mp4": _late,
    "late.mkv": _late,
    "started_late.ts": _started_late,
    "joined.ts": _joined,
    "looped.avi": _looped,
    "piped.mkv": _piped,
}
CASES = [*PLAIN, *(f"{rate}{end}" for rate in RATES for end in (".mp4", ".mkv")), *MADE]
