"""GRPO training of dense image and video captioners, in plain PyTorch."""

__version__ = "0.1.0"
