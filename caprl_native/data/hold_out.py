"""A share of the records that is never trained on (`data.hold_out`), with media of its own."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from caprl_native.data.records import DataError, Records
from caprl_native.data.shared_media import SharedMedia


def hold_out(
    records: Records, shared: SharedMedia, share: float, seed: int
) -> tuple[Records, Records]:
    """The records that are trained on, and those that are held out: at most `share` of all.

    A function of the records' ids and media (`shared`), the share and the seed, whatever the order
    of the files. Held-out questions are taken as they are, whatever `data.max_blind_accuracy` and
    `data.question_weights` say.

    Raises:
        DataError: no set of records with media of its own is so small, or nothing is left to train
            on.
    """
    if records.links is not None:
        raise DataError(
            "data.hold_out: expected 0 for records whose prompts are made of what captions of "
            "other records leave; name held-out files in data.eval_files"
        )
    sets, ids = shared.sets(), shared.ids
    wanted = max(1, round(share * len(ids)))
    taken: set[int] = set()
    for members in sorted(sets, key=lambda m: _rank(seed, min(ids[i] for i in m))):
        if len(taken) + len(members) <= wanted:
            taken.update(members)
    if not taken or len(taken) == len(ids):
        raise DataError(
            f"data.hold_out = {share:g} of {len(ids)} records is {wanted}, but the smallest set of "
            f"records that share no medium with the rest has {min(map(len, sets))}: add records, "
            "raise data.hold_out, or name held-out files in data.eval_files"
        )
    mark = f"{share!r} held out by {seed}"
    trained = _part(records, [i for i in range(len(ids)) if i not in taken], mark)
    return trained, _as_they_are(_part(records, sorted(taken), mark))


def _rank(seed: int, identity: str) -> bytes:
    """Where a set of records stands among all, by the smallest id in it."""
    return hashlib.blake2b(f"{seed}\0{identity}".encode("utf-8", "surrogatepass")).digest()


def _part(records: Records, chosen: Sequence[int], mark: str) -> Records:
    """Some of the records; `mark` says which in their fingerprint."""
    kept = records.kept
    digest = hashlib.blake2b(f"{records.fingerprint}\0{mark}".encode(), digest_size=16)
    return replace(
        records,
        kept=array("q", chosen if kept is None else (kept[i] for i in chosen)),
        stages=_of(records.stages, chosen),
        renamed={k: records.renamed[i] for k, i in enumerate(chosen) if i in records.renamed},
        fingerprint=digest.hexdigest(),
    )


def _of(stages: array[int] | None, chosen: Sequence[int]) -> array[int] | None:
    return None if stages is None else array("i", (stages[i] for i in chosen))


def _as_they_are(records: Records) -> Records:
    """With all of their questions, unweighted, as held-out files have them."""
    parsers = [partial(p.func, *p.args, **{**p.keywords, "columns": None}) for p in records.parsers]
    return replace(records, parsers=parsers)
