"""A process group of one, for tests that need the policy but no second rank."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch.distributed as dist

from caprl_native.policy.parallel import Layout, init_distributed


@pytest.fixture(scope="module")
def layout() -> Iterator[Layout]:
    before = dict(os.environ)
    yield init_distributed()
    dist.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)
