"""What becomes of requests whose process died."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from caprl_native.inference.backlog import CRASH, GROUP, Backlog, Share
from caprl_native.inference.models import Result
from caprl_native.inference.store import Reply
from tests.inference.scripted_model import request, said


def results_of(share: Share, only: int | None = None) -> list[Result]:
    """Replies to what a share holds, or to the first of it."""
    keys = list(share._open)[:only]
    return [Result(key, Reply(said(key, 0))) for key in keys]


@settings(deadline=None)
@example(poison=set(), chances=[True, False, True], room=19, n=1)
@given(
    poison=st.sets(st.integers(0, 79), max_size=6),
    chances=st.lists(st.booleans(), max_size=30),
    room=st.integers(1, 64),
    n=st.integers(1, 3),
)
def test_one_reply_per_key_whatever_dies_when(poison, chances, room, n):
    """Only what a process died over alone has failed; deaths by chance cost nothing else."""
    backlog = Backlog(request(f"r{i}", n=n) for i in range(80))
    deadly = {f"r{i}" for i in poison}
    found: dict[str, Reply] = {}
    share, deaths = Share(), iter(chances)

    def keep(results: list[Result]) -> None:
        for result in results:
            assert result.key not in found
            found[result.key] = result.reply

    while backlog or len(share):
        for asked in backlog.group() or backlog.new(room):
            share.add(asked)
        names = [key.split("-")[0] for key in share._open]
        by_chance = next(deaths, False) and len(set(names)) > 1
        if deadly & set(names) or by_chance:
            keep(share.answers(results_of(share, 1 if names[0] not in deadly else 0)))
            keep(backlog.lost(share))
        else:
            keep(share.answers(results_of(share)))
    assert len(found) == 80 * n
    failed = {key.split("-")[0] for key, reply in found.items() if reply.failure}
    assert failed == deadly
    assert all(r.failure.startswith(CRASH) for r in found.values() if r.failure)


def test_suspects_come_in_small_groups_and_then_alone():
    backlog, share = Backlog(request(f"r{i}") for i in range(40)), Share()
    for asked in backlog.new(40):
        share.add(asked)
    assert backlog.lost(share) == []
    groups = [backlog.group() for _ in range(3)]
    assert [len(g) for g in groups] == [GROUP, GROUP, 40 - 2 * GROUP]
    for asked in groups[2]:
        share.add(asked)
    assert backlog.lost(share) == []
    assert [len(backlog.group()) for _ in range(9)] == [1] * 8 + [0]


def test_requests_are_read_as_they_are_needed_and_none_just_now_is_not_the_end():
    read = []

    def coming():
        for i in range(10):
            read.append(i)
            yield request(f"r{i}", n=2)
            if i == 3:
                yield None

    backlog = Backlog(coming())
    assert backlog and read == [0]
    assert len(backlog.new(5)) == 3  # of two replies each
    assert read == [0, 1, 2]
    assert len(backlog.new(100)) == 1
    assert len(backlog.new(100)) == 6
    assert not backlog


def test_a_reply_that_came_before_the_death_counts_and_its_request_is_asked_for_the_others():
    backlog, share = Backlog([request("r", n=3)]), Share()
    (asked,) = backlog.new(9)
    share.add(asked)
    assert [r.key for r in share.answers(results_of(share, 1))] == ["r-0"]
    backlog.lost(share)
    (again,) = backlog.group()
    share.add(again)
    answered = share.answers(Result(f"r-{i}", Reply("a")) for i in range(3))
    assert [r.key for r in answered] == ["r-1", "r-2"]
    assert not share and not backlog
