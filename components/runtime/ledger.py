"""The ledger of releases and the openings of prompts: read whole, appended to by one writer."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from components.canonical import digest_of, sealed, unsealed
from components.contracts.releases import LEDGER_FOLDER, Line, Opening
from components.contracts.state import Frozen
from components.errors import Corrupt, UserError, one_line
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch, read_receipt
from components.storage import keys
from components.storage.cache import link_or_copy

RELEASE_SCHEME = "release://"
"""Begin of a `model.source` that names a release: release://name, or release://name@version."""

L = TypeVar("L", bound=Frozen)
_LINE = re.compile(r"/\d{6,}\.json$")


def read_lines(context: Context, name: str) -> list[Line]:
    """Return the ledger of a name, oldest line first; empty if nothing was released.

    Raises:
        Corrupt: A line cannot be read, is gone, or is not what it should be.
    """
    lines = _read_all(context, lambda number: keys.release_key(name, number), Line)
    for number, line in enumerate(lines, 1):
        if (line.name, line.number) != (name, number):
            raise Corrupt(
                f"{context.store.root}/{keys.release_key(name, number)} holds line {line.number} "
                f"of {line.name!r}; restore it"
            )
    return lines


def append_line(context: Context, line: Line) -> bool:
    """Write a line if its number is free. Return False if another line has the number."""
    return _append(context, keys.release_key(line.name, line.number), line)


def read_openings(context: Context, prompts_sha256: str) -> list[Opening]:
    """Return all openings of a set of prompts, oldest first."""
    return _read_all(
        context, lambda number: keys.opening_key(prompts_sha256, number), Opening
    )


def append_opening(
    context: Context, prompts_sha256: str, number: int, opening: Opening
) -> bool:
    """Record an opening if its number is free. Return False if another one has the number."""
    return _append(context, keys.opening_key(prompts_sha256, number), opening)


def names(context: Context) -> list[str]:
    """Return the names that have a ledger. From a listing, so for people alone."""
    prefix = keys.releases_prefix()
    return sorted(
        {key.removeprefix(prefix).split("/")[0] for key in context.store.list(prefix)}
    )


def find_line(lines: list[Line], version: str) -> Line | None:
    """Return the newest line of a version, or the line of that number; None if there is none."""
    for line in reversed(lines):
        if version in (line.version, str(line.number)):
            return line
    return None


def released_line(context: Context, name: str, publish: str) -> Line | None:
    """Return the line that a publish receipt was released by; None if it was not.

    Args:
        context: Store of the ledger.
        name: Name of the releases.
        publish: Ref of the receipt.
    """
    for line in read_lines(context, name):
        if line.action == "release" and line.publish == publish:
            return line
    return None


def withdrawn_release(lines: list[Line], weights: str) -> Line | None:
    """Return the release of these weights that a rollback passed over, unless it is in force again.

    Args:
        lines: The ledger of a name.
        weights: Digest of weights.
    """
    withdrawn: dict[str, Line] = {}
    for line in lines:
        if line.returns_to is not None:
            passed_over = lines[line.returns_to : line.number - 1]
            withdrawn |= {
                one.weights: one for one in passed_over if one.action == "release"
            }
        withdrawn.pop(line.weights, None)
    return withdrawn.get(weights)


def release_in_force(context: Context, source: str, key: str = "model.source") -> Line:
    """Return the line that a `release://` source names: of a name alone the newest.

    Args:
        context: Store with the ledger.
        source: The source.
        key: Key of the recipe that names it, for messages.

    Raises:
        UserError: There is no such release.
    """
    name, _, version = source.removeprefix(RELEASE_SCHEME).partition("@")
    lines = read_lines(context, name)
    if not lines:
        raise UserError(
            f"{key} {source}: nothing was released under the name {name!r} in "
            f"{context.store.root}; `releases` lists what there is"
        )
    line = find_line(lines, version) if version else lines[-1]
    if line is None:
        versions = ", ".join(dict.fromkeys(line.version for line in lines))
        raise UserError(f"{key} {source}: no such version; there are {versions}")
    return line


def receipt_of(context: Context, line: Line) -> Receipt:
    """Return the publish receipt of a line. Raises Corrupt if it is another one."""
    receipt = read_receipt(context, line.publish)
    if receipt.digest != line.publish_digest:
        raise Corrupt(
            f"{context.store.root}/{keys.release_key(line.name, line.number)}: the receipt "
            f"{line.publish} is not the one that was released (digest {receipt.digest})"
        )
    return receipt


def model_files(receipt: Receipt) -> list[str]:
    """Return the names of the files of a publish receipt that its folder holds."""
    return [
        name for name in sorted(receipt.objects) if not name.startswith(LEDGER_FOLDER)
    ]


def fetch_release(
    context: Context, receipt: Receipt, parent: Path | None = None
) -> Path:
    """Return a new local folder with the verified files of a released model.

    The folder is the caller's to delete; its files are read-only.

    Args:
        context: Store of the release.
        receipt: Its publish receipt.
        parent: Folder for the new one; None: the scratch folder.
    """
    context.scratch.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="release-", dir=parent or context.scratch))
    try:
        for name in model_files(receipt):
            link_or_copy(fetch(context, receipt, name), folder / name)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def weights_digest(receipt: Receipt, folder: str) -> str:
    """Return a digest of the weights of a checkpoint in a receipt: equal for equal weights.

    Args:
        receipt: Receipt that lists the files.
        folder: Folder of the checkpoint in it; empty for a published model.
    """
    prefix = f"{folder}/" if folder else ""
    files = {}
    for name, ref in receipt.objects.items():
        if name.startswith(prefix) and name.endswith(".safetensors"):
            files[name.removeprefix(prefix)] = ref.sha256
    return digest_of(files)


def _read_all(context: Context, key_of: Callable[[int], str], kind: type[L]) -> list[L]:
    # By number and not by a listing, which some stores give late. No number is left out: a writer
    # takes the one after the last that it has read.
    lines: list[L] = []
    while context.store.size(key_of(len(lines) + 1)) is not None:
        key = key_of(len(lines) + 1)
        try:
            lines.append(kind.model_validate(unsealed(context.store.get_bytes(key))))
        except ValueError as error:
            raise Corrupt(
                f"{context.store.root}/{key}: not a line of the ledger ({_problem(error)}); "
                "restore it"
            ) from None
    _require_last(context, key_of, len(lines))
    return lines


def _problem(error: ValueError) -> str:
    """Return in a line what is wrong with a document."""
    if isinstance(error, ValidationError):
        problem = error.errors()[0]
        return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
    return one_line(error)


def _require_last(context: Context, key_of: Callable[[int], str], number: int) -> None:
    """Raise Corrupt if lines come after the one that is missing next."""
    # A new line there would bring back what came after it, and forget what came before.
    next_key = key_of(number + 1)
    folder, _, _ = next_key.rpartition("/")
    later = [
        key
        for key in context.store.list(f"{folder}/")
        if _LINE.search(key) and key > next_key
    ]
    # Looked for once more: it may have been written since.
    if later and context.store.size(next_key) is None:
        raise Corrupt(
            f"{context.store.root}/{next_key} is gone, although {max(later)} is there; restore it"
        )


def _append(context: Context, key: str, line: Frozen) -> bool:
    data = sealed(line.model_dump(mode="json"))
    if context.store.put_bytes(key, data, if_absent=True):
        return True
    # The answer to our own write may have been lost, and the write repeated.
    return context.store.get_bytes(key) == data
