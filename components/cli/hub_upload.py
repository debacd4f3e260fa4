"""Puts the release in force into a repository of the model hub: one commit, and a tag."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass

from components.cli.releases import lines_of
from components.errors import RatchetError, Transient, UserError, first_line
from components.retry import Patience
from components.runtime import ledger
from components.runtime.context import Context
from components.storage.sources_hub import bound_silence

PATIENCE = Patience(answer_seconds=300.0)
"""A hub may be silent for so long: it looks at large files before it answers."""
_REPOSITORY = re.compile(r"hf://([\w-][\w.-]*/[\w-][\w.-]*)")


@dataclass(frozen=True)
class Uploaded:
    """A release in a repository of the hub."""

    uri: str
    """`hf://org/model@version`, by which recipes take it as their model."""
    version: str
    line: int
    changed: bool
    """False: the repository had these very files."""


def upload(
    context: Context, name: str, target: str, *, private: bool = True
) -> Uploaded:
    """Upload the release in force; the repository then has its files and no others.

    The hub takes a commit whole or not at all. Done again, nothing changes: files that are there
    are not sent, and a tag that is there stays.

    Args:
        context: Store of the ledger, and the variables HF_TOKEN and HF_ENDPOINT.
        name: Name of the releases.
        target: `hf://org/model`; made if it does not exist.
        private: Whether a repository that is made is seen by its owners alone.

    Raises:
        UserError: Nothing was released, or the hub refuses the name or the rights.
        Corrupt: A file of the release is not what its receipt says.
        Transient: The hub fails for now.
    """
    match = _REPOSITORY.fullmatch(target)
    if match is None:
        raise UserError(
            f"{target}: write hf://org/model, without a revision: its version is one"
        )
    repository = match[1]
    line = lines_of(context, name)[-1]
    folder = ledger.fetch_release(context, ledger.receipt_of(context, line))
    import huggingface_hub

    endpoint = context.environment.get("HF_ENDPOINT") or None
    api = huggingface_hub.HfApi(
        endpoint=endpoint, token=context.environment.get("HF_TOKEN")
    )
    huggingface_hub.utils.disable_progress_bars()
    bound_silence(PATIENCE)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit_before = api.repo_info(repository).sha
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=f"Release {line.number} of {name}: {line.version}",
            commit_description=f"Made by {line.run_id} from {line.base.source}.",
            # Files of an earlier release that this one has not.
            delete_patterns="*",
        )
        api.create_tag(repository, tag=line.version, revision=commit.oid, exist_ok=True)
    except (
        OSError,
        ValueError,
        RuntimeError,
        huggingface_hub.errors.HTTPError,
    ) as error:
        raise _hub_error(target, error) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Uploaded(
        uri=f"{target}@{line.version}",
        version=line.version,
        line=line.number,
        changed=commit.oid != commit_before,
    )


def _hub_error(target: str, error: Exception) -> RatchetError:
    """Return the error of a verb for one of the hub's client."""
    response = getattr(error, "response", None)
    status = response.status_code if response is not None else 0
    # The client wraps what a file's upload failed with.
    reason = first_line(error.__cause__ or error) if status == 0 else first_line(error)
    if status == 0 or status in (408, 429) or status >= 500:
        return Transient(
            f"{target}: the hub could not take it now ({type(error).__name__}: {reason}); the same "
            "command goes on"
        )
    return UserError(
        f"{target}: the hub refuses it ({reason}); check the name, and set HF_TOKEN to a token "
        "that may write there"
    )
