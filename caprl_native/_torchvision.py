"""Lets a CUDA build of torchvision be imported beside a CPU build of torch.

Such a torchvision cannot load its compiled operators, and its import then fails on the missing
schemas of two of them. Declaring these is enough for the transforms, all that is used here.
"""

from __future__ import annotations

import importlib.metadata

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_library: torch.library.Library | None = None  # kept alive: its schemas go with it


def declare_missing_operators() -> None:
    """Declares the schemas where torch is a CPU build and torchvision is not; else does nothing."""
    global _library
    try:
        built_for_cpu = "+cpu" in importlib.metadata.version("torchvision")
    except importlib.metadata.PackageNotFoundError:
        return
    if _library is not None or built_for_cpu or torch.version.cuda or torch.version.hip:
        return
    _library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS.values():
        _library.define(schema)


declare_missing_operators()
