"""An exported folder on the Hugging Face Hub, with the login that `hf auth login` left; no token is ever an argument."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from data.read_hub import parsed_hub_id
from launch.cli import ConfigError, EnvironmentFault


def require_login(hub_id: str) -> None:
    """Before any work: the id has the Hub's form and there is a login. Asks no server.

    Raises:
        ConfigError: not of the form owner/name.
        EnvironmentFault: no login.
    """
    from huggingface_hub import get_token

    parsed = parsed_hub_id(hub_id)
    if parsed is None or parsed.name != hub_id:
        raise ConfigError(f"push: {hub_id!r} is no Hub id; write owner/name")
    if get_token() is None:
        raise EnvironmentFault(f"push: no login for {hub_id}; run: hf auth login")


def push(folder: Path, hub_id: str, *, public: bool) -> str:
    """Upload the folder as one commit, into a repository made where there is none; returns the commit's address.

    Raises:
        EnvironmentFault: the Hub refused or could not be reached; the folder stays.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with _told(folder, hub_id):
        api.create_repo(hub_id, private=not public, exist_ok=True)
        commit = api.upload_folder(repo_id=hub_id, folder_path=folder, commit_message="Export by Longreach")
    return str(commit.commit_url)


@contextmanager
def _told(folder: Path, hub_id: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError

    # Which HTTP client the Hub's library uses depends on its version; its own error derives from that client's.
    client = cast("tuple[type[Exception], ...]", HfHubHTTPError.__bases__)
    failures: tuple[type[Exception], ...] = (OSError, ValueError, *client)
    try:
        yield
    except failures as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise EnvironmentFault(
            f"push: {hub_id} was not written ({reason}); {folder} is whole, so mend the cause and run: hf upload {hub_id} {folder}"
        ) from error
