"""GRPO training of dense image and video captioners, in plain PyTorch."""

import os

__version__ = "0.1.0"

# Captions have ever new lengths, and on a CPU a kernel is compiled, about 1 MB, for each shape.
# oneDNN keeps the last 1024 of them, and torch's own cache of matrix products (which no other
# setting bounds) 1024 more in each thread: memory grew from 1.25 to 2 GB within 90 steps. Both
# settings are read when the first kernel is made, so every program must have them before.
if "DNNL_PRIMITIVE_CACHE_CAPACITY" not in os.environ:  # the variable's older name
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
os.environ.setdefault("LRU_CACHE_CAPACITY", "128")
