"""A driver of slow copies, which says when it has a reply: `replicated.py ADDRESS COPIES`."""

from __future__ import annotations

import sys
from functools import partial

from caprl_native.inference.replicas import ReplicatedModel
from tests.inference.scripted_model import ScriptedModel, request


def main() -> None:
    address, copies = sys.argv[1:]
    build = partial(ScriptedModel, 0.02)
    model = ReplicatedModel(build, 4, replicas=int(copies), cluster=address)
    for number, _ in enumerate(model.complete(request(f"r{i}") for i in range(10**6))):
        if not number % 50:
            print("replies", number, flush=True)


if __name__ == "__main__":
    main()
