"""The Dockerfile, read: nobody builds it here."""

from __future__ import annotations

import re
import shlex

from tests.document_commands import ROOT, commands

INSTRUCTIONS = {"ARG", "FROM", "RUN", "USER", "WORKDIR", "COPY", "ENV", "CMD"}


def instructions() -> list[tuple[str, str]]:
    """Name and rest of each, comments aside."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in lines if line]


FOUND = instructions()
ARGUMENTS = {
    rest.partition("=")[0]: rest.partition("=")[2] for name, rest in FOUND if name == "ARG"
}


def of(name: str) -> list[str]:
    return [rest for found, rest in FOUND if found == name]


def test_it_is_made_of_known_instructions() -> None:
    assert {name for name, _ in FOUND} == INSTRUCTIONS
    assert FOUND[0][0] == "ARG" and of("FROM") == ["${BASE}"]
    used = set(re.findall(r"\$\{(\w+)\}", (ROOT / "Dockerfile").read_text()))
    assert used <= {*ARGUMENTS, "PATH"}


def test_the_base_has_a_version_and_nothing_names_a_host() -> None:
    image, _, tag = ARGUMENTS["BASE"].partition(":")
    assert re.match(r"\d+\.\d+\.\d+", tag) and tag != "latest"
    assert "/" not in image  # a name alone, or owner/name: never a registry's host
    assert not re.search(r"https?://|\w+\.(io|com|org|net)\b", (ROOT / "Dockerfile").read_text())


def test_it_ends_as_a_user_who_is_not_root() -> None:
    assert of("USER") == ["caprl"] and any("useradd" in run for run in of("RUN"))
    last = max(i for i, (name, _) in enumerate(FOUND) if name == "USER")
    before = [rest for name, rest in FOUND[:last] if name in ("RUN", "COPY")]
    assert all("setup.sh" not in rest for rest in before)
    assert all("--chown=caprl:caprl" in rest for rest in of("COPY"))


def test_what_it_copies_is_there_and_not_left_out() -> None:
    left_out = (ROOT / ".dockerignore").read_text().split()
    for rest in of("COPY"):
        *sources, _ = [word for word in shlex.split(rest) if not word.startswith("--")]
        for source in sources:
            assert (ROOT / source).exists()
            assert not any(source == out or source.startswith(out + "/") for out in left_out)
    made = {line.strip("/") for line in (ROOT / ".gitignore").read_text().split() if line[0] != "_"}
    kept_apart = {line.removeprefix("**/") for line in left_out}
    assert made - {"__pycache__"} <= kept_apart and ".git" in left_out


def test_every_set_of_requirements_can_be_asked_for() -> None:
    assert (ROOT / "requirements" / f"{ARGUMENTS['SET']}.txt").is_file()
    asked = [
        word.partition("=")
        for command in commands(ROOT / "docs" / "containers.md")
        for before, word in zip(command.words, command.words[1:], strict=False)
        if before == "--build-arg"
    ]
    assert asked and all(name in ARGUMENTS for name, _, _ in asked)
    assert all((ROOT / f"requirements/{v}.txt").is_file() for n, _, v in asked if n == "SET")
