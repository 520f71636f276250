"""The checks of a certificate, one function each: a subject and a case in, rows out.

The order matters: `weight_sync` moves the trainer's weights, `export_loads` replaces the engine.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from caprl_native.certificate.cases import Case
from caprl_native.certificate.reference import PIXELS, Reference
from caprl_native.certificate.subject import Subject
from caprl_native.certificate.table import Row
from caprl_native.data.media import DecodedImage
from caprl_native.export_check import check_export
from caprl_native.messages import cut
from caprl_native.rollout.engine import Generated

Check = Callable[[Subject, Case], Iterator[Row]]

# Of normalised pixels: the order of a float32 product; what an engine rounds its own to.
PIXEL_BOUND = {"float32": 1e-5, "bfloat16": 0.02}
# Nats. Against transformers the largest of a few dozen tokens, against the engine their mean.
LOGPROB_BOUND = {"float32": 1e-4, "bfloat16": 0.1}
ENGINE_BOUND = {"float32": 1e-4, "bfloat16": 0.01}
STALE = 10  # times the bound: what weights that were not sent must differ by, at least
MOVES = 8  # at most: of a random model's weights one hardly shows in bfloat16


def prompt_tokens(subject: Subject, case: Case) -> Iterator[Row]:
    """The trainer's tokens are those of the engine, and those of transformers' processor, which
    may have another mark where a feature stands."""
    ids = subject.prompts[case.name].ids.tolist()
    engine = _written(subject, case).prompt_ids
    yield _row("prompt tokens", case, "trainer, engine", _differing(ids, engine))
    pads = set(subject.policy.family.media_token_ids(subject.policy.config))
    ours, theirs = (
        [-1 if t in pads else t for t in one]
        for one in (ids, _reference(subject, case).ids.tolist())
    )
    yield _row("prompt tokens", case, "trainer, transformers", _differing(ours, theirs))


def pixels(subject: Subject, case: Case) -> Iterator[Row]:
    """What the tower is given of each medium, in the trainer, in vLLM and in transformers."""
    media = subject.prompts[case.name].media
    assert media is not None
    ours = [one.cpu().flatten() for one in subject.policy.family.tower_input(media)]
    engine = _engine_pixels(subject, case)
    gap = max(_pixel_gap(a, b) for a, b in zip(ours, engine, strict=True))
    yield _row("pixels", case, "trainer, engine", gap, PIXEL_BOUND[subject.engine.settings.dtype])
    theirs = [t.flatten() for t in _reference(subject, case).pixels.values()]
    # It may have videos after images, and pads a batch with zeros.
    both = [(t := torch.cat(of))[t != 0].sort().values for of in (ours, theirs)]
    gap = _pixel_gap(*both)
    yield _row("pixels", case, "trainer, transformers", gap, PIXEL_BOUND["float32"])


def positions(subject: Subject, case: Case) -> Iterator[Row]:
    """Positions of the prompt's tokens: transformers', and the engine's where it has several axes
    (those with one are counted)."""
    prompt = subject.prompts[case.name]
    ours = subject.policy.positions(prompt)
    theirs = _reference(subject, case).positions
    yield Row(
        "positions",
        case.name,
        "trainer, transformers",
        _misplaced(ours, theirs),
        note=subject.policy.family.transformers_errs(prompt),
    )
    if len(ours) > 1:
        yield _row("positions", case, "trainer, engine", _misplaced(ours, _engines(subject, case)))


def logprobs(subject: Subject, case: Case) -> Iterator[Row]:
    """Log-probs of random responses, which share the prompt in the trainer, against transformers;
    and of what the engine wrote, against the engine."""
    dtype = subject.engine.settings.dtype
    known = subject.policy.family.transformers_errs(subject.prompts[case.name])
    ours = subject.score(case, subject.responses, ban=False)
    gap = (ours - _reference(subject, case).logprobs).abs().max().item()
    yield Row(
        "log-probs", case.name, "trainer, transformers", gap, LOGPROB_BOUND[dtype], note=known
    )
    gap = _gap(subject, case, _written(subject, case))
    yield _row("log-probs", case, "trainer, engine", gap, ENGINE_BOUND[dtype])


def weight_sync(subject: Subject, case: Case) -> Iterator[Row]:
    """Every weight is moved; the engine agrees again once it has got them, and did not before."""
    bound = ENGINE_BOUND[subject.engine.settings.dtype]
    before = _written(subject, case)
    if not subject.moved:
        _move(subject, STALE * bound)
        subject.sync()
    stale = _gap(subject, case, before)
    if stale < STALE * bound:
        raise ValueError(f"moved weights show by {stale:.1e} nats only, which proves nothing")
    after = subject.written[f"{case.name}, moved"] = subject.write(case)
    yield _row("weight sync", case, "trainer, engine", _gap(subject, case, after), bound)


def export_loads(subject: Subject, case: Case) -> Iterator[Row]:
    """The moved weights, written as a directory and loaded by a fresh engine: it agrees with the
    trainer, and to the last bit with the engine that they were sent to."""
    synced = subject.written[f"{case.name}, moved"]
    if not subject.exported:
        with tempfile.TemporaryDirectory(prefix="certificate-") as folder:
            target = Path(folder) / "export"
            subject.export(target)
            check_export(target, subject.path, subject.media)
            subject.restart(target)
        subject.exported = True
    fresh = subject.write(case)
    bound = ENGINE_BOUND[subject.engine.settings.dtype]
    yield _row("export", case, "trainer, fresh engine", _gap(subject, case, fresh), bound)
    differ = _differing(_bits(synced), _bits(fresh))
    yield _row("export", case, "synced, fresh engine: bits", differ)


CHECKS: dict[str, Check] = {
    "prompt tokens": prompt_tokens,
    "pixels": pixels,
    "positions": positions,
    "log-probs": logprobs,
    "weight sync": weight_sync,
    "export": export_loads,
}


def certify(subject: Subject) -> list[Row]:
    """All rows, check by check. What a check raises is a row that fails."""
    rows: list[Row] = []
    for name, check in CHECKS.items():
        for case in subject.cases:
            rows += run(name, check, subject, case)
    return rows


def run(name: str, check: Check, subject: Subject, case: Case) -> list[Row]:
    """The rows of one check on one case."""
    rows: list[Row] = []
    try:
        for row in check(subject, case):
            rows.append(row)
    except Exception as error:
        problem = cut(f"{type(error).__name__}: {error}", 300)
        rows.append(Row(name, case.name, "", problem=problem))
    return rows


def _row(check: str, case: Case, what: str, figure: float, bound: float = 0.0) -> Row:
    return Row(check, case.name, what, figure, bound)


def _written(subject: Subject, case: Case) -> Generated:
    """What the engine wrote to the case while its weights were the directory's."""
    if case.name not in subject.written:
        if subject.moved:
            raise ValueError("the engine was not asked before its weights moved")
        subject.written[case.name] = subject.write(case)
    return subject.written[case.name]


def _move(subject: Subject, enough: float) -> None:
    """Moves the trainer's weights until it disagrees by so much, in nats, with what the engine has
    written to each of the cases, or they have been moved often."""
    written = [(case, _written(subject, case)) for case in subject.cases]
    while subject.moves < MOVES:
        subject.move()
        if all(_gap(subject, case, out) >= enough for case, out in written):
            break


def _reference(subject: Subject, case: Case) -> Reference:
    found = subject.references[case.name]
    if isinstance(found, Exception):
        raise ValueError(f"transformers raised {type(found).__name__}: {found}") from found
    return found


def _gap(subject: Subject, case: Case, out: Generated) -> float:
    """The mean |log p(trainer) - log p(engine)| over the tokens, nats."""
    ours = subject.score(case, [c.token_ids for c in out.completions])
    theirs = torch.tensor([value for c in out.completions for value in c.logprobs])
    return (ours - theirs).abs().mean().item()


def _differing(ours: list[Any], theirs: list[Any]) -> float:
    """At how many places two lists differ, those that only one has included."""
    return sum(a != b for a, b in zip(ours, theirs, strict=False)) + abs(len(ours) - len(theirs))


def _bits(out: Generated) -> list[Any]:
    return [pair for c in out.completions for pair in zip(c.token_ids, c.logprobs, strict=True)]


def _misplaced(ours: Tensor, theirs: Tensor) -> float:
    """How many tokens stand elsewhere on some axis, `[axes, P]` both, or one axis for all."""
    if ours.shape[1] != theirs.shape[1]:
        return float(max(ours.shape[1], theirs.shape[1]))
    return float((ours != theirs).any(0).sum())


def _pixel_gap(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference; what one has more, such as a batch's padding, must be zeros."""
    n = min(len(ours), len(theirs))
    rest = torch.cat([ours[n:], theirs[n:]]).float()
    same = ours[:n].float() - theirs[:n].float()
    return torch.cat([same, rest]).abs().max().item()


def _engine_pixels(subject: Subject, case: Case) -> list[Tensor]:
    """The tower's input of each medium by the engine's processor, in the prompt's order."""
    subject.engine.forget_media()  # else it hands out what it has made before, by a name
    rendered = subject.engine.render(subject.prompts[case.name].for_engine())
    subject.engine.forget_media()  # else it takes for known what it has rendered and never run
    by_kind = {kind: iter(items) for kind, items in rendered["mm_kwargs"].items()}
    found = []
    for one in case.decoded:
        item = next(by_kind["image" if isinstance(one, DecodedImage) else "video"])
        found.append(next(_normalised(subject, item[n].data) for n in PIXELS if n in item))
    return [pixels.cpu().flatten() for pixels in found]


def _normalised(subject: Subject, pixels: Tensor) -> Tensor:
    """As the engine's model would do it, where its processor leaves pixels from 0 to 255."""
    if pixels.dtype != torch.uint8:
        return pixels
    modules = _engine_model(subject).modules()
    norm = next(m for m in modules if type(m).__name__ == "FusedMMInputNorm")
    found: Tensor = norm.forward_native(pixels.to(norm.weight.device), torch.float32)
    return found


def _engine_model(subject: Subject) -> Any:
    worker = subject.engine.llm.llm_engine.model_executor.driver_worker.worker
    return worker.model_runner.get_model()


def _engines(subject: Subject, case: Case) -> Tensor:
    """The positions that the engine gives the prompt's tokens, `[axes, P]`."""
    model = type(_engine_model(subject))
    original, seen = model.get_mrope_input_positions, []

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.append((result := original(*args, **kwargs))[0].cpu())
        return result

    model.get_mrope_input_positions = spy
    try:
        subject.engine.reset_caches()
        subject.write(case)
    finally:
        model.get_mrope_input_positions = original
    return seen[0]
