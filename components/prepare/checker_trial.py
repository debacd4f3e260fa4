"""The user's own verifiers: their code, and a trial on rows before anything is spent."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from components.contracts.recipe import DataSource
from components.contracts.rows import Dropped
from components.contracts.verifier_names import own_name
from components.errors import Corrupt, Missing, UserError
from components.prepare.examples import Example
from components.runtime.context import Context
from components.sandbox.code_bundles import MAX_BYTES, register
from components.storage import keys
from components.verifiers.own_checker import CheckerFailed, tried

NUM_TRIALS = 3
_SHOWN_CHARACTERS = 80


def fetch_bundle(context: Context, digest: str, path: Path) -> None:
    """Write the bundle of checker code to a file, and note it for this process.

    Raises:
        UserError: The recipe names no bundle, or the store has none of this digest.
        Corrupt: Its bytes are not those of the digest.
    """
    if not digest:
        raise UserError(
            "data.sources names a verifier of your own, and its code did not come along: begin the "
            "run with `run` or `submit` and the recipe, where the code is"
        )
    try:
        data = context.store.get_bytes(keys.object_key(digest), 2 * MAX_BYTES)
    except Missing:
        raise UserError(
            f"data.checker_code {digest}: {context.store.root} has no such object; begin the run "
            "with `run` or `submit` and the recipe, which upload it"
        ) from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise Corrupt(
            f"{context.store.root}/{keys.object_key(digest)}: its bytes are others"
        )
    path.write_bytes(data)
    register(digest, path)


def try_checker(
    source: DataSource, examples: Iterator[tuple[object, Example] | Dropped]
) -> None:
    """Ask a source's own verifier about its first rows.

    Raises:
        UserError: It cannot be imported, raises, or returns something else than a verdict; with its
            name, the row and the line.
    """
    if own_name(source.verifier) is None:
        return
    usable = (item for item in examples if not isinstance(item, Dropped))
    for _, example in islice(usable, NUM_TRIALS):
        try:
            tried(example.as_prompt(), example.completion or "")
        except CheckerFailed as error:
            row = example.provenance["place"]
            raise UserError(
                f"data.sources {source.uri}: verifier {error}; asked about {row}, the prompt "
                f"{example.prompt[:_SHOWN_CHARACTERS]!r}"
            ) from None
