"""InternVL between its authors' format (`internvl_chat`) and transformers' own (`internvl`)."""

from caprl_native.convert_internvl.convert import Request, convert
from caprl_native.convert_internvl.names import NotConvertible

__all__ = ["NotConvertible", "Request", "convert"]
