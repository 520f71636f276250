"""What turns rewards and log-probs into a loss: pure tensor functions, one registry for each kind.

An entry is one file of `losses/`, `advantages/`, `kl/` or `corrections/`: its options and one
function. What is here imports nothing but torch, pydantic and the standard library; the entries do
not even import torch, so that `--help` can list them.
"""
