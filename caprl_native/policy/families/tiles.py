"""What families have in common whose towers see tiles: pieces of an image, or frames, of one size.

`Prompt.media`: `tiles` uint8 `[N, C, S, S]`; `norm` `[N, 2, C]`, mean and deviation of their
channels; `counts` `[M]`, how many tiles each medium has. Positions have one axis. The language
model is any that text.py would train.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from caprl_native.policy.families.base import MediaFeatures, Prompt
from caprl_native.policy.families.text import Text, language_problem
from caprl_native.policy.model_check import ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from caprl_native.config.media import MediaConfig
    from caprl_native.data.media import DecodedImage, DecodedVideo

IMAGE, VIDEO = 1, 2  # in Prompt.token_types


@dataclass(frozen=True)
class Tiled(Text):
    """`model.vision_tower`, a projector and `model.language_model` side by side."""

    auto_class: ClassVar[str] = "AutoModelForImageTextToText"
    mixes_media: ClassVar[bool] = True

    def settle(self, config: Any, described: Mapping[str, Any]) -> None:
        """Where a file says it of its language model alone, transformers ties the head all the
        same, and the engine does not."""
        if "tie_word_embeddings" not in described:
            config.tie_word_embeddings = config.text_config.tie_word_embeddings

    def check(self, hf: Any, path: str | Path) -> None:
        for name, wanted in self.fixed.items():
            if (found := getattr(hf.config, name)) != wanted:
                raise ModelError(
                    f"{path}: config.json: {name} is {found!r}, and the engine computes no "
                    f"other than {wanted!r}"
                )
        text, whole = hf.config.text_config.tie_word_embeddings, hf.config.tie_word_embeddings
        if text != whole:
            raise ModelError(
                f"{path}: config.json: tie_word_embeddings is {whole}, and of text_config {text}; "
                "transformers goes by the first, the engine by the second"
            )
        if problem := language_problem(hf):
            raise ModelError(f"{path}: {self.model_type} cannot be trained here: {problem}")

    @property
    def fixed(self) -> Mapping[str, Any]:
        """What the engine takes for granted: settings of config.json, and their values."""
        raise NotImplementedError

    # How a sample becomes a prompt.

    def cut(
        self, processor: Any, one: DecodedImage | DecodedVideo, media: MediaConfig
    ) -> dict[str, Tensor]:
        """A medium as a part of `Prompt.media`."""
        raise NotImplementedError

    def marks(self, processor: Any) -> tuple[int, int]:
        """The tokens that stand for an image and for a video in a rendered chat."""
        raise NotImplementedError

    def run(self, processor: Any, cut: dict[str, Tensor], video: bool) -> list[int]:
        """The tokens that the engine puts in the place of a medium's mark, which is among them as
        often as the medium has features."""
        raise NotImplementedError

    def patches(self, processor: Any) -> int:
        """What the tower works on in one tile."""
        raise NotImplementedError

    def prepare(
        self,
        processor: Any,
        text: str,
        decoded: Sequence[DecodedImage | DecodedVideo],
        media: MediaConfig,
    ) -> Prompt:
        import torch

        cut = [self.cut(processor, one, media) for one in decoded]
        left, marks = iter(cut), self.marks(processor)
        ids: list[int] = []
        types: list[int] = []
        for token in processor.tokenizer(text).input_ids:
            if token not in marks:
                ids.append(token)
                types.append(0)
                continue
            kind = marks.index(token) + 1
            run = self.run(processor, next(left), kind == VIDEO)
            ids += run
            types += [kind * (t == token) for t in run]
        if next(left, None) is not None:
            raise ValueError("the chat template has fewer places for media than there are")
        prompt = Prompt(torch.tensor(ids), torch.tensor(types))
        if cut:
            prompt.media = {name: torch.cat([one[name] for one in cut]) for name in cut[0]}
            tiles, patches = len(prompt.media["tiles"]), self.patches(processor)
            prompt.num_patches, prompt.patch_pairs = tiles * patches, tiles * patches**2
            metadata = [getattr(one, "metadata", None) for one in decoded]
            if all(m or len(c["tiles"]) == 1 for m, c in zip(metadata, cut, strict=True)):
                prompt.pixels = Frames(tuple(metadata))
        return prompt

    # What the model computes.

    def language_layers(self, hf: Any) -> Any:
        return hf.model.language_model.layers

    def dummy_tiles(
        self, channels: int, size: tuple[int, int], device: torch.device
    ) -> dict[str, Tensor]:
        """One black tile."""
        import torch

        norm = torch.tensor([0.0, 1.0], device=device)[None, :, None].expand(1, 2, channels)
        return {
            "tiles": torch.zeros(1, channels, *size, dtype=torch.uint8, device=device),
            "norm": norm,
            "counts": torch.ones(1, dtype=torch.long, device=device),
        }

    def tower_input(self, media: dict[str, Tensor]) -> Sequence[Tensor]:
        return normalised(media).split(media["counts"].tolist())

    def language(
        self,
        hf: Any,
        embeds: Tensor,
        prefixes: Any,
        positions: Tensor,
        media_mask: Tensor,
        features: MediaFeatures | None,
    ) -> Tensor:
        out = hf.model.language_model(
            inputs_embeds=embeds, position_ids=positions[0], prefixes=prefixes, use_cache=False
        )
        return out.last_hidden_state


@dataclass(frozen=True)
class Frames:
    """Makes the engine's media of tiles, where each is a whole frame or image. `metadata`: of each
    medium that is a video; None: it is an image."""

    metadata: tuple[dict[str, Any] | None, ...]

    def __call__(self, media: dict[str, Tensor]) -> dict[str, Any]:
        """Images, or frames uint8 `[T, S, S, 3]` with their metadata, in vLLM's form."""
        from PIL import Image

        made: dict[str, Any] = {}
        parts = media["tiles"].permute(0, 2, 3, 1).split(media["counts"].tolist())
        for tiles, video in zip(parts, self.metadata, strict=True):
            frames = tiles.contiguous().numpy()
            if video is None:
                made.setdefault("image", []).append(Image.fromarray(frames[0]))
            else:
                made.setdefault("video", []).append((frames, video))
        return made


def normalised(media: dict[str, Tensor]) -> Tensor:
    """The tower's input `[N, C, S, S]`, float32, as the processor would have made it."""
    mean, deviation = media["norm"][..., None, None].unbind(1)
    return media["tiles"].float().sub_(mean).div_(deviation)


def thinned(video: DecodedVideo, count: int) -> DecodedVideo:
    """So many frames of a video, evenly spaced."""
    from caprl_native.data.media import DecodedVideo

    total = len(video.frames)
    if count == total:
        return video
    kept = [(2 * i + 1) * total // (2 * count) for i in range(count)]
    indices = [video.metadata["frames_indices"][i] for i in kept]
    return DecodedVideo(video.frames[kept], video.metadata | {"frames_indices": indices})


def shared_out(
    decoded: Sequence[DecodedImage | DecodedVideo],
    steps: Sequence[Mapping[int, tuple[int, int]]],
    tokens: int,
) -> list[DecodedImage | DecodedVideo] | None:
    """The media, each at one of its `steps`, which take so many tokens together; None where they
    take more at the least. A step, by its tokens: the width and height of an image, which stays as
    it is at the largest; or of a video how many frames."""
    from caprl_native.data.media import DecodedVideo, resized
    from caprl_native.data.sizes import share_out

    ladders = [[(count, 1) for count in sorted(of)] for of in steps]
    shared = share_out(ladders, [1] * len(ladders), tokens)
    if shared is None or not decoded:
        return None
    made: list[DecodedImage | DecodedVideo] = []
    for one, of, (count, _) in zip(decoded, steps, shared, strict=True):
        if isinstance(one, DecodedVideo):
            made.append(thinned(one, of[count][0]))
        else:
            made.append(one if count == max(of) else resized(one, of[count]))
    return made


def parts(*projector: str) -> dict[str, tuple[str, ...]]:
    """The parts of such a model. Published files have the names of older versions, without
    `model.`."""
    names = {
        "vision": ("vision_tower.",),
        "projector": projector,
        "language": ("language_model.",),
    }
    both = {part: (*of, *(f"model.{name}" for name in of)) for part, of in names.items()}
    return both | {"language": (*both["language"], "lm_head.")}
