"""What each logged number means: one text for each, here, or for the parts of a reward term in its
options (`TermOptions.measures`). Nothing here imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from caprl_native.registry import Options
from caprl_native.rewards.base import TERMS

EVAL = "eval/"  # begins the names of what is measured on held-out captions


@dataclass(frozen=True)
class Meaning:
    """`reduced`: how it is made of captions, micro-batches and ranks. `shows`: which captions are
    the evidence, as settings of the page's list; empty: the number is of no captions."""

    text: str
    reduced: str
    shows: Mapping[str, str] = field(default_factory=dict)


_CAPTIONS, _TOKENS = "mean over captions", "mean over response tokens"
_STEP = "of the step"
_MEANINGS = {
    "reward/total/mean": Meaning(
        "The whole reward: weight times value, summed over the terms.",
        _CAPTIONS,
        {"number": "total", "sort": "low"},
    ),
    "reward/std": Meaning(
        "How much the rewards of one prompt's captions differ: their standard deviation.",
        "mean over groups",
        {"number": "total", "sort": "spread"},
    ),
    "reward/zero_std_groups": Meaning(
        "Groups whose captions earn alike, so that they carry no gradient.",
        "sum",
        {"number": "total", "sort": "alike"},
    ),
    "reward/held_out/accuracy": Meaning(
        "Right answers of the held-out reader, which nothing is rewarded by.",
        _CAPTIONS,
        {"number": "held_out/accuracy", "sort": "low"},
    ),
    "reward/held_out/gap": Meaning(
        "The reward's reader less the held-out one: what is said to one reader alone.",
        _CAPTIONS,
        {"number": "held_out/gap", "sort": "high"},
    ),
    "reward/TERM/mean": Meaning(
        "The reward term {TERM}, before its weight. {SUMMARY}",
        f"{_CAPTIONS} that it applies to",
        {"number": "{TERM}", "sort": "low"},
    ),
    "reward/TERM/blind": Meaning(
        "What {TERM} gives the reader without any caption: what questions give away by themselves.",
        "mean over samples",
        {"kind": "blind", "number": "{TERM}", "sort": "high"},
    ),
    "reward/TERM/ungated": Meaning(
        "The term {TERM} before reward.gate multiplied it.",
        _CAPTIONS,
        {"number": "{TERM}/ungated", "sort": "low"},
    ),
    "reward/TERM/PART": Meaning("{PART}", _CAPTIONS, {"number": "{TERM}/{NAME}", "sort": "high"}),
    "completion/length_mean": Meaning(
        "Tokens of a caption.", _CAPTIONS, {"number": "tokens", "sort": "high"}
    ),
    "completion/truncated_frac": Meaning(
        "Share of captions that were cut off at rollout.max_tokens.", _CAPTIONS, {"show": "cut"}
    ),
    "caption/stamps_per_100_words": Meaning(
        "Time stamps per 100 words of a caption.",
        _CAPTIONS,
        {"number": "caption/stamps_per_100_words", "sort": "high"},
    ),
    "caption/repetition": Meaning(
        "Share of a caption's runs of four words that stand in it before.",
        _CAPTIONS,
        {"number": "caption/repetition", "sort": "high"},
    ),
    "caption/length_ratio": Meaning(
        "Tokens of a caption over those of the run's first steps (alarms.first_steps).",
        "ratio of means",
        {"number": "tokens", "sort": "high"},
    ),
    "policy/loss": Meaning("What the update minimises.", "sum of shares, one denominator"),
    "policy/entropy": Meaning("Entropy of the policy's next token, nats.", _TOKENS),
    "policy/kl": Meaning(
        "Distance of the policy from the reference, or without one from itself before the update, "
        "nats.",
        _TOKENS,
    ),
    "policy/clip_frac": Meaning("Share of tokens whose ratio the loss clips.", _TOKENS),
    "policy/grad_norm": Meaning(
        "Length of the gradient before it is clipped.", "over all parameters and ranks"
    ),
    "policy/lr": Meaning("The learning rate.", _STEP),
    "policy/accuracy": Meaning("Share of target tokens that the model holds likeliest.", _TOKENS),
    "policy/skipped_steps": Meaning("1 where no sample of the step could be used.", _STEP),
    "mismatch/logprob_abs_mean": Meaning(
        "|log p(trainer) - log p(engine)| of sampled tokens, nats: how far the two copies of the "
        "policy are apart.",
        _TOKENS,
    ),
    "mismatch/logprob_abs_max": Meaning("The same, of the token where it is largest.", "maximum"),
    "mismatch/NAME_clipped_frac": Meaning(
        "Share of tokens whose weight the correction {NAME} cuts.", _TOKENS
    ),
    "data/failed_rewards": Meaning("Captions without a reward.", "sum", {"show": "failed"}),
    "data/skipped": Meaning("Prompts that could not be used.", "sum"),
    "data/reduced": Meaning("Prompts whose media were reduced until they fitted.", "sum"),
    "data/cut": Meaning("Conversations that were cut to data.max_tokens.", "sum"),
    "data/dropped_questions": Meaning("Questions left out of the data at the start.", "sum"),
    "data/dropped_records": Meaning("Records left out of the data at the start.", "sum"),
    "data/texts_left": Meaning("Captions that later prompts are made of.", "sum"),
    "data/texts_empty": Meaning("Captions of the wrong form to make later prompts of.", "sum"),
    "perf/tokens_per_s": Meaning("Sampled tokens per second of the whole step.", "sum of ranks"),
    "perf/step_s": Meaning("Seconds that the step took.", _STEP),
    "perf/tflops_per_gpu": Meaning("TFLOP/s of the update.", "per rank"),
    "perf/train_tokens_per_s_per_gpu": Meaning("Tokens of the update per second.", "per rank"),
    "perf/padding": Meaning("Share of the update's positions that are padding.", "per rank"),
    "perf/sync_mib": Meaning("MiB of weights that the engine got.", "of the first rank"),
    "perf/mfu": Meaning("Share of the GPU's peak that the update uses.", "per rank"),
    "time/PHASE": Meaning("Seconds of the step spent in {PHASE}.", "of the first rank"),
    "eval/loss": Meaning("Held out: the loss.", "mean over target tokens"),
    "eval/accuracy": Meaning("Held out: target tokens held likeliest.", "mean over target tokens"),
    "eval/tokens": Meaning("Held out: target tokens.", "sum"),
    "eval/time_s": Meaning("Seconds that the evaluation took.", "of the first rank"),
}  # the first that fits a name counts: those with a placeholder stand after those without
_HOLES = {"TERM": r"(?P<TERM>[^/]+)", "PART": r"(?P<NAME>.+)", "NAME": r"(?P<NAME>.+)"}
_HOLES["PHASE"] = r"(?P<PHASE>.+)"
_PATTERNS = [
    (re.compile(re.sub("TERM|PART|NAME|PHASE", lambda hole: _HOLES[hole[0]], name)), meaning)
    for name, meaning in _MEANINGS.items()
]


def meaning_of(metric: str, terms: Mapping[str, str] | None = None) -> Meaning | None:
    """What a logged number means; None for one that nobody has declared.

    `terms`: the types of a run's reward terms, by the names that the run gives them.
    """
    for pattern, meaning in _PATTERNS:
        if found := pattern.fullmatch(metric):
            return _filled(meaning, found.groupdict(), terms or {})
    if metric.startswith(EVAL) and (known := meaning_of(metric.removeprefix(EVAL), terms)):
        shows = known.shows and {"kind": "eval", **known.shows}
        return Meaning(f"Held out: {known.text}", known.reduced, shows)
    return None


def _filled(meaning: Meaning, found: Mapping[str, str], terms: Mapping[str, str]) -> Meaning | None:
    if "TERM" in found:
        options = _options(terms.get(found["TERM"], found["TERM"]))
        part = _part(options, found.get("NAME", ""))
        if "{PART}" in meaning.text and part is None:
            return None
        found = {**found, "PART": part or "", "SUMMARY": _summary(options)}
    shows = {name: value.format(**found) for name, value in meaning.shows.items()}
    return Meaning(meaning.text.format(**found).strip(), meaning.reduced, shows)


def _options(type_: str) -> type[Options] | None:
    return TERMS[type_].options if type_ in TERMS else None


def _part(options: type[Options] | None, name: str) -> str | None:
    measures: Mapping[str, str] = getattr(options, "measures", {})
    return measures.get(name, measures.get("*"))


def _summary(options: type[Options] | None) -> str:
    return " ".join((options.__doc__ or "").split()) if options else ""


def meanings_of(metrics: list[str], terms: Mapping[str, str]) -> dict[str, dict[str, object]]:
    """The declared ones among these metrics, as plain values."""
    found = {name: meaning_of(name, terms) for name in metrics}
    return {name: asdict(meaning) for name, meaning in found.items() if meaning}
