"""A training run as a page: see `caprl_native/viewer/cli.py`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without an installation

from caprl_native.viewer.cli import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
