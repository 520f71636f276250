"""GRPO training of dense image and video captioners, in plain PyTorch."""

import os

__version__ = "0.1.0"

# oneDNN keeps a compiled kernel, about 1 MB, for each of the last 1024 shapes that it met, and
# captions have ever new lengths: memory grew from 1.25 to 2 GB within 90 steps. It reads this when
# it makes its first kernel, so every program must have it before.
if "DNNL_PRIMITIVE_CACHE_CAPACITY" not in os.environ:  # the variable's older name
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
