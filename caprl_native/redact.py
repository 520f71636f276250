"""Passwords and keys in what is written and shown: one function takes them out.

What a program writes for others to read (config.toml, dry runs, warnings, failures in stores and
reports) goes through `redact`. Clients take their credentials from the settings themselves.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

HIDDEN = "***"
_SHORTEST = 4  # characters; a shorter secret is none, and would be found in any text

# ://user:password@host, the password with a slash or not.
_USERINFO = re.compile(
    r"(?<=://)(?:[^/\s?#\"'<>]*|[^/\s@:]+:(?!\d+(?:/|$))[^\s\"'<>]*)(?=@)", re.IGNORECASE
)
_PARAMETER = re.compile(
    r"([?&](?:api[-_]?key|key|(?:\w+[-_])?token|secret|password|passwd|sig(?:nature)?|auth)=)"
    r"[^&#\s\"'<>]+",
    re.IGNORECASE,
)
_HEADER = re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]{4,}", re.IGNORECASE)
# What the keys of well-known services look like, whichever field they were typed into.
_KEY = re.compile(
    r"(?<![\w/.-])(?:"
    r"sk-[\w-]{8,}|(?:hf|gsk|gh[opsur]|github_pat|r8|fw|csk)_\w{16,}|"
    r"(?:xai|nvapi|pplx|glpat|tgp_v1)-[\w-]{16,}|A[KS]IA[0-9A-Z]{12,}|AIza[\w-]{20,}|"
    r"eyJ[\w-]{10,}\.[\w-]{10,}(?:\.[\w-]*)?)"
)


def redact(text: str, *secrets: str) -> str:
    """The text without passwords in URLs, keys that look like keys, and these `secrets`."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, HIDDEN)
    text = _USERINFO.sub(HIDDEN, text)
    text = _PARAMETER.sub(rf"\g<1>{HIDDEN}", text)
    text = _HEADER.sub(rf"\g<1> {HIDDEN}", text)
    return _KEY.sub(HIDDEN, text)


def without_userinfo(url: str) -> str:
    """The URL without the user and password that it may carry."""
    if "@" not in url:
        return url
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
