"""Where a rank stands: by torchrun, by `srun` alone, with all GPUs of its node or its own alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from caprl_native.distributed.launcher import adopt_slurm, device_index, first_host, replicas
from caprl_native.distributed.world import init_distributed
from caprl_native.train import main

# As `srun --nodes=3 --ntasks=20` leaves it on the third node, for the second task there.
SRUN = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "20",
    "SLURM_STEP_NODELIST": "gpu[07-08,11]",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2),4",
    "SLURM_NODEID": "2",
    "SLURM_PROCID": "17",
    "SLURM_LOCALID": "1",
}


def test_srun_alone_starts_ranks() -> None:
    environ = dict(SRUN)
    adopt_slurm(environ)
    assert {k: v for k, v in environ.items() if k not in SRUN} == {
        "RANK": "17",
        "WORLD_SIZE": "20",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": "24713",
    }


@pytest.mark.parametrize(
    "environ",
    [
        {},
        SRUN | {"RANK": "3"},  # torchrun under srun
        {"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "16"},  # a batch script
        SRUN | {"SLURM_STEP_NUM_TASKS": "1"},
    ],
)
def test_nothing_of_slurm_is_adopted_where_another_launcher_or_none_is(environ: dict) -> None:
    before = dict(environ)
    adopt_slurm(environ)
    assert environ == before


def test_a_port_that_is_given_stays() -> None:
    environ = SRUN | {"MASTER_PORT": "29511"}
    adopt_slurm(environ)
    assert environ["MASTER_PORT"] == "29511"


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("login", "login"),
        ("a-1,b-2", "a-1"),
        ("gpu[003-006,9],login", "gpu003"),
        ("gpu[12,14]", "gpu12"),
        ("rack[2-3]node[01-08]-ib", "rack2node01-ib"),
    ],
)
def test_the_first_host_of_a_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    ("asked", "world", "node", "copies"),
    [
        (0, 8, "8", 1),
        (0, 32, "8", 4),
        (0, 32, None, 4),  # a plan for machines that one is not on
        (0, 4, None, 1),
        (0, 4, "1", 1),  # a copy on each GPU is not for us to choose
        (0, 12, "8", 1),
        (1, 32, "8", 1),
        (2, 32, "8", 2),
    ],
)
def test_a_node_holds_one_copy_unless_told_otherwise(asked, world, node, copies, monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if node:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", node)
    assert replicas(asked, world) == copies


def test_a_rank_takes_the_gpu_of_its_number_or_the_only_one_that_it_sees() -> None:
    assert [device_index(rank, 8, 8) for rank in range(8)] == list(range(8))
    assert [device_index(rank, 2, 8) for rank in range(2)] == [0, 1]
    assert [device_index(rank, 8, 1) for rank in range(8)] == [0] * 8


@pytest.mark.parametrize("visible", [0, 2, 7])
def test_fewer_gpus_than_ranks_is_an_error_on_every_rank(visible: int) -> None:
    for rank in range(8):
        with pytest.raises(ValueError, match=f"8 ranks on this node, and each sees {visible} GPUs"):
            device_index(rank, 8, visible)


@pytest.fixture
def one_gpu_of_eight(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Rank 5 of 8, which sees one GPU. CUDA itself and its process group are what is missing."""
    taken: list[torch.device] = []
    places = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "5", "LOCAL_WORLD_SIZE": "8"}
    # Set here, so that no later test in this process has a port that is in use.
    places |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in places.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 5)
    return taken


def test_one_visible_gpu_is_that_of_the_engines_too(one_gpu_of_eight: list[torch.device]) -> None:
    dims = init_distributed(tensor_parallel=4)
    assert one_gpu_of_eight == [dims.device] == [torch.device("cuda", 0)]
    assert os.environ["LOCAL_RANK"] == "0"  # by which vLLM's external launcher chooses
    assert (dims.rank, dims.tp_rank) == (5, 1)


@pytest.mark.parametrize("program", ["start", "dry run", "library"])
def test_an_engine_does_not_span_nodes(
    program: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "24")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "6")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    if program == "library":
        with pytest.raises(ValueError, match="size = 4 does not divide the 6 ranks"):
            init_distributed(tensor_parallel=4)
        return
    given = ["--config", "video.toml", "--rollout.tensor_parallel_size=4"]
    given += ["--policy.path=x", "--reward.reader.path=y", "--data.files=['z']"]
    given += [f"--run.dir={tmp_path}", *(["--dry-run"] if program == "dry run" else [])]
    with pytest.raises(SystemExit) as exit:
        main(given)
    assert exit.value.code == 2
    said = capsys.readouterr().err
    assert (
        "rollout.tensor_parallel_size: expected a divisor of the number of ranks on a node" in said
    )
