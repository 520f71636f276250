"""An export behind vLLM's own server, asked by OpenAI's client as docs/captioning.md shows it."""

from __future__ import annotations

import base64
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai

from caprl_native.testing.media_files import write_png
from tests.ranks import Forked

# The program behind `vllm serve`, whose command line looks for a package of the name vllm.
SERVER = "vllm.entrypoints.openai.api_server"
STARTS_S = 240


@contextmanager
def served(model: Path, log: Path) -> Iterator[str]:
    """The base URL of a server of this model, on loopback."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    words = ["--model", str(model)]
    words += ["--served-model-name", "captioner", "--host", "127.0.0.1", "--port", str(port)]
    words += ["--max-model-len", "256", "--max-num-seqs", "4", "--dtype", "float32"]
    words += ["--enforce-eager", "--limit-mm-per-prompt", '{"image": 1, "video": 0}']
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    settings["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"  # tests in this process may have it off
    process = Forked(SERVER, 1, *words, log=log, env=settings)
    try:
        wait_until_healthy(process, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.end()


def wait_until_healthy(process: Forked, url: str, log: Path) -> None:
    ends = time.monotonic() + STARTS_S
    while time.monotonic() < ends:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(log.read_text()[-3000:])


def test_an_export_runs_under_vllms_server(tiny_policy: Path, tmp_path: Path) -> None:
    data = base64.b64encode(write_png(tmp_path / "a.png").read_bytes()).decode()
    with served(tiny_policy, tmp_path / "log") as url:
        client = openai.OpenAI(base_url=url, api_key="none", http_client=httpx_client())
        reply = client.chat.completions.create(
            model="captioner",
            messages=[
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "image_url",
                            "image_url": {"url": f"data:image/png;base64,{data}"},
                        },
                        {"type": "text", "text": "Please describe this image in detail."},
                    ],
                }
            ],
            temperature=1.0,
            max_tokens=24,
            seed=1,
        )
    choice = reply.choices[0]
    assert choice.message.content and choice.finish_reason in ("stop", "length")


def httpx_client() -> openai.DefaultHttpxClient:
    """Without a proxy: the server is on this machine."""
    return openai.DefaultHttpxClient(trust_env=False)
