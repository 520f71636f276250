"""Every command that a document shows is one that a test runs, or says what it needs for it.

Behind each, a test elsewhere runs the program (`RUN_BY`), on what two CPU cores can hold; commands
that are marked (`# GPU`, `# Docker`) are held to their options alone, as all are.
"""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from caprl_native.captioning import cli as captioning
from caprl_native.config.cli import parse_cli
from caprl_native.config.s2d import S2dConfig
from caprl_native.config.schema import Config
from caprl_native.curation import curate_cli
from eval import prism
from tests.document_commands import DOCUMENTS, ROOT, Command, all_commands

COMMANDS = all_commands()
RUN_BY = {
    "caprl_native.train": "tests/train/world.py",
    "caprl_native.s2d": "tests/train/test_s2d.py",
    "eval.prism": "tests/eval/test_prism_engines.py",
    "tools/eval_prism.py": "tests/eval/test_prism.py",
    "tools/caption.py": "tests/captioning/test_command.py",
    "tools/curate_qa.py": "tests/curation/test_curate_killed.py",
    "tools/init_vlm.py": "tests/test_init_vlm.py",
    "tools/convert_internvl.py": "tests/test_convert_internvl.py",
    "tools/view_run.py": "tests/viewer/conftest.py",
    "caprl_native.check": "tests/test_check_command.py",
    "caprl_native.pretrain": "tests/train/test_pretrain.py",
    "tools/leak_check.py": "tests/curation/test_leak_check.py",
    "tools/export.py": "tests/test_checkpoint.py",
    "tools/push.py": "tests/test_push.py",
    "tools/make_demo_world.py": "tests/train/world.py",
    "tools/attack_rewards.py": "tests/rewards/test_laboratory.py",
    "make setup": "tests/test_setup.py",
    "make demo": "tests/test_demo_models.py",
    "make docs": "tests/test_site.py",
    "make test": ".ci/run",
    "make lint": ".ci/run",
    "make types": ".ci/run",
    "make test-fast": "tests/conftest.py",
}
SHELL = {"export"}  # of the shell itself
ELSEWHERE = {"docker", "ray", "vllm"}  # programs that are not the project's: only with a mark


def parsed(command: Command) -> None:
    """By the program's own reading of its command line; SystemExit where it knows better."""
    words, prog = command.arguments, command.program
    if prog == "caprl_native.train":
        parse_cli(Config, words, prog, plans=True)
    elif prog == "caprl_native.s2d":
        parse_cli(S2dConfig, words, prog)
    elif prog in ("eval.prism", "tools/eval_prism.py"):
        parse_cli(prism.PrismConfig, prism.long_form(words), prog, needs_file=False)
    elif prog == "tools/caption.py":
        parse_cli(captioning.CaptionConfig, captioning.long_form(words)[0], prog, needs_file=False)
    else:
        words = curate_cli.long_form(words)[0]
        parse_cli(curate_cli.CurationConfig, words, prog, needs_file=False)


PARSED = ("caprl_native.train", "caprl_native.s2d", "eval.prism", "tools/eval_prism.py")
PARSED += ("tools/caption.py", "tools/curate_qa.py")
HELPED = [c for c in COMMANDS if c.program not in PARSED and re.search(r"\.\w", c.program)]


def shown(commands: list[Command]) -> list[object]:
    return [pytest.param(c, id=f"{c.document}: {' '.join(c.words)[:60]}") for c in commands]


@pytest.mark.parametrize("command", shown([c for c in COMMANDS if c.program in PARSED]))
def test_the_program_takes_the_command_line(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    parsed(command)


@pytest.mark.parametrize("program", sorted({c.program for c in HELPED}))
def test_a_programs_help_has_every_option(
    program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [program, "--help"])
    monkeypatch.syspath_prepend(str((ROOT / program).parent))  # as python itself has it
    with pytest.raises(SystemExit):
        if program.endswith(".py"):
            runpy.run_path(str(ROOT / program), run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__")
    known = set(re.findall(r"--[\w.-]*\w", capsys.readouterr().out))
    for command in (c for c in HELPED if c.program == program):
        given = {word.partition("=")[0] for word in command.arguments if word.startswith("--")}
        assert given <= known, command


def targets(command: Command) -> list[str]:
    return [word for word in command.words[1:] if "=" not in word]


def runs_of(command: Command) -> list[str]:
    """What has to be in RUN_BY."""
    if command.program == "make":
        return [f"make {target}" for target in targets(command)]
    return [command.program]


def is_small(command: Command) -> bool:
    """Whether it is of the size that tests run: two ranks at most, and none of the large models."""
    ranks = [n for o, n in zip(command.words, command.words[1:], strict=False) if "nproc" in o]
    return all(int(n) <= 2 for n in ranks) and not any("/models/" in w for w in command.words)


@pytest.mark.parametrize("command", shown([c for c in COMMANDS if not c.needs]))
def test_what_carries_no_mark_is_run_by_a_test(command: Command) -> None:
    assert is_small(command), "mark it: # GPU"
    assert command.program not in ELSEWHERE, "mark it: # GPU, or # Docker"
    if command.program in SHELL:
        return
    for run in runs_of(command):
        assert run in RUN_BY, f"no test is known to run {run}: add it to RUN_BY, or mark it"
        stem = run.removeprefix("make ").rpartition("/")[2].removesuffix(".py")
        assert stem in (ROOT / RUN_BY[run]).read_text(), f"{RUN_BY[run]} does not name {run}"


def test_what_carries_a_mark_is_known() -> None:
    known = {*RUN_BY, *ELSEWHERE, "tools/reward_server.py"}
    known |= {"benchmarks/gpu_smoke.py", "benchmarks/run.py"}
    assert {run for c in COMMANDS if c.needs for run in runs_of(c)} <= known


def test_make_has_the_targets_and_variables() -> None:
    text = (ROOT / "Makefile").read_text()
    for command in (c for c in COMMANDS if c.program == "make"):
        for word in command.words[1:]:
            rule = rf"^{word.partition('=')[0]} \?=" if "=" in word else rf"^{word}:"
            assert re.search(rule, text, re.MULTILINE), command


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_stand_in_fenced_blocks(document: Path) -> None:  # where the tests above find them
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    starts = r"^ {4,}(?:\.venv/bin/)?(?:python|torchrun|make|docker|vllm|ray) .*"
    assert re.findall(starts, text, re.MULTILINE) == []


# --- links, as a code host shows the files -----------------------------------------------------


def anchors(document: Path) -> set[str]:
    """Of the headings, as code hosts make them."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ +(.*)", text, re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).strip().lower() for title in titles]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in plain}


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "CHANGELOG.md"], ids=lambda p: p.name)
def test_links_lead_to_files_and_headings(document: Path) -> None:
    dead = []
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []
