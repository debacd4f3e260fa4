"""Inputs of a recipe: those that only this machine has, and the state of those in a bucket."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from components.canonical import digest_of
from components.cli.json_documents import Json
from components.errors import UserError
from components.runtime.ledger import RELEASE_SCHEME
from components.storage.sources import source_version, split_source

_FROM_NOTHING = "scratch"
# Sections of a recipe whose one field names a folder or file.
_INPUTS = (
    ("model", "source"),
    ("generate", "teacher", "source"),
    ("select", "reward", "source"),
    ("evaluate", "harness", "folder"),
)


def refuse_local_inputs(recipe: Json) -> None:
    """Raise UserError if data or a model of a run on a cluster lies on this machine.

    Args:
        recipe: The recipe as the pipeline's parameter has it.
    """
    local = [f"{key}: {uri}" for key, uri in named_inputs(recipe) if is_local(uri)]
    if local:
        key = local[0].partition(":")[0]
        raise UserError(
            f"{'; '.join(local)}: this machine has it, and pods do not; submit the recipe itself "
            "with --store, which sends it there, or copy it to a bucket that they reach and say "
            f"--set {key}=s3://bucket/…"
        )


def digest_of_inputs(recipe: Json, environment: Mapping[str, str]) -> str:
    """Return a digest of what the recipe's inputs hold now; empty if none of them can change.

    Raises:
        UserError: An input is not there, or may not be read.
        Transient: The store cannot be reached for now.
    """
    versions = {}
    for key, uri in named_inputs(recipe):
        if not _is_in_store(uri):
            version = source_version(uri, environment)
            if version:
                versions[key] = version
    return digest_of(versions) if versions else ""


def named_inputs(recipe: Json) -> Iterator[tuple[str, str]]:
    """Yield (key, URI) of everything that a recipe reads."""
    sources = _value(recipe, "data", "sources")
    for index, source in enumerate(sources if isinstance(sources, list) else ()):
        yield f"data.sources.{index}.uri", str(_value(source, "uri") or "")
    for path in _INPUTS:
        yield ".".join(path), str(_value(recipe, *path) or "")


def _value(document: object, *keys: str) -> object:
    """Return the value under a path of keys; None where the recipe has another form."""
    # `--param recipe={…}` is checked by `prepare`, not here.
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document


def _is_in_store(uri: str) -> bool:
    """Return True if a run needs nothing but its store for it: no model, or a release."""
    return uri in ("", _FROM_NOTHING) or uri.startswith(RELEASE_SCHEME)


def is_local(uri: str) -> bool:
    """Return True if an input is a file or folder of the machine that reads the recipe."""
    if _is_in_store(uri):
        return False
    # Without the environment: a `~` is here whatever it stands for.
    return split_source(uri, {})[0] == "file"
