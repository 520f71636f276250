"""Workers that are Ray actors, killed under load: every caption is answered once, none invented."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "tools"))

import load_service  # noqa: E402


def test_no_caption_is_lost_doubled_or_invented_when_workers_die(capsys):
    words = ["--captions", "600", "--clients", "16", "--workers", "2", "--kill-every", "1"]
    assert load_service.main([*words, "--malformed", "0.1", "--work-ms", "10"]) == 0
    table = capsys.readouterr().out
    rows = dict(line.split("  ", 1) for line in table.splitlines() if "  " in line)
    assert int(rows["answered exactly once"]) == int(rows["answered with a reward"]) == 600
    assert int(rows["workers killed"]) > 0


def test_a_caption_that_kills_its_workers_takes_no_other_along(tmp_path):
    from caprl_native.testing.reward_server import reward_server

    rule = tmp_path / "deadly.py"
    rule.write_text(
        "import os\n\n\ndef score(caption):\n"
        "    return os._exit(1) if caption.text == 'deadly' else 0.5\n"
    )
    config = f"""
[server]
ray = "local"
[reward.terms.accuracy]
type = "custom"
import_path = "{rule}:score"
"""
    pair = ["What?\n   - A) red\n   - B) blue", "A"]
    captions = ["x", "deadly", *["y"] * 20]
    with reward_server(config, tmp_path) as server:
        status, reply = server.post({"prompts": [[c, [pair]] for c in captions]})
    assert status == 200
    assert reply["rewards"] == [0.5, None, *[0.5] * 20]
    assert "4 workers died over it" in reply["failures"]["1"]
