"""The live page's server."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import pytest

from caprl_native.viewer.server import serve


def test_its_address_can_be_reached_when_it_is_told() -> None:
    def say(url: str) -> None:
        address = urlsplit(url)
        socket.create_connection((address.hostname, address.port), timeout=10).close()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        serve([], 0, say)
