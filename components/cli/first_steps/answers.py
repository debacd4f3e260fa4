"""Answers that a person types when `init` asks."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from components.cli.first_steps.new_recipe import VOTES, source_of
from components.cli.options import with_home
from components.runtime.ledger import RELEASE_SCHEME
from components.storage.sources import local_folder, local_path, split_source

SCRATCH = "scratch"
_ON_THIS_MACHINE = ("file", "package")


def require_data(answer: str) -> str:
    """Return the path or URI of a file. UserError if there is none on this machine."""
    data = without_quotes(answer)
    if _is_here(data):
        local_path(data, os.environ, Path(), or_folder=True)
    return data


def require_model(answer: str) -> str:
    """Return the path or URI of a model. UserError if there is none on this machine."""
    model = without_quotes(answer)
    if model.lower() == SCRATCH:
        return SCRATCH
    # A release is looked up in the store, by the run.
    if model.startswith(RELEASE_SCHEME) or not _is_here(model):
        return model
    if model.endswith(".gguf"):
        local_path(model, os.environ, Path())
    else:
        local_folder(model, os.environ, Path())
    return model


def require_check(answer: str) -> str:
    """Return the name of a check. UserError if there is none of this name."""
    check = answer.strip()
    if check.lower() == VOTES:
        return VOTES
    return source_of("rows.jsonl", check).verifier


def without_quotes(answer: str) -> str:
    """Return a path without the quotes or backslashes that a shell, or a dropped file, puts there."""
    path = answer.strip()
    if with_home(Path(path)).exists():
        return path
    try:
        parts = shlex.split(path)
    except ValueError:
        return path
    return parts[0] if len(parts) == 1 else path


def _is_here(uri: str) -> bool:
    """Return whether a URI is of this machine. UserError if it is none."""
    scheme, _ = split_source(uri, os.environ)
    return scheme in _ON_THIS_MACHINE
