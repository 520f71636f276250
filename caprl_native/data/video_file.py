"""The frames of a video file and their times, as ffmpeg shows them, with PyAV.

A demuxer is read from its start and never told to seek: what an index, a byte offset or a guess at
a frame's number leads to is not always where it should. Where the file gives every frame's time,
groups of pictures that hold no wanted frame are not decoded; else all are, one after another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.stream import Discard, Disposition

from caprl_native.data.sizes import MAX_VIDEO_PIXELS, Unusable, check_size, displayed
from caprl_native.data.timeline import Stamp, Timeline, true_times

# Containers of one file: no playlists, and nothing that names other files or addresses.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,asf,flv,live_flv,ogg,gif,mxf,"
    "nut,ivf,m4v,h264,hevc,obu,av1,vc1,vc1test,h263,h261,mjpeg,dv,rm,wtv,amv,apng,nsv,nuv,roq,"
    "webp_anim"
)
# Containers and codecs where a packet is a frame, has its time, and key frames are marked rightly.
_SEEKABLE_IN = {"mov", "matroska", "mpegts", "flv"}
_SEEKABLE = {
    *("h264", "hevc", "vp9", "av1", "libdav1d", "mpeg2video", "mpeg4", "mjpeg", "prores", "ffv1"),
}
_DISCONTINUOUS = {"mpegts", "mpeg"}  # recordings whose clock may be reset
_JUMP = 10  # seconds, forwards, that are such a change and no gap
_MAX_FAILED = 0.1  # the share of packets that may be undecodable
_LOST = (0.02, 0.5)  # the share, and the seconds, by which a file may end early


class OutOfStep(Exception):
    """A frame was not where the packets said: every frame must be decoded to know."""


@dataclass(frozen=True)
class Frame:
    """A picture as the file has it, uint8 `[H, W, 3]` RGB, upright; `size`: of a display (W, H)."""

    pixels: np.ndarray
    size: tuple[int, int]


@dataclass(frozen=True)
class _Packet:
    time: int | None  # ticks at which its frame is shown
    order: int | None  # ticks at which it is decoded
    key: bool
    shown: bool  # false: an edit list leaves it out, though others need it
    duration: int


class VideoFile:
    """A video file that was read once for the times of its packets. Raises `Unusable`.

    `guess`: the times by the packets; `seekable`: whether single frames may be decoded by it.
    """

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        with self._opened() as (container, stream):
            self._formats = set(container.format.name.split(","))
            self._codec = stream.codec_context.name
            self._start = container.start_time
            self.tick: Fraction = stream.time_base
            rates = (stream.average_rate, stream.guessed_rate, stream.base_rate)
            self.rates = tuple(Fraction(rate) for rate in rates if rate)
            self._packets = [_packet(p) for p in _demuxed(container, stream) if p.size]
            self._check_whole(stream)
        if not self._packets:
            raise Unusable("it has no frames")
        shown = [p for p in self._packets if p.shown]
        times = {p.time for p in shown}
        self.seekable = (
            bool(self._formats & _SEEKABLE_IN)
            and self._codec in _SEEKABLE
            and self._packets[0].key
            and None not in times
            and len(times) == len(shown) > 0
        )
        self._ticks = self._guessed(shown)
        self.guess = self._timeline(self._ticks, self._last_duration(shown))

    def _guessed(self, shown: Sequence[_Packet]) -> list[int]:
        """The times of the frames, as far as packets tell: in AVI their own are made up."""
        times = [p.time for p in shown]
        if "avi" in self._formats or None in times:
            times = [p.order for p in shown]
        if None in times or not times:
            return [i * self._step for i in range(max(1, len(shown)))]
        return sorted(time for time in times if time is not None)

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        self._source.seek(0)
        try:
            container = av.open(
                self._source,
                container_options={
                    "format_whitelist": CONTAINERS,
                    "protocol_whitelist": "none",
                },
                options={"max_pixels": str(MAX_VIDEO_PIXELS)},
                metadata_errors="replace",
                buffer_size=2**18,
            )
        except (av.error.InvalidDataError, av.error.ArgumentError, av.error.EOFError):
            raise Unusable(_not_a_video(self._source)) from None
        with container:
            stream = _video_stream(container)
            for other in container.streams:
                if other is not stream:
                    other.discard = Discard.all
            context = stream.codec_context
            if context is None:
                raise Unusable("its codec is not known")
            if not context.width * context.height:
                limit = f"or over the limit of {MAX_VIDEO_PIXELS:,} pixels to decode"
                raise Unusable(f"Frame size is not known, {limit}")
            check_size(context.width, context.height, MAX_VIDEO_PIXELS)
            context.thread_count = 1
            context.options = {"max_pixels": str(MAX_VIDEO_PIXELS)}
            yield container, stream

    def _check_whole(self, stream: Any) -> None:
        """Refuses a file that was cut off: its index, or its header, tells of more."""
        times = [p.time for p in self._packets if p.time is not None]
        if not times:
            return
        found = float((max(times) + self._step) * self.tick)
        stated = _stated_end(stream)
        if "mov" in self._formats:
            found = float((max(times) - min(times)) * self.tick)
            stated = found * stream.frames / len(self._packets)
        if stated - found > max(_LOST[0] * stated, _LOST[1]):
            raise Unusable(f"the file ends after {found:.1f} s of {stated:.1f} s")

    # Times

    def _last_duration(self, shown: Sequence[_Packet]) -> int:
        timed = [p for p in shown if p.time is not None]
        last = max(timed, key=lambda p: p.time or 0) if timed else None
        if last is not None and last.duration > 0:
            return last.duration
        return self._step

    @property
    def _step(self) -> int:
        """Ticks between two frames, where nothing else is known."""
        return max(1, round(1 / (next(iter(self.rates), Fraction(25)) * self.tick)))

    def _timeline(self, ticks: Sequence[int], last_duration: int) -> Timeline:
        shown = np.maximum.accumulate(np.asarray(ticks, np.int64))
        zero = int(shown[0])
        if self._start is not None and "avi" not in self._formats:
            # Others of the file's streams may begin before the picture does.
            zero = min(zero, round(Fraction(self._start, 10**6) / self.tick))
        shown = shown - zero
        return Timeline(shown, int(shown[-1]) + last_duration, self.tick, self.rates)

    # Frames

    def pick(self, numbers: Sequence[int]) -> Iterator[tuple[int, Frame]]:
        """Some frames, by their place in `guess`; decoded with no more than what they need.

        Raises `OutOfStep` where a frame's time is not what its packet said.
        """
        wanted = {self._ticks[n]: n for n in numbers}
        ranges = _ranges(self._packets, wanted.keys())
        missing = set(wanted)
        with self._opened() as (container, stream):
            for frame in self._decoded_ranges(container, stream, ranges):
                if frame.pts in missing:
                    if frame.is_corrupt:
                        raise OutOfStep
                    missing.remove(frame.pts)
                    yield wanted[frame.pts], _picture(frame, stream)
        if missing:
            raise OutOfStep

    def _decoded_ranges(
        self, container: Any, stream: Any, ranges: list[_Range]
    ) -> Iterator[av.VideoFrame]:
        context = stream.codec_context
        skips = self._codec == "h264"  # there the bit that says "no frame needs me" is exact
        pending = iter(ranges)
        current = next(pending, None)
        packets = (p for p in _demuxed(container, stream) if p.size)
        for number, packet in enumerate(packets):
            if current is None:
                return
            if number < current.first:
                continue
            if skips:
                context.skip_frame = "DEFAULT" if packet.pts in current.times else "NONREF"
            yield from _decode(context, packet)
            if number == current.last:
                context.skip_frame = "DEFAULT"
                yield from _decode(context, None)
                context.flush_buffers()
                current = next(pending, None)

    def play(self, numbers: Sequence[int], stamps: list[Stamp]) -> Iterator[tuple[int, Frame]]:
        """Decodes every frame in order; yields those of `numbers`, and adds all to `stamps`.

        `timeline(stamps)` is the truth once it has ended.
        """
        wanted = set(numbers)
        failed = sent = 0
        with self._opened() as (container, stream):
            for packet in _demuxed(container, stream):
                sent += 1
                try:
                    frames = stream.codec_context.decode(packet if packet.size else None)
                except (av.error.InvalidDataError, av.error.EOFError):
                    failed += 1
                    continue
                for frame in frames:
                    if len(stamps) in wanted:
                        yield len(stamps), _picture(frame, stream)
                    stamps.append((frame.pts, frame.dts))
        if not stamps:
            raise Unusable("no frame of it can be decoded")
        if failed > _MAX_FAILED * sent:
            raise Unusable(f"it is damaged: {failed} of {sent} frames cannot be decoded")

    def timeline(self, stamps: Sequence[Stamp]) -> Timeline:
        """Of what `play` has collected."""
        last = self._last_duration([p for p in self._packets if p.shown])
        return self._timeline(true_times(stamps, self._step), last)


# Packets


def _video_stream(container: Any) -> Any:
    videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not videos:
        raise Unusable("it has no video stream")
    best = container.streams.best("video")
    return best if any(best is s for s in videos) else videos[0]


def _demuxed(container: Any, stream: Any) -> Iterator[Any]:
    """Packets with times that go on where a recording's clock was reset; the last is empty."""
    jumps = bool(set(container.format.name.split(",")) & _DISCONTINUOUS)
    shift, expected = 0, None
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except (av.error.InvalidDataError, av.error.EOFError):
            return  # what lies behind is lost; whether it is missed is for the caller to see
        now = packet.dts if packet.dts is not None else packet.pts
        if jumps and now is not None and packet.size:
            second = 1 / stream.time_base
            off = 0 if expected is None else now + shift - expected
            if off > _JUMP * second or off < -second / 10:
                shift -= off
            expected = now + shift + (packet.duration or 0)
            if shift:
                packet.pts = None if packet.pts is None else packet.pts + shift
                packet.dts = None if packet.dts is None else packet.dts + shift
        yield packet


def _packet(packet: Any) -> _Packet:
    return _Packet(
        packet.pts, packet.dts, packet.is_keyframe, not packet.is_discard, packet.duration or 0
    )


@dataclass
class _Range:
    """Packets `first` to `last` are decoded, for the frames of these times."""

    first: int
    last: int
    times: set[int]


def _ranges(packets: Sequence[_Packet], times: Any) -> list[_Range]:
    """What has to be decoded for the frames of `times`, by ranges that do not overlap."""
    place = {p.time: i for i, p in enumerate(packets) if p.shown}
    keys = [(i, p.time) for i, p in enumerate(packets) if p.key and p.time is not None]
    found: list[_Range] = []
    for i, time in sorted((place[t], t) for t in times):
        # A frame that is shown before the key frame it follows may need those before both.
        first = max((k for k, its_time in keys if k <= i and its_time <= time), default=0)
        if found and first <= found[-1].last + 1:
            found[-1].last = i
            found[-1].times.add(time)
        else:
            found.append(_Range(first, i, {time}))
    return found


def _decode(context: Any, packet: Any) -> list[av.VideoFrame]:
    try:
        return context.decode(packet)
    except (av.error.InvalidDataError, av.error.EOFError) as error:
        raise OutOfStep from error


# Pictures


def _picture(frame: av.VideoFrame, stream: Any) -> Frame:
    size = displayed(frame.width, frame.height, stream.sample_aspect_ratio)
    # One thread: others would be started, and ended, for every frame.
    pixels = frame.reformat(format="rgb24", threads=1).to_ndarray()
    matrix = frame.side_data.get(SideData.DISPLAYMATRIX)
    if matrix is not None:
        pixels, swapped = _upright(pixels, np.frombuffer(bytes(matrix), np.int32))
        size = size[::-1] if swapped else size
    return Frame(pixels, size)


def _upright(pixels: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, bool]:
    """Turned by quarters and mirrored as a display matrix says, and whether sides have swapped.

    `matrix`: 9 numbers, rows (a, b, u), (c, d, v), (x, y, w); x' = a x + c y, y' = b x + d y.
    """
    a, b, c, d = (int(v) for v in matrix[[0, 1, 3, 4]])
    swapped = abs(b) + abs(c) > abs(a) + abs(d)
    if swapped:
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    if a < 0:
        pixels = pixels[:, ::-1]
    if d < 0:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels), swapped


# What is wrong with a file


def _not_a_video(source: BinaryIO) -> str:
    source.seek(0)
    if source.read(8)[4:] in (b"ftyp", b"mdat"):
        return "its index (moov) is missing: the file is cut off, or was not closed when written"
    return "is not a video that can be decoded"


def _stated_end(stream: Any) -> float:
    """Seconds at which the video ends by its header; 0 where it does not say."""
    stated = next((v for k, v in stream.metadata.items() if k.upper().startswith("DURATION")), "")
    match = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stated)
    if match is None:
        return 0.0
    hours, minutes, seconds = map(float, match.groups())
    return 3600 * hours + 60 * minutes + seconds
