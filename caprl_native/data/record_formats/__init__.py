"""How records are laid out: a file for each format, told apart by their fields."""

from caprl_native.data.record_formats.base import FORMATS, Kind, Reading, RecordFormat
from caprl_native.data.record_formats.plain import PLAIN, parse_plain

__all__ = ["FORMATS", "PLAIN", "Kind", "Reading", "RecordFormat", "parse_plain"]
