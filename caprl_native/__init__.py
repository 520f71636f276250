"""GRPO training of dense image and video captioners, in plain PyTorch."""

from caprl_native import _torchvision  # noqa: F401  (must come before anything imports torchvision)

__version__ = "0.1.0"
