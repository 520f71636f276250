"""A vision-language model from parts: one model's tower, another's language model, a projector."""

from caprl_native.init_vlm.build import Request, build
from caprl_native.init_vlm.plan import PartsDiffer

__all__ = ["PartsDiffer", "Request", "build"]
