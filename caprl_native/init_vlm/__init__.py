"""A vision-language model from parts: one model's tower, another's language model, a projector."""

from caprl_native.init_vlm.build import build
from caprl_native.init_vlm.plan import PartsDiffer
from caprl_native.init_vlm.request import Request

__all__ = ["PartsDiffer", "Request", "build"]
