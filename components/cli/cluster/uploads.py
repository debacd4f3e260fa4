"""Data and models of this machine: sent to the store before a run on a cluster needs them.

Each goes to `inputs/<digest>/`, addressed by its content: the same data is sent once, has one URI,
and so is the same run; a changed file is another one. `prepare` reads it as it reads any `s3://`.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from components.canonical import digest_of
from components.cli.cluster.inputs import is_local, named_inputs
from components.cli.json_documents import Json
from components.errors import UserError
from components.storage import keys
from components.storage.folder import local_errors
from components.storage.sources import FOLDER_SUFFIXES, split_source
from components.storage.store import Store, open_store

MAX_BYTES = 20_000_000_000
"""Of all inputs of one run. A larger model is better copied by a tool that can be resumed."""

_MODELS = ("model.source", "select.reward.source")
_NOT_IN_A_KEY = re.compile(r"[^A-Za-z0-9._=+-]+")


@dataclass(frozen=True)
class _Upload:
    """A file, or the files of a model's folder."""

    key: str
    """Of the recipe: `data.sources.0.uri`."""
    path: Path
    files: dict[str, Path]
    """Name in the store → file."""


def send_local_inputs(
    recipe: Json, store: str, environment: Mapping[str, str], tell: Callable[[str], None]
) -> list[str]:
    """Send every input that lies on this machine to the store.

    Args:
        recipe: The recipe as a document.
        store: URI of the store; one that is no bucket is left for the checks of the parameters.
        environment: Credentials of the store, and HOME.
        tell: Is given a line for each file.

    Returns:
        Changes of the recipe, as of `--set`: `model.source=s3://…`. None if nothing is local.

    Raises:
        UserError: An input is not there, is too large or of a kind that is not sent.
        Transient: The store does not answer.
    """
    local = [(key, uri) for key, uri in named_inputs(recipe) if is_local(uri)]
    if not local or not store.startswith("s3://"):
        return []
    uploads = [_upload(key, uri, environment) for key, uri in local]
    _check_size(uploads, store)
    opened = open_store(store, environment)
    changes = []
    for upload in uploads:
        uri = _send(upload, opened, tell)
        changes.append(f"{upload.key}={uri}")
    return changes


def _upload(key: str, uri: str, environment: Mapping[str, str]) -> _Upload:
    """Return what is sent for one input, after a look at what is there."""
    path = Path(split_source(uri, environment)[1]).absolute()
    if key in _MODELS and path.is_dir():
        files = dict(_model_files(path))
        if files:
            return _Upload(key, path, files)
        endings = ", ".join(FOLDER_SUFFIXES)
        raise UserError(f"{key}: {path} has no file of a model ({endings})")
    is_whole_model = key in _MODELS and path.suffix == ".gguf"
    if (key.startswith("data.") or is_whole_model) and path.is_file():
        return _Upload(key, path, {_name(path): path})
    if not path.exists():
        raise UserError(f"{key}: {path} is not there; correct the path")
    if key.startswith("data."):
        cure = "write it as one file (Dataset.to_parquet), and name that"
    else:
        cure = f"copy it to a bucket that pods reach, and say --set {key}=s3://bucket/…"
    kind = "folder" if path.is_dir() else "file"
    raise UserError(f"{key}: {path} is a {kind} of this machine, and pods have none: {cure}")


def _model_files(folder: Path) -> Iterator[tuple[str, Path]]:
    # Those alone that are fetched from a bucket: no pickles, no code, no checkpoints below.
    for file in sorted(folder.iterdir()):
        if file.name.endswith(FOLDER_SUFFIXES) and file.is_file():
            yield _name(file), file


def _name(file: Path) -> str:
    """Return a name for the store that ends as the file's does: readers go by the ending."""
    return keys.part(_NOT_IN_A_KEY.sub("_", file.name).lstrip("._")[-100:].replace("..", "_"))


def _check_size(uploads: list[_Upload], store: str) -> None:
    total_bytes = 0
    for upload in uploads:
        for file in upload.files.values():
            total_bytes += file.stat().st_size
    if total_bytes <= MAX_BYTES:
        return
    first = uploads[0]
    recursive = "--recursive " if first.path.is_dir() else ""
    target = f"{store.rstrip('/')}/inputs/{_NOT_IN_A_KEY.sub('_', first.path.name)}"
    raise UserError(
        f"{first.key}: data and models of this machine have {total_bytes / 1e9:.1f} GB, and "
        f"{MAX_BYTES / 1e9:.0f} GB are sent at most; copy them yourself: "
        f"aws s3 cp {recursive}{shlex.quote(str(first.path))} {target}, and then "
        f"--set {first.key}={target}"
    )


def _send(upload: _Upload, store: Store, tell: Callable[[str], None]) -> str:
    """Send what the store has not, and return its URI there."""
    digests = {}
    for name, file in upload.files.items():
        with local_errors(file), file.open("rb") as opened:
            digests[name] = hashlib.file_digest(opened, "sha256").hexdigest()
    is_folder = upload.path.is_dir()
    digest = digest_of(digests) if is_folder else next(iter(digests.values()))
    for name, file in upload.files.items():
        key = keys.input_key(digest, name)
        size = file.stat().st_size
        if store.size(key) == size:
            tell(f"{file}: the store has it")
            continue
        tell(f"{file}: sending {size / 1e6:,.1f} MB to {store.root}/{key}")
        store.put_file(key, file, digests[name])
    folder = f"{store.root}/{keys.input_key(digest)}"
    return folder if is_folder else f"{folder}/{next(iter(upload.files))}"
