"""Batches of worker processes: whole, few file descriptors, and bounded in bytes."""

from __future__ import annotations

import multiprocessing
import os
import time

import numpy as np
import pytest
import torch
from PIL import Image

from caprl_native.data.transport import Budget
from tests.data.test_loader import indices, loader_of, records_of, take

MIB = 2**20


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return records_of(tmp_path_factory.mktemp("data"))


def tensors(sample, decoded):
    """About a MiB, in as many tensors as a prompt has."""
    number = int(sample.id[1:])
    return {"ids": torch.arange(9), "patches": torch.full((MIB,), number, dtype=torch.uint8)} | {
        "grid": torch.ones(1, 3), "norm": torch.zeros(1, 2, 3)
    }  # fmt: skip


def test_what_is_packed_comes_out_the_same():
    item = {
        "tensors": [
            torch.randn(3, 4).t(),
            torch.empty(0, 2),
            torch.tensor(5),
            torch.ones(2).bool(),
        ],
        "bfloat16": torch.randn(3).bfloat16(),
        "array": np.arange(12).reshape(3, 4)[:, ::2],
        "image": Image.new("RGB", (4, 3), (1, 2, 3)),
        "text": "x",
    }
    budget = Budget(1, 1e9, multiprocessing.get_context("forkserver"))
    parcel = budget.pack(0, [0, 1], lambda index: item if index else "nothing")
    assert budget.waiting == parcel.block.numel() > 0
    nothing, got = budget.take(parcel)
    assert budget.waiting == 0 and nothing == "nothing"
    assert all(torch.equal(a, b) for a, b in zip(got["tensors"], item["tensors"], strict=True))
    assert [t.dtype for t in got["tensors"]] == [t.dtype for t in item["tensors"]]
    assert torch.equal(got["bfloat16"], item["bfloat16"])
    assert np.array_equal(got["array"], item["array"])
    assert got["image"].tobytes() == item["image"].tobytes() and got["text"] == "x"
    got["tensors"][0].add_(1)  # memory of its own, to be written
    assert torch.equal(got["tensors"][0], item["tensors"][0] + 1)


def test_loaded_prompts_hold_no_file_descriptors(records):
    loader = loader_of(records, workers=1, prefetch=1, prepare=tensors)
    held = [next(loader) for _ in range(2)]
    before = len(os.listdir("/proc/self/fd"))
    held += [next(loader) for _ in range(11)]
    assert sum(map(len, held)) > 64
    assert len(os.listdir("/proc/self/fd")) <= before + 2, "those on their way"
    assert all(int(i.prepared["patches"][-1]) == i.index for batch in held for i in batch)
    loader.close()


def test_workers_pause_while_enough_waits(records):
    loader = loader_of(records, workers=2, prefetch=4, prefetch_gib=3 / 1024, prepare=tensors)
    wanted = take(loader_of(records), 6)
    found = [indices(next(loader))]
    until, seen = time.monotonic() + 3, 0
    while time.monotonic() < until:
        seen = max(seen, loader._batches._budget.waiting)
        time.sleep(0.05)
    assert 3 * MIB <= seen < 13 * MIB, "a batch of 6 MiB each, not four"
    found += [indices(next(loader)) for _ in range(5)]
    assert found == wanted
    began = time.monotonic()
    loader.close()  # while workers wait for room
    assert time.monotonic() - began < 4


def test_a_sample_above_the_bound_still_passes(records):
    loader = loader_of(records, workers=2, prefetch=2, prefetch_gib=1e-9, prepare=tensors)
    assert take(loader, 7) == take(loader_of(records), 7)
    loader.close()
