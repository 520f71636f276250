"""The settings of a judge: who it is, what it is shown, what counts how much."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from caprl_native.bounds import Must, Temperature, UserPath
from caprl_native.config.media import MediaConfig
from caprl_native.config.models import LanguageModelConfig
from caprl_native.inference.addresses import AddressError, read_addresses
from caprl_native.inference.endpoint import key_problem, settings_problem
from caprl_native.messages import shown
from caprl_native.rewards.base import TermOptions
from caprl_native.rewards.judges.prompts import RubricError, read_rubric
from caprl_native.rewards.judges.reply import KEYS, Seen

_WHERE = ("path", "endpoint", "endpoint_file")


def _weigh(count: int) -> Must:
    def holds(weights: list[float]) -> bool:
        sound = all(math.isfinite(weight) and weight >= 0 for weight in weights)
        return len(weights) == count and sound and sum(weights) > 0

    return Must(holds, f"{count} numbers, none below 0 and not all of them 0")


class JudgeConfig(LanguageModelConfig):
    """A model that judges: a directory that runs in process, or servers; what it is shown."""

    path: UserPath = Field(
        "", description="Directory of the vision-language model that judges, in process."
    )
    endpoint_file: UserPath = Field(
        "",
        description="Or a JSON file with the model's servers and their keys; see docs/judge.md.",
    )
    temperature: Temperature = Field(0.2, description="Sampling temperature of the judgements.")
    max_tokens: int = Field(256, ge=1, description="Longest judgement, in tokens.")
    max_num_seqs: int = Field(32, ge=1, description="In process: captions judged at a time.")
    gpu_memory_utilization: float = Field(
        0.3, gt=0, le=1, description="In process: share of the GPU's memory."
    )
    sleep: bool = Field(
        False,
        description="On CUDA, in process: gives its memory back while the policy trains (untried "
        "on a GPU).",
    )
    concurrency: int = Field(16, ge=1, description="Requests in flight to the endpoint, per rank.")
    timeout_s: float = Field(
        180.0, gt=0, description="Seconds after which a request to the endpoint has failed."
    )
    attempts: int = Field(
        3, ge=1, description="Replies asked for until one can be read; at temperature 0 one."
    )
    video_max_frames: int = Field(
        64, ge=4, description="At most so many of the frames that the captioner saw."
    )
    video_frame_pixels: int = Field(
        131072, ge=1024, description="At most so many pixels in each of them."
    )
    image_max_pixels: int = Field(
        1280 * 32 * 32, ge=4096, description="At most so many pixels of an image."
    )
    video_as: Literal["frames", "file"] = Field(
        "frames",
        description="What an endpoint gets of a video: the captioner's frames, or the file itself, "
        "of which the judge may see more than the captioner did.",
    )

    @property
    def limits(self) -> MediaConfig:
        """What of the media the judge is shown."""
        return MediaConfig(
            image_min_pixels=1,
            image_max_pixels=self.image_max_pixels,
            video_max_frames=self.video_max_frames,
            video_frame_pixels=self.video_frame_pixels,
            video_total_pixels=self.video_max_frames * self.video_frame_pixels,
        )

    def contradictions(self) -> Iterator[tuple[str, ...]]:
        """As `Options.conflicts`."""
        given = [name for name in _WHERE if getattr(self, name)]
        if len(given) != 1:
            yield "path", "one of path, endpoint and endpoint_file: who judges", *_WHERE[1:]
        elif given == ["path"]:
            if self.max_tokens >= self.max_model_len:
                yield "max_tokens", "less than max_model_len", "max_model_len"
        else:
            yield from self._conflicts_with_endpoint(given[0])

    def _conflicts_with_endpoint(self, where: str) -> Iterator[tuple[str, ...]]:
        if not self.model:
            yield "model", "the model's name at the endpoint", where
        if self.top_k:
            yield "top_k", "0 with an endpoint: it is for a judge in process", where
        if self.sleep:
            yield "sleep", "false with an endpoint: it is for a judge in process", where

    def problems(self) -> Iterator[tuple[str, str]]:
        """As `Options.problems`."""
        if problem := settings_problem(self):
            yield problem
        elif self.endpoint_file and self.api_key_env:
            yield "api_key_env", "expected none: an endpoint file names its servers' keys"

    def absences(self) -> Iterator[tuple[str, str]]:
        """As `Options.lacks`."""
        if self.path and (problem := _model_problem(self.path)):
            yield "path", f"expected a vision-language model that can be loaded: {problem}"
        if self.endpoint_file:
            try:
                read_addresses(self.endpoint_file, self.model)
            except AddressError as error:
                yield "endpoint_file", str(error)
        elif self.endpoint and (lack := key_problem(self)):
            yield lack


class JudgeOptions(JudgeConfig, TermOptions):
    """What a vision-language model thinks of a caption: right, complete, nothing made up."""

    measures = {
        "unreadable": "Share of the judge's replies that could not be read.",
        "extreme": "1 where the judge's score is 0 or 1.",
        "*": "What the judge says of this criterion, 0 to 1.",
    }
    type: Literal["judge"] = "judge"
    samples: int = Field(
        1, ge=1, description="Judgements per caption, averaged; half of them must be readable."
    )
    video_weights: Annotated[list[float], _weigh(4)] = Field(
        [0.30, 0.25, 0.25, 0.20],
        description="Of factuality, temporal alignment, coverage, and nothing made up.",
    )
    image_weights: Annotated[list[float], _weigh(3)] = Field(
        [0.40, 0.35, 0.25],
        description="Of factuality, coverage, and nothing made up (ours: none are published).",
    )
    video_rubric: UserPath = Field(
        "", description="Text file with instructions for videos in place of ours."
    )
    image_rubric: UserPath = Field("", description="The same for images.")

    @property
    def engine_shares(self) -> dict[str, float]:
        held = self.path and self.weight
        return {"gpu_memory_utilization": self.gpu_memory_utilization} if held else {}

    def rubric_of(self, seen: Seen) -> str:
        """The instructions for images or videos: a file's, or ours.

        Raises:
            RubricError: the file cannot be used.
        """
        return read_rubric(self.image_rubric if seen == "image" else self.video_rubric, seen)

    def conflicts(self) -> Iterator[tuple[str, ...]]:
        if not self.weight:
            return
        yield from self.contradictions()
        if self.samples > 1 and not self.temperature:
            yield "samples", "1 at temperature 0: all judgements would be the same", "temperature"

    def lacks(self) -> Iterator[tuple[str, str]]:
        yield from self.absences()
        for seen in KEYS:
            try:
                self.rubric_of(seen)
            except RubricError as error:
                yield f"{seen}_rubric", str(error)


def _model_problem(path: str) -> str:
    from caprl_native.policy.families import family_of
    from caprl_native.policy.model_check import ModelError, check_directory

    if not os.path.isfile(os.path.join(path, "config.json")):
        return f"there is no config.json in {shown(path)}"
    try:
        family = family_of(path)
        check_directory(path, processor=True)
    except ModelError as error:
        return str(error)
    return "" if family.sees_media else f"a {family.model_type} sees no media"
