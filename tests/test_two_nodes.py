"""Two nodes, which are two network namespaces of this machine: the same run as on one node.

Skipped where namespaces are not permitted (they need root and iproute2); the reason says which.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.ranks import ROOT, Forked, forking

sys.path.insert(0, str(ROOT / "tools"))

import two_nodes  # noqa: E402
from kill_resume import differences, metrics  # noqa: E402

WHY = two_nodes.problem()
pytestmark = pytest.mark.skipif(bool(WHY), reason=f"no network namespaces: {WHY}")


class Quick(two_nodes.Runs):
    """Torchrun and its ranks are forks that wait for no imports."""

    def start(self, words: list[str], log: Path) -> Forked:
        return Forked(two_nodes.MODULE, 2, *words, log=log, env=self.environment())

    def start_on(
        self, node: two_nodes.Node, port: int, words: list[str], log: Path, hidden: Path | None
    ) -> Forked:
        launcher, *first = forking(node.torchrun(port), two_nodes.MODULE)
        seen = {"namespace": node.namespace, "name": node.name, "hidden": str(hidden or "")}
        environment = self.environment(node)
        return Forked(launcher, 0, *first, *words, log=log, env=environment, node=seen)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> two_nodes.Runs:
    small = ["--data.batch_size=4", "--rollout.n=4", "--rollout.max_tokens=32", "--eval.every=0"]
    made = two_nodes.make_runs(tmp_path_factory.mktemp("nodes"), *small, steps=3)
    return Quick(made.out, made.settings)


def test_a_node_is_killed_and_both_go_on_as_one_would(runs: two_nodes.Runs) -> None:
    """The first node notices within seconds; the resumed run is the undisturbed one's, bit for bit.

    That one has two ranks on one node, so this compares two nodes with one as well.
    """
    one = runs.one_node(runs.out / "one")
    with two_nodes.two_nodes() as nodes:
        seconds = two_nodes.killed_and_resumed(runs, nodes, runs.out / "two")
    assert seconds < 30
    assert differences(one, runs.out / "two") == []
    assert [line["step"] for line in metrics(one)] == [1, 2, 3]


def test_a_run_dir_that_one_node_alone_sees_is_refused(runs: two_nodes.Runs) -> None:
    with two_nodes.two_nodes() as nodes:
        said = two_nodes.not_shared(runs, nodes, runs.out / "apart")
    assert "run.dir: expected a folder that all nodes share" in said
    assert "on node-0 is not seen on node-1 after" in said
