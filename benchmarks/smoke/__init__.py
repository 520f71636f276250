"""The parts of gpu_smoke.py, each a program of its own: `python -m smoke.kernels`."""
