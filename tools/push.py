"""Makes an upload-ready folder of an export, with a model card; uploads it only with --to.

    python tools/push.py --export outputs/video/export --out upload --license apache-2.0
    python tools/push.py --out upload --to NAME/my-captioner

The first command writes the folder and sends nothing; look at it, then give the second. The
card tells the recipe (without secrets), data, rewards, curves, and evaluations that are given.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # works without an installation

from caprl_native.policy.model_check import ModelError  # noqa: E402
from caprl_native.publishing.errors import PublishError  # noqa: E402
from caprl_native.publishing.folder import Wanted, prepare, run_of  # noqa: E402


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--export", type=Path, help="a run's export/, a checkpoint's hf/, ...")
    parser.add_argument("--out", type=Path, required=True, help="the folder that is uploaded")
    parser.add_argument("--license", default="", help="its identifier: apache-2.0, other, ...")
    parser.add_argument("--run", type=Path, help="the run's folder, where --export is not in it")
    parser.add_argument("--name", default="", help="the model's name (default: the run's)")
    parser.add_argument("--base-model", default="", help="the name of its start on the hub")
    parser.add_argument("--tag", action="append", default=[], help="a further tag; may be repeated")
    parser.add_argument("--step", type=int, help="curves end there (default: the checkpoint's)")
    parser.add_argument("--evaluation", nargs="+", type=Path, default=[], metavar="RUN",
                        help="folders of evaluations")  # fmt: skip
    parser.add_argument("--to", default="", help="upload to this repository, OWNER/NAME")
    parser.add_argument("--public", action="store_true", help="a new repository is not private")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    from caprl_native.distributed.errors import RunError

    args = arguments(argv)
    try:
        if args.export:
            make(args)
            print(args.out)
        elif not args.to:
            raise PublishError("give --export to make a folder, --to to upload one, or both")
        if args.to:
            from caprl_native.publishing.upload import upload

            print(upload(args.out, args.to, public=args.public))
    except (PublishError, ModelError, RunError) as error:
        sys.exit(f"error: {error}")


def make(args: argparse.Namespace) -> None:
    """Writes the folder, whole or not at all."""
    from caprl_native.export import write_export

    run = args.run or run_of(args.export)
    if not args.license:
        raise PublishError("the model's license is yours to say: --license apache-2.0")
    if run is None:
        raise PublishError(f"{args.export} is in no run's folder: name the run with --run")
    if args.out.exists():
        raise PublishError(f"{args.out} exists: give --out a new folder")
    tables = [evaluation(folder) for folder in args.evaluation]
    wanted = Wanted(args.license, args.name, args.base_model, args.tag, args.step, tables)
    upload = prepare(args.export, run, wanted)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_export(args.out, upload.write)


def evaluation(folder: Path) -> str:
    """The table of an evaluation's summary."""
    from eval.report.files import table

    try:
        return table([json.loads((folder / "summary.json").read_text("utf-8"))])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PublishError(f"{folder}: expected the folder of an evaluation: {error!r}") from error


if __name__ == "__main__":
    main()
