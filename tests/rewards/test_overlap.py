"""Where captions are scored while others are written: not where the reader takes their device."""

import pytest

from caprl_native.config.models import ReaderConfig
from caprl_native.config.schema import RewardConfig
from caprl_native.rewards.base import TermContext
from caprl_native.rewards.rubric import build_rubric, overlaps
from caprl_native.rewards.terms.length import LengthOptions
from tests.rewards.asking import ListeningReader

IN_PROCESS = ReaderConfig(path="models/reader")
ENDPOINT = ReaderConfig(endpoint="http://127.0.0.1:1/v1", model="reader")


@pytest.mark.parametrize(
    ("overlap", "reader", "expected"),
    [
        ("auto", IN_PROCESS, False),
        ("auto", ENDPOINT, True),
        ("on", IN_PROCESS, True),
        ("off", ENDPOINT, False),
    ],
)
def test_a_reader_elsewhere_works_in_the_meantime(
    monkeypatch: pytest.MonkeyPatch, overlap: str, reader: ReaderConfig, expected: bool
) -> None:
    config = RewardConfig(overlap=overlap, reader=reader)
    assert overlaps(config) is expected
    monkeypatch.setattr(TermContext, "reader", ListeningReader())  # none is started here
    assert build_rubric(config, seed=0).overlap is expected


def test_a_reader_that_nobody_asks_is_of_no_consequence() -> None:
    config = RewardConfig(reader=IN_PROCESS, terms={"length": LengthOptions(l1=2, l2=3)})
    assert overlaps(config)
