"""Media that requests share are decoded once, whoever asks, and failures are each request's own."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from caprl_native.config.media import MediaConfig
from caprl_native.data.media import MediaError, decode
from caprl_native.inference.models import Request
from caprl_native.inference.recent import Recent
from caprl_native.testing.samples import noise_image
from caprl_native.types import MediaRef


def request(path: Path, name: str = "a") -> Request:
    chat = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which?"}]},)
    return Request((name,), chat, 0, name, (MediaRef("image", str(path)),))


class Counted:
    """Decodes, slowly, and counts how often, per file."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self._lock = threading.Lock()

    def __call__(self, request: Request):
        with self._lock:
            self.made.append(Path(request.media[0].name).stem)
        time.sleep(0.05)
        return decode(request.sample, MediaConfig())


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        noise_image(i, (40, 30)).image.save(path)
    return paths


def test_requests_at_the_same_time_decode_their_file_once(files: list[Path]) -> None:
    make = Counted()
    recent = Recent(make, keep=2)
    asked = [request(files[i // 20 % 2], f"r{i}") for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(recent.of, asked))
    assert sorted(make.made) == ["0", "1"]
    assert all(found[i][0] is found[i // 20 * 20][0] for i in range(40))


def test_no_more_than_so_many_are_kept(files: list[Path]) -> None:
    make = Counted()
    recent = Recent(make, keep=2)
    for i in (0, 1, 0, 2, 0, 1):  # 2 takes the place of 1, which was used longest ago
        recent.of(request(files[i]))
    assert make.made == ["0", "1", "2", "1"]


def test_a_failure_names_the_request_that_it_is_told_to_and_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "late.png"
    path.write_bytes(b"not yet")
    make = Counted()
    recent = Recent(make, keep=2)
    asked = [request(path, f"r{i}") for i in range(4)]

    def failure(one: Request) -> str:
        with pytest.raises(MediaError) as caught:
            recent.of(one)
        return str(caught.value)

    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(failure, asked))
    assert all(text.startswith(f"sample r{i}: {path}: ") for i, text in enumerate(texts))
    noise_image(0, (40, 30)).image.save(path)
    assert len(recent.of(asked[0])) == 1
