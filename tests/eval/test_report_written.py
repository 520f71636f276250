"""The report page's file, and the small pictures in it."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from caprl_native.data.media import DecodedImage, DecodedVideo
from caprl_native.inference.pictures import strip_times, thumbnail
from eval.report.html import write_html
from tests.eval.report_data import HOSTILE, make_item, make_items, pictures, summarise


def blocks(page: str) -> dict[str, Any]:
    """The data blocks of a page, by id."""
    found = re.findall(
        r'<script type="application/json" id="(.*?)">(.*?)</script>', page, re.DOTALL
    )
    return {name: json.loads(text) for name, text in found}


def test_the_file_holds_what_was_given(tmp_path: Path) -> None:
    items = make_items(3)
    items[0]["captions"][0]["text"] = HOSTILE
    write_html(tmp_path / "report.html", [summarise(items)], iter(items), pictures())
    data = blocks((tmp_path / "report.html").read_text("utf-8"))
    assert data["items-data"] == items
    assert data["summaries-data"] == [summarise(items)]
    assert data["pictures-data"] == pictures()


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    item = make_item(0, "charts")
    broken = item | {"mean": float("nan")}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_html(path, [summarise([item])], [item, broken], {})
    with pytest.raises(ValueError, match="no data URI"):
        write_html(path, [summarise([item])], [item], {"a": "https://example.org/a.jpg"})
    with pytest.raises(ValueError, match="one run"):
        write_html(path, [], [item], {})
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "old"


def decoded(uri: str) -> Image.Image:
    head, _, body = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(body)))


@pytest.mark.parametrize(
    ("size", "small"), [((1280, 960), (320, 240)), ((40, 30), (40, 30)), ((2000, 10), (320, 2))]
)
def test_a_thumbnail_is_small_and_never_enlarged(
    size: tuple[int, int], small: tuple[int, int]
) -> None:
    assert decoded(thumbnail(DecodedImage(Image.new("RGB", size, "teal")))).size == small


def test_a_strip_has_evenly_chosen_frames_and_their_times() -> None:
    shades = np.linspace(0, 250, 30).astype(np.uint8)
    frames = np.broadcast_to(shades[:, None, None, None], (30, 90, 160, 3)).copy()
    video = DecodedVideo(frames, {"fps": 10.0, "frames_indices": list(range(0, 300, 10))})
    strip = np.asarray(decoded(thumbnail(video)))
    assert strip.shape == (68, 8 * 120, 3)
    times = strip_times(video)
    assert times[0] == 0.0 and times[-1] == 29.0 and len(times) == 8
    seen = strip[34, 60::120, 0].astype(int)
    assert np.abs(seen - [shades[round(t)] for t in times]).max() <= 2
    assert strip_times(DecodedImage(Image.new("RGB", (4, 4)))) == []
