"""Whether a run can write what it is asked to: its folder, and the services that it logs to."""

from __future__ import annotations

import logging
import netrc
import os
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from caprl_native.config.rules import Rules
from caprl_native.files import check_writable

log = logging.getLogger(__name__)


def check_outputs(rules: Rules) -> None:
    """Raises ConfigError unless the run's folder can be written and W&B's key is there."""
    folder, log_config = rules.value("run").folder, rules.value("log")
    problem = check_writable(folder)
    rules.require(not problem, "run.dir", f"a folder to write into ({folder}: {problem})")
    rules.require(
        not ("wandb" in log_config.backends and log_config.wandb == "online") or _has_wandb_key(),
        "log.wandb",
        '"offline" or "disabled" where neither WANDB_API_KEY nor a netrc file holds a key for '
        "Weights & Biases (`wandb login` writes one)",
    )
    rules.require(
        "tensorboard" not in log_config.backends or find_spec("tensorboard") is not None,
        "log.backends",
        'no "tensorboard" where the package tensorboard is not installed',
    )


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    given = os.environ.get("NETRC")
    files = [Path(given)] if given else [Path("~/.netrc"), Path("~/_netrc")]
    for file in files:
        try:
            if netrc.netrc(file.expanduser()).authenticators(host):
                return True
        except FileNotFoundError:
            continue
        except (OSError, netrc.NetrcParseError) as error:
            log.warning("%s cannot be read: %s", file, error)
    return False
