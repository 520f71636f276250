"""The settings of the reward of memories; the defaults are those of TaskMem's documented run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from caprl_native.bounds import Temperature
from caprl_native.rewards.base import TermOptions
from caprl_native.rewards.judges.options import JudgeConfig

Role = Literal["correctness", "label", "usefulness"]
ROLES: tuple[Role, ...] = ("correctness", "label", "usefulness")


class MemoryJudge(JudgeConfig):
    """Who judges; empty in the tables of label and usefulness: the judge of correctness does."""

    temperature: Temperature = Field(0.0, description="Sampling temperature of the judgements.")
    max_tokens: int = Field(8192, ge=1, description="Longest reply, thoughts included, in tokens.")

    @property
    def is_given(self) -> bool:
        """Whether it says who judges."""
        return bool(self.path or self.endpoint or self.endpoint_file)


class MemoryOptions(TermOptions):
    """Whether a memory of a video's segment is true, new and useful (TaskMem): three judges."""

    measures = {
        "correct": "1 where a memory is true, new, of the right kind and form.",
        "valid": "1 where a memory is new, of the right kind and form.",
        "format_error": "1 where the output has not the form of a memory.",
        "count": "1 for a correct memory, else -1.",
        "think_penalty": "What thinking at length costs.",
        "think_tokens": "Tokens of thoughts.",
        "tokens": "Tokens of the memory itself, where the form is right.",
        "label": "1 where a judge takes it for new and of the right kind.",
        "useful": "Its place among its group's correct memories: 1 the most useful, 0 the least.",
        "judge_failure": "Captions without a reward as a judge of theirs failed (a count).",
        "*": "What this judge cost in the step (a count).",
    }
    type: Literal["memory"] = "memory"
    think_length_threshold: int = Field(
        1200, ge=1, description="Up to this many tokens thinking costs nothing."
    )
    think_penalty: float = Field(
        -1.0,
        le=0,
        allow_inf_nan=False,
        description="Added at twice as many thinking tokens and beyond; linear between.",
    )
    memory_length_threshold: int = Field(
        5, ge=0, description="Accepted, as the reference's scripts give it; it has no effect."
    )
    memory_token_threshold: int = Field(
        150,
        ge=1,
        description="A memory of more tokens is not valid; counted from the closing think tag to "
        "the end.",
    )
    usefulness_scale: float = Field(
        0.1,
        ge=0,
        allow_inf_nan=False,
        description="What the usefulness, 0 to correct_reward within a group, is multiplied by; 0: "
        "nobody ranks.",
    )
    correct_reward: float = Field(
        0.5, allow_inf_nan=False, description="Of a valid memory that is true."
    )
    wrong_reward: float = Field(-0.5, allow_inf_nan=False, description="Of any other.")
    format_penalty: float = Field(
        -1.5, allow_inf_nan=False, description="The reward of an output of another form."
    )
    failure_penalty: float = Field(
        0.0,
        le=0,
        allow_inf_nan=False,
        description="Below 0: an output of another form earns that much less than the least of its "
        "group, in place of format_penalty.",
    )
    correctness: MemoryJudge = Field(default_factory=MemoryJudge)
    label: MemoryJudge = Field(default_factory=MemoryJudge)
    usefulness: MemoryJudge = Field(default_factory=MemoryJudge)

    def judge(self, role: Role) -> MemoryJudge:
        """Who judges: the table of this role, or that of correctness."""
        own: MemoryJudge = getattr(self, role)
        return own if own.is_given else self.correctness

    @property
    def engine_shares(self) -> dict[str, float]:
        if not self.weight:
            return {}
        shares = {}
        for i, role in enumerate(ROLES):
            judge = self.judge(role)
            is_new = all(judge != self.judge(other) for other in ROLES[:i])
            if judge.path and is_new:
                shares[f"{role}.gpu_memory_utilization"] = judge.gpu_memory_utilization
        return shares

    def conflicts(self) -> Iterator[tuple[str, ...]]:
        if not self.weight:
            return
        for role in ROLES:
            own: MemoryJudge = getattr(self, role)
            if role != "correctness" and not own.is_given:
                if own != MemoryJudge():
                    yield f"{role}.path", "one of path, endpoint and endpoint_file of this judge"
                continue
            for field, expected, *others in own.contradictions():
                yield f"{role}.{field}", expected, *(f"{role}.{other}" for other in others)

    def problems(self) -> Iterator[tuple[str, str]]:
        for role in ROLES:
            for field, problem in getattr(self, role).problems():
                yield f"{role}.{field}", problem

    def lacks(self) -> Iterator[tuple[str, str]]:
        for role in ROLES:
            for field, lack in getattr(self, role).absences():
                yield f"{role}.{field}", lack
