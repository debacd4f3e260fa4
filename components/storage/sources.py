"""Local copies of the data files and model folders that recipes name by URI.

A plain path (`~` is the home folder), `file://path`, `package://module/path` (a file inside an
installed Python package), `s3://bucket/key`, `hf://org/name@revision/path` and
`hf://datasets/org/name@revision/path`. Pickled weights are never fetched.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from components.errors import Missing, UserError
from components.storage.sources_hub import HubPath, hf_file, hf_folder
from components.storage.store import open_store

FOLDER_SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".jinja", ".gguf")
"""Endings of the files fetched from a remote model folder: weights, configuration, tokenizer."""
# No .bin, .pt or .py: pickles and modules run their author's code when they are loaded.

# Models of old have no organisation; revisions of pull requests have slashes: refs/pr/1.
_HF = re.compile(
    r"(datasets/)?((?:[\w.-]+/)?[\w.-]+)@(refs/(?:pr|heads|convert)/[\w.-]+|[\w.-]+)((?:/[^/]+)*)"
)
_HUB_NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)?(?:@[\w.-]+)?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
"""Beginning of a URI, also of one whose second slash was forgotten."""


def local_path(
    uri: str, environment: Mapping[str, str], scratch: Path, *, or_folder: bool = False
) -> Path:
    """Return a local path of the file that `uri` names, downloaded below `scratch` if remote.

    With `or_folder` it may be a folder of this machine too.

    Raises UserError naming the URI and what to do; Transient if the store or the hub cannot be
    reached for now.
    """
    scheme, address = split_source(uri, environment)
    match scheme:
        case "file" | "package":
            path = Path(address) if scheme == "file" else _in_package(uri, address)
            return (
                path
                if or_folder and path.is_dir()
                else _existing(uri, path, folder=False)
            )
        case "s3":
            return _s3_file(uri, environment, scratch)
        case _:
            return hf_file(uri, _hf_parts(uri, address), environment)


def local_folder(uri: str, environment: Mapping[str, str], scratch: Path) -> Path:
    """Return a local folder with the files of the model folder that `uri` names.

    Of a remote folder only files that end in one of FOLDER_SUFFIXES are fetched.

    Raises UserError naming the URI and what to do; Transient if the store or the hub cannot be
    reached for now.
    """
    scheme, address = split_source(uri, environment)
    match scheme:
        case "file":
            return _existing(uri, Path(address), folder=True)
        case "package":
            return _existing(uri, _in_package(uri, address), folder=True)
        case "s3":
            return _s3_folder(uri, environment, scratch)
        case _:
            place = _hf_parts(uri, address)
            folder = hf_folder(uri, place, environment, FOLDER_SUFFIXES)
            return _existing(uri, folder, folder=True)


def source_version(uri: str, environment: Mapping[str, str]) -> str:
    """Return a word that changes with what `uri` holds; empty where the URI itself says that.

    Only objects and folders of a bucket can change behind their URI: the others are files of this
    machine, of an installed package, or of a revision.

    Raises UserError if there is nothing; Transient if the store cannot be reached for now.
    """
    scheme, _ = split_source(uri, environment)
    if scheme != "s3":
        return ""
    parent, _, name = uri.rpartition("/")
    if name and parent != "s3:/":
        version = open_store(parent, environment).version(name)
        if version is not None:
            return version
    folder = open_store(uri.rstrip("/"), environment)
    versions = [f"{key} {folder.version(key)}" for key in folder.list("")]
    if not versions:
        raise UserError(f"{uri}: no such object; correct the key, or upload it")
    return "\n".join(versions)


def model_version(uri: str, environment: Mapping[str, str], scratch: Path) -> str:
    """Return a digest that changes with the files of a model; empty for one of a hub.

    Local files can be edited under one name, and objects of a bucket be replaced. A URI of a hub
    holds a revision, and is taken at its word.

    Raises UserError if there is nothing; Transient if the store cannot be reached for now.
    """
    scheme, _ = split_source(uri, environment)
    if scheme == "hf":
        return ""
    if scheme == "s3":
        return hashlib.sha256(source_version(uri, environment).encode()).hexdigest()
    if uri.endswith(".gguf"):
        return content_digest(local_path(uri, environment, scratch))
    return content_digest(local_folder(uri, environment, scratch))


def content_digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and digests of a folder's files."""
    if not path.is_dir():
        return _sha256(path)
    # With the names: the same bytes under another name are another model.
    files = [file for file in sorted(path.iterdir()) if file.is_file()]
    lines = [f"{file.name} {_sha256(file)}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def split_source(uri: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """Return (scheme, address) of a URI; a plain path has the scheme `file`.

    Raises UserError for what is neither. Nothing is looked up.
    """
    scheme, separator, address = uri.partition("://")
    if not separator and uri and not _SCHEME.match(uri):
        scheme, address = "file", uri
    is_known = scheme in ("file", "package", "s3", "hf")
    # A NUL character would end in a ValueError of the operating system's calls.
    if not is_known or not address or "\0" in address:
        raise UserError(
            f"{uri!r}: use a path, file://path, package://module/path, s3://bucket/key or "
            "hf://[datasets/]org/name@revision/path"
        )
    if scheme != "file":
        if scheme == "hf":
            _hf_parts(uri, address)
        return scheme, address
    if separator:
        address = unquote(address)
    home = environment.get("HOME", "")
    if home and (address == "~" or address.startswith("~/")):
        address = home + address[1:]
    return scheme, address


def _hf_parts(uri: str, address: str) -> HubPath:
    """Return what an `hf://` URI names. Raises UserError if it is no such address."""
    match = _HF.fullmatch(address)
    if not match or ".." in match[4].split("/"):
        raise UserError(
            f"{uri}: use hf://[datasets/]org/name@revision[/path]; a run without a revision "
            "cannot be repeated"
        )
    kind = "dataset" if match[1] else "model"
    return HubPath(kind, match[2], match[3], match[4].removeprefix("/"))


def _existing(uri: str, path: Path, *, folder: bool) -> Path:
    expected_kind = "folder" if folder else "file"
    try:
        has_expected_kind = path.is_dir() if folder else path.is_file()
        exists = path.exists()
    except OSError as error:
        raise UserError(f"{uri}: cannot be read ({error.strerror})") from None
    if has_expected_kind:
        return path
    if exists and folder:
        raise UserError(f"{uri} is a file; name the folder")
    if exists:
        raise UserError(f"{uri} is a folder; name one file in it")
    # A relative path depends on the working directory, so show what it resolved to.
    is_package = uri.startswith("package:")
    resolved = "" if is_package else f" (looked at {path.absolute()})"
    hub = ""
    if folder and _HUB_NAME.fullmatch(uri):
        hub = f"; if you mean a model of the hub, write hf://{uri.partition('@')[0]}@REVISION"
    raise UserError(f"{uri}: no such {expected_kind}{resolved}; correct the path{hub}")


def _in_package(uri: str, address: str) -> Path:
    """Return the path inside an installed package, found without importing it."""
    module, _, inner = address.partition("/")
    leaves_package = inner.startswith("/") or ".." in PurePosixPath(inner).parts
    if not module.isidentifier() or not inner or leaves_package:
        raise UserError(
            f"{uri}: use package://module/path, a path inside one installed top-level package"
        )
    # Not imported: a recipe must not run the code of whatever package it names.
    try:
        spec = importlib.util.find_spec(module)
    except ValueError:
        # `__main__` and half-loaded modules have no spec.
        spec = None
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise UserError(
            f"{uri}: no Python package {module!r} is installed here; install it or use a file:// "
            "URI"
        )
    # A namespace package has several folders; the first that holds the path counts.
    paths = [Path(folder) / inner for folder in folders]
    return next((path for path in paths if path.exists()), paths[0])


def _s3_file(uri: str, environment: Mapping[str, str], scratch: Path) -> Path:
    parent, _, name = uri.rpartition("/")
    if not name or parent == "s3:/":
        raise UserError(f"{uri}: name one object, s3://bucket/key")
    target = _new_folder(scratch) / Path(name).name
    try:
        open_store(parent, environment).get_file(name, target)
    except Missing:
        raise UserError(
            f"{uri}: no such object; correct the key, or upload it"
        ) from None
    return target


def _s3_folder(uri: str, environment: Mapping[str, str], scratch: Path) -> Path:
    store = open_store(uri.rstrip("/"), environment)
    target = _new_folder(scratch)
    has_files = False
    for key in store.list(""):
        # Others wrote these keys: none may lead out of the folder.
        leaves_folder = key.startswith("/") or ".." in PurePosixPath(key).parts
        if leaves_folder or not key.endswith(FOLDER_SUFFIXES):
            continue
        (target / key).parent.mkdir(parents=True, exist_ok=True)
        store.get_file(key, target / key)
        has_files = True
    if not has_files:
        raise UserError(
            f"{uri}: no model files ({', '.join(FOLDER_SUFFIXES)}) below this prefix; correct it, "
            "or upload the model"
        )
    return target


def _new_folder(scratch: Path) -> Path:
    scratch.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="uri-", dir=scratch))
