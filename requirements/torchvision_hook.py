"""Lets a CUDA build of torchvision be imported beside a CPU build of torch.

Such a torchvision cannot load its compiled operators, and its import then fails on the missing
schemas of two of them. Declaring these is enough for the transforms, all that is used here.

`tools/setup.sh` copies this file into the environment's site-packages, as `_caprl_torchvision`,
and a `.pth` file beside it calls `install` whenever an interpreter of the environment starts. So
it reaches every subprocess: vLLM inspects model classes in one of its own, which imports nothing of
this project, and Ray's workers are others. It costs one entry of `sys.meta_path` until torchvision
is imported, and imports nothing before.
"""

import sys

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class _BeforeTorchvision:
    """A finder that finds nothing: it is asked first, and declares the schemas when it is."""

    library = None  # kept alive: its schemas go with it

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(cls)
            cls.declare()
        return None

    @classmethod
    def declare(cls):
        """Declares the schemas where torch is a CPU build and torchvision is not."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            if "+cpu" in version("torchvision"):
                return
        except PackageNotFoundError:
            return
        import torch

        if torch.version.cuda or torch.version.hip:
            return
        cls.library = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS:
            cls.library.define(schema)


def install():
    """Begins to wait for torchvision's import; a second call does nothing."""
    if _BeforeTorchvision not in sys.meta_path and "torchvision" not in sys.modules:
        sys.meta_path.insert(0, _BeforeTorchvision)
