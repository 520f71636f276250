"""A folder -> a repository of a hub, by huggingface_hub."""

from __future__ import annotations

from pathlib import Path

from caprl_native.publishing.errors import PublishError
from caprl_native.publishing.folder import CARD
from caprl_native.redact import redact


def upload(folder: Path, name: str, *, public: bool = False) -> str:
    """Makes the repository `name` where there is none, and one commit in it; returns its address.

    The hub, its token and whether it may be reached at all are huggingface_hub's settings
    (HF_ENDPOINT, HF_TOKEN or its login, HF_HUB_OFFLINE).

    Raises PublishError where the folder has no card, or the hub cannot be reached or refuses.
    """
    if not (folder / CARD).is_file():
        raise PublishError(f"{folder}: has no {CARD}; make the folder with --export first")
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        api = HfApi()
        made = api.create_repo(name, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=made.repo_id, folder_path=folder, commit_message="Upload by caprl_native"
        )
        return str(made)
    except LocalTokenNotFoundError as error:
        raise PublishError("the hub wants a token: set HF_TOKEN, or log in") from error
    except HFValidationError as error:
        raise PublishError(f"{name!r} names no repository (owner/name): {error}") from error
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        said = redact(" ".join(str(error).split()))
        raise PublishError(f"{name} was not uploaded: {said}") from error
