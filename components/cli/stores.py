"""The store that a verb works on, and the run in it."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import UserError

if TYPE_CHECKING:
    from components.runtime.context import Context


def default_store() -> str:
    """Return the URI of the store in the working folder."""
    # Not in the home folder: projects do not share runs, and one can be deleted with its folder.
    return (Path.cwd() / ".ratchet" / "store").as_uri()


def open_context(store: str) -> Context:
    """Return the context of a verb that reads a store; an empty URI is the default store."""
    from components.cli.local.run import with_cache_beside_store
    from components.runtime.context import make_context
    from components.storage import keys

    root = keys.canonical_root(store or default_store())
    return make_context(root, with_cache_beside_store(root, os.environ))


def unknown_run(context: Context, run_id: str) -> UserError:
    """Return the error for a run that the store does not know, with the nearest that it does."""
    from components.report.runs import begun_runs

    run_ids = begun_runs(context)
    # A name without its digest, or a part of either: what is left out costs no similarity.
    nearest = [name for name in run_ids if run_id in name]
    nearest = nearest or difflib.get_close_matches(run_id, run_ids, n=1)
    advice = f"did you mean {nearest[-1]}?" if nearest else "`runs` lists them"
    return UserError(f"{context.store.root} knows no run {run_id!r}; {advice}")


def may_be_run(name: str) -> bool:
    """Return whether a run can have this name; the path of a model often cannot."""
    from components.storage import keys

    try:
        keys.part(name)
    except UserError:
        return False
    return True


def existing_run(context: Context, run_id: str) -> str:
    """Return the run's id, for "latest" that of the run begun last.

    Raises:
        UserError: No run can have this name, or the store has none at all.
    """
    from components.report.runs import latest_run_id

    if not may_be_run(run_id):
        raise unknown_run(context, run_id)
    if run_id != "latest":
        return run_id
    latest = latest_run_id(context)
    if latest is None:
        raise UserError(
            f"{context.store.root} holds no run yet; `run RECIPE` makes one, or pass --store"
        )
    return latest
