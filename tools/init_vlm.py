"""Puts a vision-language model together: a tower, a language model, a projector that knows nothing.

    python tools/init_vlm.py --vision models/Qwen2.5-VL-3B-Instruct \\
        --language models/Qwen2.5-3B-Instruct --to models/Qwen2.5-VL-3B-init

Tower, config, tokenizer, processor and chat template are the vision model's. On the CPU, one file
of 5 GB in memory; `init.json` says what was made of what. Ends with 2 and a list where the parts do
not fit.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # works without an installation


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 2 for parts that cannot be used, 1 where nothing could be written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--vision", type=Path, required=True, help="a vision-language model")
    add("--language", type=Path, required=True, help="a causal language model")
    add("--to", type=Path, required=True, help="the directory to write; a new one")
    add("--projector", choices=("new", "keep"), default="new")
    drawn = "of a new projector: torch's default, or normal with deviation 0.02"
    add("--init", choices=("default", "normal"), default="default", help=drawn)
    add("--seed", type=int, default=0, help="of a new projector")
    add("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    when = "run the result beside its parts; small: where its files have up to 1 GiB"
    add("--verify", choices=("small", "always", "never"), default="small", help=when)
    args = parser.parse_args(argv)
    from caprl_native.distributed.errors import RunError
    from caprl_native.init_vlm import Request, build
    from caprl_native.policy.model_check import ModelError

    request = Request(
        args.vision, args.language, args.to, args.projector, args.init, args.seed, args.dtype,
        args.verify,
    )  # fmt: skip
    try:
        report = build(request)
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for part, count in report["parts"].items():
        print(f"{part}: {count['parameters']:,} parameters in {count['tensors']} tensors")
    for name, difference in report["verified"].items():
        print(f"largest difference, {name}: {difference:g}")
    print(args.to)
    return 0


if __name__ == "__main__":
    sys.exit(main())
