"""What a judge sees of a caption's media: what the captioner saw, reduced, and nothing more."""

from __future__ import annotations

import numpy as np
from PIL import Image

from caprl_native.config.media import MediaConfig
from caprl_native.data.media import DecodedImage, DecodedVideo, MediaError, decode
from caprl_native.data.sizes import fit
from caprl_native.inference.models import Decoded
from caprl_native.rewards.base import Caption


def seen_by_captioner(caption: Caption, limits: MediaConfig) -> list[Decoded]:
    """The media that the caption was written from, in the sample's order and within the limits.

    Where nobody has decoded them (`caption.media` is None), they are read from their files.

    Raises:
        MediaError: naming the file that cannot be used.
    """
    if caption.media is None:
        _require_bytes(caption)
        return decode(caption.sample, limits)
    media = caption.media().get("multi_modal_data", {})
    seen: dict[str, list[Decoded]] = {
        "image": [_smaller(DecodedImage(image), limits) for image in media.get("image", ())],
        "video": [_fewer(DecodedVideo(*video), limits) for video in media.get("video", ())],
    }
    kinds = [medium.kind for medium in caption.sample.media]
    return [seen[kind][kinds[:i].count(kind)] for i, kind in enumerate(kinds)]


def _require_bytes(caption: Caption) -> None:
    """An embedded file's bytes are dropped once it is decoded."""
    for medium in caption.sample.media:
        if medium.path is None and medium.data is None:
            raise MediaError(caption.sample.id, medium.name, "its bytes are not here any more")


def _smaller(decoded: DecodedImage, limits: MediaConfig) -> DecodedImage:
    size = fit(*decoded.image.size, 1, limits.image_max_pixels)
    return DecodedImage(_resized(decoded.image, size))


def _fewer(video: DecodedVideo, limits: MediaConfig) -> DecodedVideo:
    """Evenly chosen frames, an even number of them, from the first to the last."""
    count = min(len(video.frames), limits.video_max_frames) // 2 * 2
    chosen = np.linspace(0, len(video.frames) - 1, count).round().astype(int).tolist()
    height, width = video.frames.shape[1:3]
    size = fit(width, height, 1, limits.video_frame_pixels)
    if count == len(video.frames) and size == (width, height):
        return video
    frames = np.stack(
        [np.asarray(_resized(Image.fromarray(video.frames[i]), size)) for i in chosen]
    )
    indices = [video.metadata["frames_indices"][i] for i in chosen]
    return DecodedVideo(frames, video.metadata | {"frames_indices": indices})


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
