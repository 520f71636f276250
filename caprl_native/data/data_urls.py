"""Files that stand in a record as data URLs: `data:image/png;base64,iVBORw0...`."""

from __future__ import annotations

import base64
import binascii

from caprl_native.data.fields import FieldError

PREFIX = "data:"


def decoded_url(url: str, kind: str, where: str) -> bytes:
    """The file of a data URL; `kind`: "image" or "video". Raises `FieldError`."""
    header, comma, payload = url.removeprefix(PREFIX).partition(",")
    mime, *parameters = header.split(";")
    if not comma or "base64" not in parameters:
        raise FieldError(
            where, f"{url!r:.60} is no data URL in base64", "write data:image/png;base64,..."
        )
    if mime.split("/")[0].lower() != kind and mime not in ("", "application/octet-stream"):
        raise FieldError(where, f"{mime!r:.60} in a data URL is no {kind}", f"give {kind}/...")
    try:
        data = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:  # ValueError: not ASCII
        problem = f"a data URL of broken base64: {error}"
        raise FieldError(where, problem, "encode the file again") from error
    if not data:
        raise FieldError(where, "a data URL without data", "encode the file again")
    return data
