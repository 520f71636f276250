"""A prompt holds its pixels once, as bytes; trainer and engine both get from them what the family's
processor makes of the decoded media."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig

from caprl_native.config.media import MediaConfig
from caprl_native.data.media import DecodedImage, DecodedVideo, decode
from caprl_native.policy.families import Prompt
from caprl_native.policy.families.qwen import VIDEO, normalised
from caprl_native.policy.prompt import PromptBuilder, _loaded, without_system_turn
from caprl_native.testing.media_files import write_mp4
from caprl_native.types import MediaRef, Sample

MEDIA = MediaConfig(
    image_min_pixels=32 * 32, image_max_pixels=256 * 256, video_total_pixels=16 * 128 * 128
)


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), dtype=np.uint8)


def video(frames: int, height: int, width: int) -> DecodedVideo:
    seen = list(range(frames))
    metadata = {"fps": 2.0, "duration": frames / 2, "total_num_frames": frames}
    metadata |= {"frames_indices": seen, "video_backend": "x", "do_sample_frames": False}
    return DecodedVideo(pixels(frames, height, width), metadata)


DECODED = {
    "image": [DecodedImage(Image.fromarray(pixels(100, 145)))],
    "large image": [DecodedImage(Image.fromarray(pixels(700, 345)))],
    "images": [DecodedImage(Image.fromarray(pixels(h, 96))) for h in (64, 130, 33)],
    "video": [video(6, 100, 83)],
    "videos": [video(4, 64, 96), video(8, 120, 70)],
}


def made(path, kind: str):
    """The prompt, and the processor's own output for media of vLLM's form."""
    decoded = DECODED[kind]
    content = [{"type": "video" if "video" in kind else "image"} for _ in decoded]
    content.append({"type": "text", "text": "Describe this video in detail."})
    sample = Sample(
        "s", tuple(MediaRef(c["type"], "m") for c in content[:-1]),
        ({"role": "user", "content": content},),
    )  # fmt: skip
    builder = PromptBuilder(str(path), MEDIA)
    return builder(sample, decoded), builder.for_engine(sample, decoded)


def processed(path, engine) -> dict[str, torch.Tensor]:
    """By the processor alone, in float32, as the engine has it."""
    from caprl_native.policy.families import family_of

    family = family_of(path)
    processor = family.load_processor(str(path))
    options = family.processor_kwargs(MEDIA)
    media = engine["multi_modal_data"]
    inputs = {"images": media["image"]} if "image" in media else {}
    if "video" in media:
        inputs["videos"] = [frames for frames, _ in media["video"]]
        options["videos_kwargs"]["video_metadata"] = [
            {k: v for k, v in metadata.items() if k != "do_sample_frames"}
            for _, metadata in media["video"]
        ]
    return processor(text=[engine["prompt"]], **inputs, **options, return_tensors="pt")


@pytest.mark.parametrize("kind", DECODED)
@pytest.mark.parametrize("model", ["tiny_policy", "tiny_policy_2_5"])
def test_both_sides_get_what_the_processor_makes_bit_for_bit(model, kind, request):
    path = request.getfixturevalue(model)
    prompt, engine = made(path, kind)
    theirs, again = processed(path, engine), processed(path, prompt.for_engine())
    key = "pixel_values_videos" if "video" in kind else "pixel_values"
    assert prompt.media["patches"].dtype == torch.uint8
    assert torch.equal(normalised(prompt.media), theirs[key]), "the trainer's"
    assert torch.equal(again[key], theirs[key]), "the engine's"
    assert torch.equal(again["input_ids"], theirs["input_ids"])
    assert torch.equal(prompt.ids, theirs["input_ids"][0])


@pytest.mark.parametrize("model", ["tiny_policy", "tiny_policy_2_5"])
def test_a_prompt_with_a_video_takes_a_byte_per_number(model, request):
    """What a worker sends and a rank keeps; frames and float32 patches took five and more."""
    prompt, _ = made(request.getfixturevalue(model), "video")
    numbers = prompt.media["patches"].numel()
    assert numbers < len(pickle.dumps(prompt)) < numbers + 4096


def test_media_that_the_engine_would_resize_again_stay_as_they_were_decoded(
    tiny_policy, monkeypatch
):
    """No side is less than a block of patches, so this image is larger than its processor takes."""
    thin = DecodedImage(Image.fromarray(pixels(33, 6560)))
    monkeypatch.setitem(DECODED, "thin", [thin])
    prompt, _ = made(tiny_policy, "thin")
    assert prompt.media["grid"].prod() * 16**2 > MEDIA.image_max_pixels
    assert prompt.for_engine()["multi_modal_data"]["image"] == [thin.image]


def evenly_spaced(path: Path) -> tuple[Prompt, DecodedVideo, PromptBuilder]:
    """The prompt of a video of 5 s at 8 frames a second, of which 12 frames are taken."""
    media = MediaConfig(image_min_pixels=1, video_frames="uniform", video_max_frames=12)
    file = write_mp4(path.parent / "evenly_spaced.mp4", 40, fps=8)
    content = [{"type": "video"}, {"type": "text", "text": "Describe this video in detail."}]
    messages = ({"role": "user", "content": content},)
    sample = Sample("s", (MediaRef("video", str(file)),), messages)
    (decoded,) = decode(sample, media)
    assert isinstance(decoded, DecodedVideo)
    builder = PromptBuilder(str(path), media)
    return builder(sample, [decoded]), decoded, builder


def test_evenly_spaced_frames_have_their_times_in_a_prompt(tiny_policy, tiny_policy_2_5):
    """As text, of each pair of frames; by Qwen2.5-VL as the seconds between two pairs, which are
    its positions in time."""
    prompt, decoded, builder = evenly_spaced(tiny_policy)
    family, processor = _loaded(builder.path, builder.plugins)
    text = processor.tokenizer.decode(prompt.ids)
    stamps = [float(t) for t in re.findall(r"<([\d.]+)seconds>", text.replace(" ", ""))]
    pairs = np.array(decoded.timestamps).reshape(-1, 2).mean(axis=1)
    np.testing.assert_allclose(stamps, pairs, atol=0.0501)

    prompt, decoded, builder = evenly_spaced(tiny_policy_2_5)
    assert prompt.media["seconds"].tolist() == [pytest.approx(2 * 5.0 / 12)]
    family, _ = _loaded(builder.path, builder.plugins)
    config = AutoConfig.from_pretrained(tiny_policy_2_5)
    times = family.positions(config, prompt)[0][prompt.token_types == VIDEO].unique()
    step = 2 * 5.0 / 12 * config.vision_config.tokens_per_second
    assert (times - times[0]).tolist() == [int(i * step) for i in range(6)]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n",
         "<|im_start|>user\nHi<|im_end|>\n"),
        ("<|im_start|>user\n<|im_start|>system\n<|im_end|>\n",) * 2,
    ],
)  # fmt: skip
def test_a_system_turn_is_left_out_where_one_opens_the_chat(text, left):
    assert without_system_turn(text) == left
