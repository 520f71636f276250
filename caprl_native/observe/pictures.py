"""Small pictures of the media that a run's captions are of; of no other files."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from caprl_native.config.media import MediaConfig
from caprl_native.observe.rollout_index import media_refs
from caprl_native.types import MediaRef, Sample

_KEPT = 256  # pictures in memory, some 10 to 60 KB each
_LIMITS = MediaConfig(
    image_max_pixels=640 * 640,
    video_frames="uniform",
    video_max_frames=8,
    video_frame_pixels=320 * 320,
    decode_seconds=30.0,
)

Record = dict[str, Any]


class Pictures:
    """Pictures by what a record says of its media; the last ones are kept."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Record] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, record: Record) -> list[Record]:
        """Of each medium of a record: `kind`, `name`, and where it can be opened `picture` (a data
        URI), of a video `times` and `duration` in seconds; else why not, `missing`."""
        pairs = zip(record["media"], media_refs(record), strict=True)
        return [self._of_one(name, ref, record.get("seconds")) for name, ref in pairs]

    def _of_one(self, name: str, ref: Record, seconds: float | None) -> Record:
        key = json.dumps([name, ref])
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = {"kind": ref["kind"], "name": name, "picture": None, "times": []}
        found |= {"duration": seconds if ref["kind"] == "video" else None}
        found |= _drawn(name, ref)
        with self._lock:
            self._kept[key] = found
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return found


def _drawn(name: str, ref: Record) -> Record:
    from caprl_native.data.media import DecodedVideo, MediaError, decode  # numpy, Pillow
    from caprl_native.inference.pictures import strip_times, thumbnail

    if ref.get("embedded"):
        return {"missing": "it is embedded in the data, and has no file of its own"}
    if "\0" in name or not Path(name).exists():
        return {"missing": "there is no such file any more, seen from here"}
    start, end, fps = (ref.get(part) for part in ("start", "end", "fps"))
    medium = MediaRef(ref["kind"], name, start=start, end=end, fps=fps)
    try:
        (decoded,) = decode(Sample(name, (medium,), ()), _LIMITS)
    except MediaError as error:
        return {"missing": error.reason}
    found: Record = {"picture": thumbnail(decoded), "times": strip_times(decoded)}
    return found | ({"duration": decoded.seconds} if isinstance(decoded, DecodedVideo) else {})
