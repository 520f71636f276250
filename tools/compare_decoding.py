"""Compares the frames and times of our video reader with what ffmpeg shows, file by file.

    python tools/compare_decoding.py [--markdown docs/decoding_table.md] [NAME ...]

Files are generated with numbered frames (`testing/video_files.py`), decoded whole, and frame by
frame as a sample's few frames are. Exit status 1 where a number of frames, a time or a frame is
another than ffmpeg's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from caprl_native.config.media import MediaConfig
from caprl_native.data.media import DecodedVideo, decode
from caprl_native.data.timeline import Timeline
from caprl_native.data.video_file import OutOfStep, VideoFile
from caprl_native.testing.video_files import CASES, Shown, number, shown_by_ffmpeg, write_case
from caprl_native.types import MediaRef, Sample

BY_PACKETS, IN_SEQUENCE = "by packets", "in sequence"
ROUNDING = 6e-4  # seconds: some containers round times to milliseconds
EVERY = 11  # in frames: which are also decoded alone
SOME = MediaConfig(video_max_frames=24)


@dataclass(frozen=True)
class Compared:
    """One file. `wrong_*`: how many frames differ from ffmpeg's."""

    name: str
    way: str
    rate: float | None
    frames: int
    frames_shown: int
    time_error: float  # seconds, the largest
    wrong_whole: int
    wrong_alone: int
    wrong_sampled: int

    @property
    def equal(self) -> bool:
        wrong = self.wrong_whole + self.wrong_alone + self.wrong_sampled
        return self.frames == self.frames_shown and self.time_error < 1e-5 and not wrong


def compare(path: Path) -> Compared:
    """Decodes a file in every way that samples use."""
    shown = shown_by_ffmpeg(path)
    with path.open("rb") as source:
        file = VideoFile(source)
        times, numbers, way = _whole(file)
        alone, way = _wrong_alone(file, shown) if way == BY_PACKETS else (0, way)
    found = [float(t * times.tick) for t in times.ticks]
    zero = shown.times[0] if path.suffix == ".avi" else 0.0  # there ffmpeg adds the decoder's delay
    errors = [abs(a - (b - zero)) for a, b in zip(found, shown.times, strict=False)]
    return Compared(
        path.name,
        way,
        times.constant_rate(),
        len(numbers),
        len(shown.numbers),
        max(errors),
        sum(a != b for a, b in zip(numbers, shown.numbers, strict=False)),
        alone,
        _wrong_sampled(path, shown, zero),
    )


def _whole(file: VideoFile) -> tuple[Timeline, list[int], str]:
    if file.seekable:
        try:
            numbers = range(len(file.guess.ticks))
            found = {n: number(frame.pixels) for n, frame in file.pick(numbers)}
            return file.guess, [found[n] for n in numbers], BY_PACKETS
        except OutOfStep:
            pass
    stamps: list = []
    numbers = [number(frame.pixels) for _, frame in file.play(range(10**6), stamps)]
    return file.timeline(stamps), numbers, IN_SEQUENCE


def _wrong_alone(file: VideoFile, shown: Shown) -> tuple[int, str]:
    """Frames that are wrong where only one is decoded; and how frames of this file are decoded."""
    wrong = 0
    for n in range(0, len(shown.numbers), EVERY):
        try:
            ((_, frame),) = file.pick([n])
        except OutOfStep:
            return 0, IN_SEQUENCE  # a sample's frames are, then
        wrong += number(frame.pixels) != shown.numbers[n]
    return wrong, BY_PACKETS


def _wrong_sampled(path: Path, shown: Shown, zero: float) -> int:
    """Of a sample's frames, those that are not the last one shown at or before their time."""
    (video,) = decode(Sample(path.name, (MediaRef("video", str(path)),), ()), SOME)
    assert isinstance(video, DecodedVideo)
    wrong = 0
    for time, frame in zip(video.timestamps, video.frames, strict=True):
        before = [i for i, t in enumerate(shown.times) if t - zero <= time + ROUNDING]
        wrong += number(frame) != shown.numbers[max(before, default=0)]
    return wrong


def _row(c: Compared) -> str:
    rate = "varies" if c.rate is None else f"{c.rate:.5g}"
    cells = (c.name, c.way, rate, f"{c.frames} / {c.frames_shown}", f"{c.time_error:.6f}")
    counts = (c.wrong_whole, c.wrong_alone, c.wrong_sampled)
    return "| " + " | ".join([*cells, *map(str, counts), "yes" if c.equal else "**no**"]) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="cases; none: all")
    parser.add_argument("--markdown", type=Path, help="where the table is written, too")
    options = parser.parse_args()
    rows = [
        "| file | decoded | frames/s | frames, ours / ffmpeg's | largest time error, s "
        "| wrong: whole | alone | sampled | equal |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(rows))
    with tempfile.TemporaryDirectory() as folder:
        results = []
        for name in options.names or CASES:
            results.append(compare(write_case(name, Path(folder))))
            rows.append(_row(results[-1]))
            print(rows[-1], flush=True)
    equal = sum(r.equal for r in results)
    rows += ["", f"{equal} of {len(results)} files equal."]
    print(rows[-1])
    if options.markdown:
        options.markdown.write_text("\n".join(rows) + "\n")
    return int(equal < len(results))


if __name__ == "__main__":
    sys.exit(main())
