"""InternVL's tiles: how many an image gets, what they show, and what is done to make them fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from caprl_native.config.media import MediaConfig
from caprl_native.data.media import DecodedImage, DecodedVideo
from caprl_native.policy.families import family_of
from caprl_native.policy.families.internvl import grids
from caprl_native.policy.model import load_hf
from caprl_native.policy.model_check import ModelError
from caprl_native.policy.prompt import PromptBuilder
from caprl_native.testing.samples import noise_image, noise_video, sample
from caprl_native.testing.tiny_families import WRITERS

SIDE = 56
# Sizes (width, height) and the grid (columns, rows) that the published rule gives, by hand: of the
# nearest aspects the first, and a later one of the same aspect where the image has more than half
# of its pixels.
TABLE = {
    "1:1, half of a tile": ((40, 40), (1, 1)),
    "1:1, of four tiles": ((112, 112), (2, 2)),
    "1:1, over half of nine tiles": ((120, 120), (3, 3)),
    "2:1": ((112, 56), (2, 1)),
    "2:1, over half of eight tiles": ((160, 80), (4, 2)),
    "1:12": ((56, 672), (1, 12)),
    "1:20, beyond all grids": ((56, 1120), (1, 12)),
    "tiny": ((3, 2), (3, 2)),
    "huge": ((2000, 1500), (4, 3)),
    "tie at exactly half the pixels": ((112, 28), (4, 1)),
    "tie of 2:2 at exactly half the pixels": ((79, 79), (1, 1)),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return WRITERS["internvl"](tmp_path_factory.mktemp("models") / "internvl")


@pytest.fixture(scope="module")
def processor(path):
    return family_of(path).load_processor(str(path))


def image(width: int, height: int) -> DecodedImage:
    return noise_image(width * height, (width, height))


@pytest.mark.parametrize(("size", "grid"), TABLE.values(), ids=TABLE)
def test_the_table_of_grids(path, processor, size, grid):
    columns, rows = grid
    tiles = columns * rows + (columns * rows > 1)
    picture, media = image(*size), MediaConfig()
    prompt = PromptBuilder(str(path), media)(sample("image"), [picture])
    assert prompt.media["counts"].tolist() == [tiles]
    assert int((prompt.token_types == 1).sum()) == 4 * tiles
    theirs = processor.image_processor(images=[picture.image], crop_to_patches=True)
    assert theirs["num_patches"] == [tiles]
    assert grids(size, SIDE, media)[tiles] == grid
    (ours,) = family_of(path).tower_input(prompt.media)
    assert ours.equal(torch.stack(list(map(torch.as_tensor, theirs["pixel_values"]))))


def test_limits_are_the_configs(path):
    media = MediaConfig(tiles_min=2, tiles_max=4)
    counts = [
        PromptBuilder(str(path), media)(sample("image"), [image(*s)]).media["counts"].item()
        for s in ((56, 56), (56, 672), (672, 56), (400, 400))
    ]
    assert all(3 <= count <= 5 for count in counts)


def test_a_thumbnail_can_be_left_out(path):
    """The other tiles stay, and with a thumbnail afterwards it is there again."""
    picture = image(150, 100)
    with_one, without = (
        PromptBuilder(str(path), MediaConfig(thumbnail=t))(sample("image"), [picture])
        for t in (True, False)
    )
    assert with_one.media["tiles"][:-1].equal(without.media["tiles"])
    again = PromptBuilder(str(path), MediaConfig())(sample("image"), [picture])
    assert again.media["tiles"].equal(with_one.media["tiles"])
    single = PromptBuilder(str(path), MediaConfig(thumbnail=False))(
        sample("image"), [image(56, 56)]
    )
    assert single.media["counts"].tolist() == [1]


def test_a_tile_shows_its_part_of_the_image(path):
    """Red left, blue right: two tiles, and the thumbnail has both."""
    pixels = np.zeros((SIDE, 2 * SIDE, 3), np.uint8)
    pixels[:, :SIDE, 0] = pixels[:, SIDE:, 2] = 255
    prompt = PromptBuilder(str(path), MediaConfig())(
        sample("image"), [DecodedImage(Image.fromarray(pixels))]
    )
    left, right, both = (t.float().mean((1, 2)).tolist() for t in prompt.media["tiles"])
    assert left == [255, 0, 0] and right == [0, 0, 255]
    assert both == pytest.approx([127.5, 0, 127.5], abs=2)


@pytest.mark.parametrize("family", ["internvl", "llava_onevision"])
@pytest.mark.parametrize("kinds", [("image",), ("image", "image"), ("video",), ("image", "video")])
def test_what_is_too_long_gets_fewer_tiles_and_frames(tmp_path_factory, family, kinds):
    path = WRITERS[family](tmp_path_factory.mktemp("models") / family)
    media = [
        noise_video(i, frames=12) if kind == "video" else image(150 + 8 * i, 100)
        for i, kind in enumerate(kinds)
    ]
    whole = PromptBuilder(str(path), MediaConfig())(sample(*kinds), media)
    for limit in (len(whole) - 1, len(whole) * 2 // 3):
        prompt = PromptBuilder(str(path), MediaConfig(), limit)(sample(*kinds), media)
        assert len(prompt) <= limit and prompt.reduced_from == len(whole)
        assert len(prompt.media["counts"]) == len(kinds)
        assert len(prompt) > limit // 3  # no more than is needed
    assert (
        PromptBuilder(str(path), MediaConfig(), len(whole))(sample(*kinds), media).reduced_from == 0
    )


@pytest.mark.parametrize("family", ["internvl", "llava_onevision"])
def test_the_engines_frames_are_the_tiles(tmp_path_factory, family):
    """They are not in memory twice, and are cut into the same tiles again."""
    path = WRITERS[family](tmp_path_factory.mktemp("models") / family)
    video, build = noise_video(1, size=(90, 40)), PromptBuilder(str(path), MediaConfig())
    prompt = build(sample("video"), [video])
    assert "multi_modal_data" not in prompt.engine
    ((frames, metadata),) = prompt.for_engine()["multi_modal_data"]["video"]
    assert metadata == video.metadata
    again = build(sample("video"), [DecodedVideo(frames, metadata)])
    assert again.media["tiles"].equal(prompt.media["tiles"])
    cut = build(sample("image"), [image(150, 100)])
    (kept,) = cut.for_engine()["multi_modal_data"]["image"]
    assert kept.size == (150, 100)


def changed(path: Path, target: Path, change: dict, text: dict | None = None) -> Path:
    shutil.copytree(path, target)
    config = json.loads((target / "config.json").read_text())
    config |= change
    config["text_config"] |= text or {}
    config = {name: value for name, value in config.items() if value is not None}
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"model_type": "internvl_chat"}, "use the same model in .* name ends in -HF"),
        ({"model_type": "gemma4"}, "is not supported; use another maker's"),
        ({"model_type": "llava_next"}, "use a LLaVA-OneVision directory"),
        ({"vision_feature_layer": -2}, "vision_feature_layer is -2, and the engine computes no"),
        ({"tie_word_embeddings": True}, "transformers goes by the first, the engine by the second"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_names_what_can(path, tmp_path, change, problem):
    with pytest.raises(ModelError, match=problem):
        load_hf(changed(path, tmp_path / "model", change), empty=True)


def test_a_head_that_only_the_language_model_says_is_its_own_stays_so(path, tmp_path):
    for empty in (True, False):
        target = changed(path, tmp_path / str(empty), {"tie_word_embeddings": None})
        hf = load_hf(target, empty=empty)
        hf.tie_weights()
        assert hf.lm_head.weight is not hf.get_input_embeddings().weight


def test_a_tower_under_names_that_the_engine_cannot_read_is_refused(tmp_path):
    path = WRITERS["llava_onevision"](tmp_path / "model")
    hf = load_hf(path)
    type(hf)(hf.config).save_pretrained(tmp_path / "saved")  # made here: it read no names
    with pytest.raises(ModelError, match="named as transformers' save_pretrained does it"):
        load_hf(tmp_path / "saved", empty=True)
