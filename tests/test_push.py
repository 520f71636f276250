"""An export becomes a folder that a hub understands, and goes there only when it is asked to."""

from __future__ import annotations

import base64
import json
import os
import re
import runpy
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from caprl_native.config.cli import dump, load
from caprl_native.config.schema import Config, SftConfig
from caprl_native.publishing.curves import panels, read_metrics
from caprl_native.publishing.errors import PublishError

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "demo_models" / "policy"
KEY = "hf_AbCdEfGhIjKlMnOpQrStUv"


def push(*words: object) -> int | str | None:
    """What tools/push.py exits with, run in this process; 0 at a good end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["push.py", *map(str, words)])
        try:
            runpy.run_path(str(ROOT / "tools/push.py"), run_name="__main__")
        except SystemExit as ended:
            return ended.code
    return 0


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that has a secret in its config, and an export at step 2."""
    folder = tmp_path / "run"
    export = folder / "checkpoints" / "step_00000002" / "hf"
    export.parent.mkdir(parents=True)
    export.symlink_to(MODEL)
    settings = ["--reward.terms.timestamps.weight=0.2", "--run.name=scenes", "--data.hold_out=0.01"]
    config = load(Config, ["demo.toml"], [*settings, "--data.eval_files=[]"])
    (folder / "config.toml").write_text(dump(config) + f'\n# "{KEY}"\n')
    lines = [
        {"step": n, "reward/total/mean": 0.1 * n, "eval/reward/accuracy/mean": 0.2, "policy/kl": 0}
        for n in (1, 2, 3)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"step": 4, "rew')
    return folder


def front_matter(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def test_the_folder_is_the_export_with_a_card(run: Path, tmp_path: Path) -> None:
    export, out = run / "checkpoints/step_00000002/hf", tmp_path / "upload"
    words = ["--license", "apache-2.0", "--base-model", "owner/base", "--tag", "scenes"]
    assert push("--export", export, "--out", out, *words) == 0
    added = {"README.md", "recipe.toml", "curves.png"}
    assert {p.name for p in out.iterdir()} == {p.name for p in MODEL.iterdir()} | added
    assert all((out / p.name).read_bytes() == p.read_bytes() for p in MODEL.iterdir())
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    card = (out / "README.md").read_text()
    assert front_matter(card) == {
        "license": "apache-2.0",
        "base_model": "owner/base",
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["caprl_native", "captioning", "reinforcement-learning", "grpo", "scenes"],
    }
    ModelCard(card)  # huggingface_hub reads it, too
    assert "from owner/base with caprl_native, after 2 steps" in card
    assert re.search(r"^\| timestamps \| timestamps \| 0\.2 \| .*rule = ", card, re.MULTILINE)
    assert "`outputs/demo/world/train.jsonl`" in card and "0.01 of the records" in card
    assert KEY not in card and KEY not in (out / "recipe.toml").read_text()
    assert load(Config, [str(out / "recipe.toml")]).run.name == "scenes"


def test_what_the_card_says_of_use_works(run: Path, tmp_path: Path) -> None:
    from PIL import Image

    out = tmp_path / "upload"
    words = ["--license", "mit", "--name", str(out)]
    assert push("--export", run / "checkpoints/step_00000002/hf", "--out", out, *words) == 0
    code = re.search(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    assert code
    Image.new("RGB", (64, 64), "red").save(tmp_path / "picture.png")
    shown = subprocess.run(
        [sys.executable, "-c", code[1].replace("1024", "16")],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert shown.returncode == 0 and shown.stdout.strip(), shown.stderr[-2000:]


def test_supervised_training_and_evaluations_are_told(tmp_path: Path) -> None:
    run, summary = tmp_path / "sft", tmp_path / "prism"
    run.mkdir(), summary.mkdir()
    (run / "config.toml").write_text(dump(load(SftConfig, ["demo_reader_sft.toml"])))
    part = {"title": "Own", "metric": "accuracy", "unit": "%", "mean": 61.5, "best": None, "n": 1}
    part["mean_ci"] = [50.0, 73.0]
    part |= {"items": 3, "missing": {"captions": 0}, "caption_tokens": 12.0}
    about = {"run": "trained", "captioner": "c", "reader": "r", "rule": "official"}
    about |= {"complete": True, "benchmarks": {"qa": part}}
    (summary / "summary.json").write_text(json.dumps(about))
    words = ["--export", ROOT / "demo_models/reader", "--run", run, "--license", "mit"]
    assert push(*words, "--out", tmp_path / "out", "--evaluation", summary) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert front_matter(card)["pipeline_tag"] == "text-generation"
    assert "supervised" in front_matter(card)["tags"] and "## Reward" not in card
    assert "| Own | accuracy (%) | 61.5" in card and "curves.png" not in card


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--license", ""], "--license apache-2.0"),
        (["--license", "Apache 2.0!"], "expected an identifier"),
        (["--license", "mit", "--export", "{tmp}/none"], "--run"),
        (["--license", "mit", "--export", "{tmp}/none", "--run", "{run}"], "config.json"),
        (["--license", "mit", "--run", "{tmp}"], "config.toml cannot be read"),
        (["--license", "mit", "--out", "{run}"], "exists: give --out a new folder"),
        (["--license", "mit", "--evaluation", "{run}"], "folder of an evaluation"),
    ],
)
def test_errors_are_one_sentence_and_leave_nothing(
    run: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    given = [word.format(tmp=tmp_path, run=run) for word in words]
    usual = ["--export", run / "checkpoints/step_00000002/hf", "--out", tmp_path / "upload"]
    message = push(*usual, *given)
    assert isinstance(message, str) and message.startswith("error: ") and said in message
    assert not list(tmp_path.glob("upload*"))


def test_metrics_that_are_none_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n[]\n')
    with pytest.raises(PublishError, match="line 2"):
        read_metrics(file)
    assert panels([{"step": 1, "policy/loss": 1.0, "perf/step_s": 1}]) == {"loss": ["policy/loss"]}


# --- the upload, to a hub on this machine ------------------------------------------------------


@dataclass
class Hub:
    """Speaks as much of a hub's protocol as an upload needs, and keeps what comes in."""

    url: str = ""
    refuses: int = 0
    calls: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)

    def answer(self, path: str, body: bytes) -> Any:
        if path == "/api/repos/create":
            self.made = json.loads(body)
            return {"url": f"{self.url}/me/{self.made['name']}", "id": "me/captioner"}
        if "/preupload/" in path:
            named = [f["path"] for f in json.loads(body)["files"]]
            return {"files": [{"path": p, "uploadMode": mode_of(p), "shouldIgnore": False}
                              for p in named]}  # fmt: skip
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            return {"transfer": "basic", "objects": [
                {**o, "actions": {"upload": {"href": f"{self.url}/blob/{o['oid']}"}}}
                for o in objects]}  # fmt: skip
        if path.startswith("/blob/"):
            self.files[path.removeprefix("/blob/")] = body
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    self.files[value["path"]] = self.files.pop(value["oid"])
            return {
                "success": True,
                "commitOid": "1" * 40,
                "commitUrl": f"{self.url}/me/captioner/commit/1",
            }
        return {}


def mode_of(path: str) -> str:
    return "lfs" if path.endswith((".safetensors", ".png")) else "regular"


@contextmanager
def serve_hub(refuses: int = 0) -> Iterator[Hub]:
    hub = Hub(refuses=refuses)

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.calls.append(f"{self.command} {self.path}")
            status = hub.refuses or 200
            said = json.dumps({"error": "no"} if hub.refuses else hub.answer(self.path, body))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said.encode())

        do_GET = do_POST = do_PUT = handle_one

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def send(hub: Hub, *words: object, **env: str) -> subprocess.CompletedProcess[str]:
    """tools/push.py in a process whose hub is ours; a small model in its folder."""
    own = {"HF_ENDPOINT": hub.url, "HF_TOKEN": KEY, "HF_HUB_OFFLINE": "0", **env}
    own["HF_HUB_DISABLE_XET"] = "1"  # our hub takes files as Git LFS does
    command = [sys.executable, "tools/push.py", *map(str, words)]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **own}, capture_output=True, text=True
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "upload"
    made.mkdir()
    (made / "README.md").write_text("---\nlicense: mit\n---\n# A captioner\n")
    (made / "model.safetensors").write_bytes(os.urandom(5000))
    return made


def test_a_folder_goes_to_the_hub_whole_and_private(folder: Path) -> None:
    with serve_hub() as hub:
        sent = send(hub, "--out", folder, "--to", "me/captioner")
        assert sent.returncode == 0, (sent.stderr[-3000:], hub.calls)
        assert sent.stdout.strip().endswith(f"{hub.url}/me/captioner")
        assert hub.files == {p.name: p.read_bytes() for p in folder.iterdir()}
        assert hub.made["visibility"] == "private" and hub.made["organization"] == "me"


def test_a_refusal_is_one_sentence(folder: Path) -> None:
    with serve_hub(refuses=403) as hub:
        sent = send(hub, "--out", folder, "--to", "me/captioner")
    assert sent.returncode == 1 and "error: me/captioner was not uploaded" in sent.stderr
    assert KEY not in sent.stderr and len(sent.stderr.splitlines()) == 1


def test_what_cannot_be_uploaded_is_told(folder: Path, tmp_path: Path) -> None:
    assert "offline mode is enabled" in str(push("--out", folder, "--to", "me/captioner"))
    assert "names no repository" in str(push("--out", folder, "--to", "a/b/c"))
    assert "has no README.md" in str(push("--out", tmp_path, "--to", "me/captioner"))
    assert "give --export" in str(push("--out", folder))
