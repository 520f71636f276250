"""Writes the Hugging Face directory of a checkpoint that has none, in one process on a CPU.

    python tools/export.py --checkpoint outputs/video --step 50 --to outputs/video_step_50

Of a run with policy.lora that is the whole model, with the adapter in its weights (--merged, the
default), or the adapter alone in peft's format (--adapter). The files are those that the run itself
would have written. One copy of the weights, in the policy's precision, is in memory (of a run with
policy.lora the directory that it came from, in float32, beside it); nothing of the optimizer is
read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import tomli

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # works without an installation


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="a run's folder, or its checkpoints/"
    )
    parser.add_argument("--step", default="latest", help="default: the latest checkpoint's")
    parser.add_argument("--to", type=Path, required=True, help="the directory to write; a new one")
    parser.add_argument(
        "--policy", default="", help="default: policy.path of the run's config.toml"
    )
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float32"), help="default: policy.dtype of config.toml"
    )
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--adapter", action="store_true", help="the adapter alone")
    forms.add_argument(
        "--merged", action="store_true", help="the whole model with the adapter in it; the default"
    )
    args = parser.parse_args()
    from caprl_native.checkpoint_files import find
    from caprl_native.distributed.errors import RunError
    from caprl_native.export import export_checkpoint
    from caprl_native.policy.model_check import ModelError

    try:
        folder = args.checkpoint
        root = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
        checkpoint = find(root, args.step, "--step")
        known = (root.parent / "config.toml").is_file()
        said = config_of(root.parent) if known or not (args.policy and args.dtype) else {}
        policy, dtype = args.policy or said.get("path", ""), args.dtype or said.get("dtype", "")
        if not (policy and Path(policy, "config.json").is_file()):
            raise RunError(f"{policy!r} is no model directory: name the policy's with --policy")
        if args.to.exists():
            raise RunError(f"{args.to} exists: give --to a new directory")
        export_checkpoint(
            root,
            checkpoint,
            policy,
            args.to,
            dtype or "bfloat16",
            computed=said.get("dtype", ""),
            adapter=args.adapter,
        )
    except (RunError, ModelError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    print(args.to)


def config_of(run: Path) -> dict[str, str]:
    """The table `policy` of a run's config. Raises RunError where it cannot be read."""
    from caprl_native.distributed.errors import RunError

    file = run / "config.toml"
    try:
        return tomli.loads(file.read_text()).get("policy", {})
    except (OSError, tomli.TOMLDecodeError) as error:
        raise RunError(f"{file} cannot be read ({error}): give --policy and --dtype") from error


if __name__ == "__main__":
    main()
