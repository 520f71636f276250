"""What `examples/launch/` and README say to a scheduler, torchrun and the trainer is so."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

from caprl_native.config.cli import parse_cli
from caprl_native.config.schema import Config
from tests.ranks import ROOT

EXAMPLES = ROOT / "examples/launch"
SBATCH = EXAMPLES / "slurm.sbatch"


def kubernetes() -> dict[str, Any]:
    """The documents by their kind."""
    return {d["kind"]: d for d in yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text())}


def container() -> dict[str, Any]:
    (found,) = kubernetes()["Job"]["spec"]["template"]["spec"]["containers"]
    return found


def readme_commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [block for block in blocks if "torchrun" in block]


SCRIPTS = {"slurm": SBATCH.read_text(), "kubernetes": container()["args"][0]}
SCRIPTS |= {f"README {i}": block for i, block in enumerate(readme_commands())}


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_is_a_script(name: str) -> None:
    checked = subprocess.run(["bash", "-n"], input=SCRIPTS[name], capture_output=True, text=True)
    assert checked.returncode == 0 and not checked.stderr


VARIABLES = {
    '"$SLURM_NNODES"': "4",
    '"$gpus"': "8",
    '"$host:29500"': "a:29500",
    '"${start[@]}"': "--resume",
    '"$@"': "",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_torchrun_and_the_trainer_know_every_option(name: str) -> None:
    commands = re.findall(r"torchrun .*?[^\\]\n", SCRIPTS[name] + "\n", re.DOTALL)
    commands = [c for c in commands if "--config" in c]
    for command in commands:
        for variable, value in VARIABLES.items():
            command = command.replace(variable, value)
        words = shlex.split(command.replace("\\\n", " ").rstrip("&\n ").partition(" #")[0])
        parsed = get_args_parser().parse_args(words[1:])
        assert parsed.module and parsed.training_script == "caprl_native.train"
        given = [w.replace("$CONFIG", "video.toml") for w in parsed.training_script_args]
        needed = ["--policy.path=p", "--reward.reader.path=r", "--data.files=['d']"]
        args = parse_cli(Config, [*given[:2], *needed, *given[2:]], "caprl_native.train")
        assert name.startswith("README") or args.config.run.dir == "$RUN_DIR"
    assert commands or name.startswith("README")


def test_pods_find_each_other_and_are_not_done_before_the_run_is() -> None:
    service, job = kubernetes()["Service"], kubernetes()["Job"]
    pod, text = job["spec"]["template"]["spec"], SCRIPTS["kubernetes"]
    name = job["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["publishNotReadyAddresses"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    port = service["spec"]["ports"][0]["port"]
    assert f"--rdzv-endpoint {name}-0.{pod['subdomain']}:{port} " in text
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 4 and "--nnodes 4 " in text
    gpus = container()["resources"]["limits"]["nvidia.com/gpu"]
    assert f"--nproc-per-node {gpus} " in text
    patience = int(re.search(r"--shutdown-timeout (\d+)", text)[1])
    assert patience < pod["terminationGracePeriodSeconds"]
    mounted = {m["name"] for m in container()["volumeMounts"]}
    assert mounted == {v["name"] for v in pod["volumes"]}


def test_torchrun_waits_as_long_as_slurm_gives() -> None:
    text = SCRIPTS["slurm"]
    ahead = int(re.search(r"--signal=B:USR1@(\d+)", text)[1])
    assert int(re.search(r"--shutdown-timeout (\d+)", text)[1]) < ahead
    assert "SIGUSR1" in re.search(r"TORCHELASTIC_SIGNALS_TO_HANDLE=(\S+)", text)[1]


# --- run, with a scheduler and a launcher of our own -------------------------------------------


def tool(folder: Path, name: str, script: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/bash\n{script}\n")
    file.chmod(0o755)


def start(tmp_path: Path, command: list[str], launcher: str) -> subprocess.Popen:
    """SLURM's tools, or torchrun, are what is missing here; bash and the script are real."""
    tools = tmp_path / "tools"
    tools.mkdir()
    said = f'echo "$(basename "$0") $*" >> {shlex.quote(str(tmp_path / "said"))}'
    tool(tools, "scontrol", f"{said}\nif [[ $1 == show ]]; then echo gpu7; echo gpu8; fi")
    for name in ("srun", "torchrun"):
        tool(tools, name, f"{said}\n{launcher}")
    own = {"SLURM_JOB_ID": "42", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "gpu[7-8]"}
    own |= {"CONFIG": "video.toml", "RUN_DIR": str(tmp_path / "run"), "SLURM_GPUS_ON_NODE": "4"}
    own["SLURM_CPUS_PER_TASK"] = "64"
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(command, env={**os.environ, **own, "PATH": path})


STOPS = "trap 'sleep 0.3; exit 1' USR1 TERM; touch started; for i in {1..300}; do sleep 0.1; done"


def signalled(tmp_path: Path, command: list[str], number: signal.Signals) -> tuple[int, str]:
    """Exit code, and what was said to the tools, of a script that gets a signal."""
    mark = tmp_path / "started"
    process = start(tmp_path, command, STOPS.replace("started", shlex.quote(str(mark))))
    try:
        until = time.monotonic() + 30
        while not mark.exists() and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(number)
        code = process.wait(30)
    finally:
        process.kill()
    return code, (tmp_path / "said").read_text()


def test_a_preempted_job_waits_for_the_ranks_and_is_queued_again(tmp_path: Path) -> None:
    saved = tmp_path / "run/checkpoints/step_00000005"
    saved.mkdir(parents=True)
    (saved / "manifest.json").write_text("{}")
    code, said = signalled(tmp_path, ["bash", str(SBATCH), "--policy.lr=1"], signal.SIGUSR1)
    assert code == 0
    srun, requeue = said.splitlines()[1:]
    assert requeue == "scontrol requeue 42"
    assert "--nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint gpu7:29500" in srun
    assert srun.endswith(f"--config video.toml --run.dir={tmp_path}/run --resume --policy.lr=1")


@pytest.mark.parametrize("code", [0, 1])
def test_a_job_that_ends_is_not_queued_again(tmp_path: Path, code: int) -> None:
    assert start(tmp_path, ["bash", str(SBATCH)], f"exit {code}").wait(30) == code
    said = (tmp_path / "said").read_text()
    assert "requeue" not in said and said.rstrip().endswith("--run.overwrite=true")


def test_a_pod_that_is_evicted_is_not_complete(tmp_path: Path) -> None:
    command = [*container()["command"], SCRIPTS["kubernetes"]]
    code, said = signalled(tmp_path, command, signal.SIGTERM)
    assert code != 0 and said.startswith("torchrun --nnodes 4")


@pytest.mark.parametrize("exported", [False, True])
def test_a_pod_is_complete_with_the_export_alone(tmp_path: Path, exported: bool) -> None:
    if exported:
        (tmp_path / "run/export").mkdir(parents=True)
    command = [*container()["command"], SCRIPTS["kubernetes"]]
    assert (start(tmp_path, command, "exit 0").wait(30) == 0) == exported
