"""Data and models of this machine: sent to the store before a run on a cluster needs them.

Each goes to `inputs/<digest>/`, addressed by its content: the same data is sent once, has one URI,
and so is the same run; a changed file is another one. `prepare` reads it as it reads any `s3://`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.canonical import digest_of
from components.cli.cluster.inputs import is_local, named_inputs
from components.cli.json_documents import Json
from components.errors import UserError
from components.storage import keys
from components.storage.sources import FOLDER_SUFFIXES, split_source
from components.storage.store import Store, open_store

MAX_BYTES = 20_000_000_000
"""Of all inputs of one run. A larger model is better copied by a tool that can be resumed."""

_MODELS = ("model.source", "generate.teacher.source", "select.reward.source")
_NOT_IN_A_KEY = re.compile(r"[^A-Za-z0-9._=+-]+")


@dataclass(frozen=True)
class _Upload:
    """A file, or the files of a model's folder."""

    key: str
    """Of the recipe: `data.sources.0.uri`."""
    path: Path
    files: dict[str, Path]
    """Name in the store → file."""

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(file.stat().st_size for file in self.files.values())


def send_local_inputs(
    recipe: Json,
    store: str,
    environment: Mapping[str, str],
    tell: Callable[[str], None],
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
    with _read_errors(key, path):
        return _upload_from(key, path)


def _upload_from(key: str, path: Path) -> _Upload:
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
    raise UserError(
        f"{key}: {path} is a {kind} of this machine, and pods have none: {cure}"
    )


@contextmanager
def _read_errors(key: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{key}: {path} cannot be read ({error.strerror}); correct the path, or its rights"
        ) from None


def _model_files(folder: Path) -> Iterator[tuple[str, Path]]:
    # Those alone that are fetched from a bucket: no pickles, no code, no checkpoints below.
    for file in sorted(folder.iterdir()):
        # macOS lays a `._config.json` beside a `config.json`.
        is_hidden = file.name.startswith(".")
        if file.name.endswith(FOLDER_SUFFIXES) and file.is_file() and not is_hidden:
            # Under its own name or not at all: the files of a model name each other.
            yield keys.part(file.name), file


def _name(file: Path) -> str:
    """Return a name for the store that ends as the file's does: readers go by the ending."""
    name = _NOT_IN_A_KEY.sub("_", file.name)[-100:].replace("..", "_")
    # A key begins with a letter or digit, and a name such as `数据.jsonl` has none before its ending.
    return keys.part(name if name[0].isalnum() else f"file{name}")


def _check_size(uploads: list[_Upload], store: str) -> None:
    total_bytes = sum(upload.size_bytes for upload in uploads)
    if total_bytes <= MAX_BYTES:
        return
    largest = max(uploads, key=lambda upload: upload.size_bytes)
    recursive = "--recursive " if largest.path.is_dir() else ""
    target = f"{store.rstrip('/')}/inputs/{_NOT_IN_A_KEY.sub('_', largest.path.name)}"
    raise UserError(
        f"{largest.key}: data and models of this machine have {total_bytes / 1e9:.1f} GB, and "
        f"{MAX_BYTES / 1e9:.0f} GB are sent at most; copy the largest yourself: "
        f"aws s3 cp {recursive}{shlex.quote(str(largest.path))} {target}, and then "
        f"--set {largest.key}={target}"
    )


def _send(upload: _Upload, store: Store, tell: Callable[[str], None]) -> str:
    """Send what the store has not, and return its URI there."""
    digests = {}
    written_at = {}
    for name, file in upload.files.items():
        with _read_errors(upload.key, file), file.open("rb") as opened:
            written_at[name] = os.fstat(opened.fileno()).st_mtime_ns
            digests[name] = hashlib.file_digest(opened, "sha256").hexdigest()
    is_folder = upload.path.is_dir()
    digest = digest_of(digests) if is_folder else next(iter(digests.values()))
    for name, file in upload.files.items():
        key = keys.input_key(digest, name)
        with _read_errors(upload.key, file):
            size = file.stat().st_size
            if store.size(key) == size:
                tell(f"{file}: the store has it")
                continue
            tell(f"{file}: sending {size / 1e6:,.1f} MB to {store.root}/{key}")
            try:
                store.put_file(key, file, digests[name])
            finally:
                # A large file is sent for hours, and what the store has is not sent again.
                if file.stat().st_mtime_ns != written_at[name]:
                    store.delete(key)
                    raise UserError(
                        f"{upload.key}: {file} was changed while it was sent; submit again once "
                        "nothing writes to it"
                    )
    folder = f"{store.root}/{keys.input_key(digest)}"
    return folder if is_folder else f"{folder}/{next(iter(upload.files))}"
