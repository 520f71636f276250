"""Questions to train on, written and filtered: see `caprl_native/curation/curate_cli.py`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without an installation
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from caprl_native.curation.curate_cli import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
