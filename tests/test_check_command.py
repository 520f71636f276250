"""The certificate's command line: what cannot be read ends it with one line and exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from caprl_native.certificate.table import Row, table
from caprl_native.check import CheckConfig, main
from caprl_native.config.cli import parse_cli
from caprl_native.testing.media_files import write_png
from tests.ranks import ROOT


def test_help_is_quick_and_names_what_it_takes():
    code = (
        "import sys; sys.argv = ['check', '--help']\n"
        "from caprl_native.check import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n"
        "    print(end.code, 'torch' in sys.modules, 'vllm' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "--policy DIR" in out.stdout and "tiles_max" in out.stdout
    assert out.stdout.splitlines()[-1] == "0 False False", out.stderr


@pytest.mark.parametrize(
    ("model_type", "problem"),
    [
        ("internvl_chat", "make one of it with tools/convert_internvl.py"),
        ("blip", "is not one of internvl, "),
    ],
)
def test_a_directory_of_no_family_says_what_to_use(tmp_path, capsys, model_type, problem):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(SystemExit) as end:
        main(["--policy", str(tmp_path)])
    assert end.value.code == 2
    assert problem in capsys.readouterr().err


def test_nothing_is_loaded_for_a_medium_that_cannot_be_decoded(tiny_policy, tmp_path, capsys, dims):
    broken = write_png(tmp_path / "a.png")
    broken.write_bytes(b"no image")
    with pytest.raises(SystemExit) as end:
        main(["--policy", str(tiny_policy), "--media", str(broken)])
    assert end.value.code == 2
    assert "a.png" in capsys.readouterr().err


def test_a_runs_config_says_what_becomes_of_media():
    args = parse_cli(
        CheckConfig, ["--config", "caprl_internvl.toml", "--media.tiles_max", "6"], "", False
    )
    assert args.config.media.image_min_pixels == 1 and args.config.media.tiles_max == 6
    assert args.config.engine.gpu_memory_utilization == 0.5


def test_without_a_directory_there_is_nothing_to_do(capsys):
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2 and "--policy" in capsys.readouterr().err


def test_a_row_passes_up_to_its_bound_and_never_without_a_figure():
    assert Row("c", "image", "a, b", 1e-4, 1e-4).verdict == "ok"
    assert Row("c", "image", "a, b", 2e-4, 1e-4).verdict == "FAIL"
    assert Row("c", "image", "a, b").verdict == "FAIL"
    assert Row("c", "image", "a, b", float("nan"), 1.0).verdict == "FAIL"
    assert Row("c", "image", "a, b", 3.0, 0.0, note="so it is").verdict == "known"
    assert Row("c", "image", "a, b", float("nan"), 0.0, note="so it is").verdict == "FAIL"
    assert Row("c", "image", "a, b", 0.0, 1.0, problem="it broke").verdict == "FAIL"
    text = table([Row("c", "image", "a, b", 0.0), Row("d", "video", "", problem="it broke")])
    assert "1 of 2 rows fail" in text and "d, video: it broke" in text
