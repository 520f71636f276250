"""Converts InternVL between its authors' format and transformers' own, whose names end in -HF.

    python tools/convert_internvl.py --from models/InternVL3_5-8B --to models/InternVL3_5-8B-HF
    python tools/convert_internvl.py --from runs/internvl/export --to out/CapRL-InternVL3.5-8B \\
        --code models/InternVL3_5-8B

The direction is what config.json of --from says: internvl_chat (the authors') or internvl. Qwen2.5
and Qwen3 language models; weights stay as they are to the bit. On the CPU, one file in memory.
Ends with 2 and a list where something cannot be converted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # works without an installation


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 2 for what cannot be converted, 1 where nothing could be written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--from", dest="source", type=Path, required=True, help="a directory in either format")
    add("--to", type=Path, required=True, help="the directory to write; a new one")
    add("--shard-gb", type=float, default=5.0, help="the largest file of weights (5)")
    own = "a folder with the authors' *.py files, which go into a directory in their format"
    add("--code", type=Path, help=own)
    args = parser.parse_args(argv)
    if not args.shard_gb > 0:
        parser.error("--shard-gb: expected a number above 0")
    from caprl_native.convert_internvl import Request, convert
    from caprl_native.distributed.errors import RunError
    from caprl_native.policy.model_check import ModelError

    try:
        report = convert(Request(args.source, args.to, int(args.shard_gb * 10**9), args.code))
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{report.format}: {report.written} tensors of {report.read}")
    for note in report.notes:
        print(f"note: {note}")
    print(args.to)
    return 0


if __name__ == "__main__":
    sys.exit(main())
