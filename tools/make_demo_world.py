"""Writes the demo's world: PNG and MP4 files of made-up scenes, with questions on them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without an installation

from caprl_native.testing.demo_world.datasets import write_world  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder, made if missing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=1500, help="training images")
    parser.add_argument("--videos", type=int, default=500, help="training videos")
    parser.add_argument("--heldout-images", type=int, default=128)
    parser.add_argument("--heldout-videos", type=int, default=64)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    print(write_world(args.out, "train", args.images, args.videos, args.seed))
    print(write_world(args.out, "heldout", args.heldout_images, args.heldout_videos, args.seed))


if __name__ == "__main__":
    main()
