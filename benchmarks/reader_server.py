"""vLLM's OpenAI-compatible server; arguments are its own.

Its engine is a process that imports this file first, as `caprl_native` must be imported before
torchvision where that one was built for CUDA and torch was not.
"""

import runpy

import common  # noqa: F401  (puts the project on the path)

import caprl_native  # noqa: F401

if __name__ == "__main__":
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
