"""Media that make a prompt too long are reduced until it fits, by no step more than it takes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from caprl_native.config.media import MediaConfig
from caprl_native.data.loader import LoadedSample, SampleSkipped
from caprl_native.data.media import DecodedImage, DecodedVideo
from caprl_native.data.reduced import ReducedLedger
from caprl_native.data.sizes import ladder, share_out
from caprl_native.policy.families import family_of
from caprl_native.policy.prompt import PromptBuilder
from caprl_native.types import MediaRef, Sample

MEDIA = MediaConfig(
    image_min_pixels=4 * 32 * 32, image_max_pixels=300 * 32 * 32, video_total_pixels=32 * 256 * 256
)
FAMILIES = ["tiny_policy", "tiny_policy_2_5"]
IMAGES = [(320, 320), (640, 90), (90, 640), (450, 333), (200, 700), (97, 101), (3000, 33), (64, 64)]
MIXES = {
    "one": [(320, 320)],
    "two": [(320, 320), (100, 80)],
    "three": [(450, 333), (200, 400), (64, 64)],
}


def image(width: int, height: int) -> DecodedImage:
    noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return DecodedImage(Image.fromarray(noise))


def video(frames: int, width: int, height: int) -> DecodedVideo:
    metadata = {"fps": 2.0, "duration": frames / 2, "total_num_frames": frames}
    metadata |= {"frames_indices": list(range(frames)), "video_backend": "x"}
    pixels = np.stack([np.asarray(image(width, height).image)] * frames)
    return DecodedVideo(pixels, metadata | {"do_sample_frames": False})


def asked(decoded: list) -> Sample:
    kinds = ["video" if isinstance(d, DecodedVideo) else "image" for d in decoded]
    content = [*({"type": k} for k in kinds), {"type": "text", "text": "Describe it in detail."}]
    media = tuple(MediaRef(k, "m") for k in kinds)
    return Sample("s", media, ({"role": "user", "content": content},), source="train.jsonl:7")


def engine_ids(path, prompt) -> torch.Tensor:
    """What the engine's processor, which has the same limits, makes of what the engine is given."""
    family = family_of(path)
    processor, options = family.load_processor(str(path)), family.processor_kwargs(MEDIA)
    given = prompt.for_engine()
    media = given["multi_modal_data"]
    inputs = {"images": media["image"]} if "image" in media else {}
    if "video" in media:
        inputs["videos"] = [frames for frames, _ in media["video"]]
        options["videos_kwargs"]["video_metadata"] = [
            {k: v for k, v in m.items() if k != "do_sample_frames"} for _, m in media["video"]
        ]
    return processor(text=[given["prompt"]], **inputs, **options, return_tensors="pt")["input_ids"]


def steps_of(path, prompt, decoded, whole) -> tuple[list, list, list]:
    """Ladders, frames and the chosen places of a reduced prompt."""
    part = family_of(path).load_processor(str(path))
    images = isinstance(decoded[0], DecodedImage)
    part = part.image_processor if images else part.video_processor
    block, ladders, frames, chosen = part.merge_size * part.patch_size, [], [], []
    grids = zip(whole.media["grid"].tolist(), prompt.media["grid"].tolist(), strict=True)
    for one, ((t, h, w), (_, low, narrow)) in zip(decoded, grids, strict=True):
        least = MEDIA.image_min_pixels if images else 1
        most = MEDIA.image_max_pixels if images else MEDIA.video_total_pixels // (2 * t)
        top = (w // part.merge_size, h // part.merge_size)
        ladders.append(ladder(one.size, top, block, least, most))
        frames.append(t)
        size = (narrow // part.merge_size, low // part.merge_size)
        assert size in ladders[-1]
        chosen.append(ladders[-1].index(size))
    return ladders, frames, chosen


def check(path, decoded: list, shares: tuple[float, ...]) -> None:
    sample = asked(decoded)
    whole = PromptBuilder(str(path), MEDIA)(sample, decoded)
    text = int((whole.token_types == 0).sum())
    for share in shares:
        limit = text + int(share * (len(whole) - text))
        try:
            prompt = PromptBuilder(str(path), MEDIA, limit)(sample, decoded)
        except SampleSkipped:
            ladders, frames, _ = steps_of(path, whole, decoded, whole)
            least = [
                n * steps[0][0] * steps[0][1] for n, steps in zip(frames, ladders, strict=True)
            ]
            assert text + sum(least) > limit, "it could have been reduced"
            continue
        assert len(prompt) <= limit and prompt.reduced_from == (len(whole) if share < 1 else 0)
        assert prompt.pixels, "the engine gets the trainer's pixels"
        assert torch.equal(engine_ids(path, prompt)[0], prompt.ids)
        ladders, frames, chosen = steps_of(path, prompt, decoded, whole)
        for steps, n, place in zip(ladders, frames, chosen, strict=True):
            if place + 1 < len(steps):
                (c, r), (columns, rows) = steps[place], steps[place + 1]
                assert len(prompt) + n * (columns * rows - c * r) > limit, "a step too small"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_reduced_prompt_is_the_largest_that_fits(family, request):
    path = request.getfixturevalue(family)
    for size in IMAGES:
        check(path, [image(*size)], (0.999, 0.5, 0.07))
    for sizes in MIXES.values():
        check(path, [image(*size) for size in sizes], (0.9, 0.35))
    check(path, [video(6, 200, 120)], (0.999, 0.4, 0.01))
    check(path, [video(4, 96, 64), video(8, 70, 160)], (0.6,))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_fits_is_not_touched(family, request):
    path = request.getfixturevalue(family)
    for decoded in ([image(450, 333), image(64, 64)], [video(6, 200, 120)]):
        sample = asked(decoded)
        free = PromptBuilder(str(path), MEDIA)(sample, decoded)
        exact = PromptBuilder(str(path), MEDIA, len(free))(sample, decoded)
        assert exact.reduced_from == 0 and torch.equal(exact.ids, free.ids)
        assert torch.equal(exact.media["patches"], free.media["patches"])
        shorter = PromptBuilder(str(path), MEDIA, len(free) - 1)(sample, decoded)
        assert shorter.reduced_from == len(free) and len(shorter) < len(free)


def test_dropped_where_that_is_asked_and_where_the_text_alone_is_too_long(tiny_policy):
    decoded = [image(320, 320)]
    drop = PromptBuilder(str(tiny_policy), MEDIA.replace(fit="drop"), 60)
    with pytest.raises(SampleSkipped, match=r"data\.max_prompt_tokens is 60"):
        drop(asked(decoded), decoded)
    assert len(PromptBuilder(str(tiny_policy), MEDIA, 60)(asked(decoded), decoded)) <= 60
    with pytest.raises(SampleSkipped, match=r"data\.max_prompt_tokens is 5"):
        PromptBuilder(str(tiny_policy), MEDIA, 5)(asked(decoded), decoded)


@pytest.mark.parametrize("seed", range(20))
def test_ladders_rise_by_steps_and_shares_use_what_is_free(seed):
    rng = np.random.default_rng(seed)
    ladders, frames = [], rng.integers(1, 5, 3).tolist()
    for _ in range(3):
        width, height = rng.integers(40, 2000, 2).tolist()
        top = (max(1, round(width / 32)), max(1, round(height / 32)))
        steps = ladder((width, height), top, 32, 4 * 32 * 32, 10**9)
        assert steps[-1] == top
        assert all(a != b and a[0] <= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(steps))
        ladders.append(steps)
    most = sum(n * s[-1][0] * s[-1][1] for n, s in zip(frames, ladders, strict=True))
    assert share_out(ladders, frames, most) == [steps[-1] for steps in ladders]
    least = sum(n * s[0][0] * s[0][1] for n, s in zip(frames, ladders, strict=True))
    assert share_out(ladders, frames, least - 1) is None
    assert share_out(ladders, frames, least) == [steps[0] for steps in ladders]


def test_reduced_samples_are_counted_and_named_once(tiny_policy, caplog):
    decoded = [image(320, 320)]
    small = PromptBuilder(str(tiny_policy), MEDIA, 60)(asked(decoded), decoded)
    item, ledger = LoadedSample(asked(decoded), small, 0), ReducedLedger()
    assert ledger.count([item, item]) == 2
    ledger.say(2, main=True)
    ledger.say(ledger.count([item]), main=True)
    (said,) = caplog.messages
    assert said.startswith("2 samples of a batch") and "sample s (train.jsonl:7) from" in said
