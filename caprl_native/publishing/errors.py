"""What goes wrong on the way to a hub."""

from __future__ import annotations


class PublishError(RuntimeError):
    """A model cannot be published; the message says what to do."""
