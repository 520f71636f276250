"""Sample and decoded media -> the prompt, once, for trainer and engine alike."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from caprl_native.config.schema import MediaConfig
from caprl_native.data.loader import SampleSkipped
from caprl_native.data.media import DecodedImage, DecodedVideo
from caprl_native.text.control_tokens import control_token_in
from caprl_native.types import Sample


@dataclass
class Prompt:
    """A prompt as the trainer scores it, and as the engine is given it.

    `ids`: `[P]`, media placeholders expanded; `token_types`: `[P]`, 0 text, 1 image, 2 video;
    `patches`: `[N, C]` float32; `grid`: `[M, 3]`; `engine`: vLLM's form (text and decoded media).
    """

    ids: Tensor
    token_types: Tensor
    patches: Tensor | None
    grid: Tensor | None
    kind: str
    seconds_per_grid: list[float] | None
    engine: dict[str, Any]

    def __len__(self) -> int:
        return self.ids.shape[0]


def processor_kwargs(media: MediaConfig) -> dict[str, Any]:
    """Keyword arguments of the Hugging Face processor, the same in the trainer and the engine.

    Frames are chosen and sizes are capped when media are decoded, so the processor only rounds
    sizes to whole patches. The limits are spelled out because directories ship others.
    """
    return {
        "images_kwargs": {
            "size": {
                "shortest_edge": media.image_min_pixels,
                "longest_edge": media.image_max_pixels,
            }
        },
        "videos_kwargs": {
            # Counted over all frames of a video, unlike the images' limits.
            "size": {"shortest_edge": 1, "longest_edge": media.video_total_pixels},
            "do_sample_frames": False,
            "cap_pixels_per_frame": False,
        },
    }


@functools.lru_cache(maxsize=4)
def _processor(path: str) -> Any:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(path)
    if processor.chat_template is None:  # older directories have it with the tokenizer alone
        processor.chat_template = processor.tokenizer.chat_template
    return processor


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Turns whatever a model's own code raises on an odd sample into a skip, with its reason."""
    try:
        yield
    except MemoryError:
        raise  # the machine's trouble, not the sample's
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
        raise SampleSkipped(f"the model's {what} refuses it ({reason})") from error


def refuse_control_tokens(tokenizer: Any, text: str, what: str) -> None:
    """Raises `SampleSkipped` for a text in which the tokenizer would see more than text."""
    if mark := control_token_in(tokenizer, text):
        raise SampleSkipped(
            f"the {what} contains {mark}, a mark of the model's own; remove it from the record"
            + (" (a medium's place is <image> or <video>)" if what == "prompt" else "")
        )


@dataclass(frozen=True)
class PromptBuilder:
    """Turns a sample and its decoded media into a `Prompt`. Cheap to pickle, for workers.

    Raises `SampleSkipped` for a prompt longer than `max_tokens`, media tokens counted, for one that
    spells the model's control tokens, and for whatever the model's processor refuses.
    """

    # What worker processes import once, before the first sample.
    worker_imports: ClassVar[tuple[str, ...]] = ("transformers", "torchvision.transforms.v2")

    path: str
    media: MediaConfig
    max_tokens: int = 0  # 0: any length

    def for_engine(
        self, sample: Sample, decoded: list[DecodedImage | DecodedVideo]
    ) -> dict[str, Any]:
        """The prompt in vLLM's form: the chat as a text, media decoded."""
        if len(decoded) > self.media.max_per_prompt:
            raise SampleSkipped(
                f"it has {len(decoded)} media, media.max_per_prompt is {self.media.max_per_prompt}"
            )
        processor = _processor(self.path)
        for message in sample.messages:
            for part in message["content"]:
                refuse_control_tokens(processor.tokenizer, part.get("text", ""), "prompt")
        with _refusals("chat template"):
            text = processor.apply_chat_template(
                list(sample.messages), tokenize=False, add_generation_prompt=True
            )
        images = [d.image for d in decoded if isinstance(d, DecodedImage)]
        videos = [(d.frames, d.metadata) for d in decoded if isinstance(d, DecodedVideo)]
        if images and videos:
            raise SampleSkipped("it has both images and videos; give a sample one kind")
        media = {"image": images} if images else {"video": videos} if videos else {}
        return {"prompt": text, **({"multi_modal_data": media} if media else {})}

    def __call__(self, sample: Sample, decoded: list[DecodedImage | DecodedVideo]) -> Prompt:
        engine = self.for_engine(sample, decoded)
        media = engine.get("multi_modal_data", {})
        inputs: dict[str, Any] = {"text": [engine["prompt"]], "return_mm_token_type_ids": True}
        options = processor_kwargs(self.media)
        if images := media.get("image"):
            inputs["images"] = images
        if videos := media.get("video"):
            inputs["videos"] = [frames for frames, _ in videos]
            options["videos_kwargs"]["video_metadata"] = [
                {k: v for k, v in metadata.items() if k != "do_sample_frames"}
                for _, metadata in videos
            ]
        processor = _processor(self.path)
        with _refusals("processor"):
            out = processor(**inputs, **options, return_tensors="pt")
        length = out["input_ids"].shape[1]
        if self.max_tokens and length > self.max_tokens:
            raise SampleSkipped(
                f"the prompt has {length} tokens, data.max_prompt_tokens is {self.max_tokens}"
            )
        seconds = out.get("second_per_grid_ts")
        patches = out.get("pixel_values", out.get("pixel_values_videos"))
        return Prompt(
            ids=out["input_ids"][0],
            token_types=out["mm_token_type_ids"][0],
            patches=patches,
            grid=out.get("image_grid_thw", out.get("video_grid_thw")),
            kind=sample.modality,
            seconds_per_grid=None if seconds is None else [float(s) for s in np.asarray(seconds)],
            engine=engine,
        )


def text_prompt(ids: list[int]) -> Prompt:
    """A prompt of text alone."""
    tensor = torch.tensor(ids)
    return Prompt(
        tensor, torch.zeros_like(tensor), None, None, "text", None, {"prompt_token_ids": ids}
    )
