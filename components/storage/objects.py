"""Objects by their content, beside a collection of garbage that may run at any time.

The danger of every store of this kind: a writer finds its bytes there, does not send them, and
names them in a receipt; in between `gc`, which knew no receipt that names them, has deleted them.

Here an address is never used again once it is condemned. The bytes of one digest have a row of
addresses, their generations. Each goes through four conditions and never back: free, stored,
condemned (a mark is beside it), deleted (the mark stays). A writer passes over condemned addresses
and stores the bytes at the first one without a mark, the living one. So it does not matter how
late `gc` deletes what it has condemned: no writer that saw the mark relies on that address. For
writers that saw none, see `runtime/receipts.py`: they look once more after their receipt is written,
and `gc` looks for receipts after its marks are written, so one of the two sees the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from components.errors import Missing
from components.storage import keys
from components.storage.cache import Cache
from components.storage.store import Store


def is_collected_from(store: Store) -> bool:
    """Return True if there may be condemned objects: `gc --delete` was called at least once."""
    return store.size(keys.collections_key()) is not None


def is_condemned(store: Store, sha256: str, generation: int) -> bool:
    """Return True if an address must not be relied upon any more."""
    return store.size(keys.condemned_key(sha256, generation)) is not None


def living_key(store: Store, sha256: str) -> str:
    """Return the address at which these bytes are, or have to be stored."""
    return keys.object_key(sha256, _living_generation(store, sha256))


def _living_generation(store: Store, sha256: str) -> int:
    generation = 0
    while is_condemned(store, sha256, generation):
        generation += 1
    return generation


def put(store: Store, path: Path, sha256: str) -> None:
    """Store a file at its living address, if it is not there."""
    generation = _living_generation(store, sha256)
    store.put_file(keys.object_key(sha256, generation), path, sha256)
    if generation:
        # Without the note, a loss of the new object would look as if `gc` had taken the old one.
        note = keys.stored_again_key(sha256, generation)
        store.put_bytes(note, b'{"purpose":"see storage/objects.py"}', if_absent=True)


def find(store: Store, sha256: str, size: int) -> str | None:
    """Return an address that holds these bytes; None if none does.

    The living one comes first. One that is condemned is good to be read, and no more.
    """
    addresses = [keys.object_key(sha256)]
    while is_condemned(store, sha256, len(addresses) - 1):
        addresses.append(keys.object_key(sha256, len(addresses)))
    for address in reversed(addresses):
        if store.size(address) == size:
            return address
    return None


def why_collected(store: Store, sha256: str) -> str | None:
    """Return the reason for which `gc` has deleted bytes that are not there.

    None if it has not: the newest address that they were stored at is not condemned.
    """
    generation = _living_generation(store, sha256)
    if (
        generation == 0
        or store.size(keys.stored_again_key(sha256, generation)) is not None
    ):
        return None
    try:
        document = json.loads(
            store.get_bytes(keys.condemned_key(sha256, generation - 1))
        )
    except (Missing, ValueError):
        return "its mark cannot be read"
    return str(document.get("why", "")) if isinstance(document, dict) else ""


def is_swept(store: Store) -> bool:
    """Return True if objects may be deleted at this moment."""
    return next(iter(store.list(keys.sweeps_prefix())), None) is not None


def hold(store: Store, cache: Cache, objects: Iterable[tuple[str, int]]) -> None:
    """Make sure that no sweep which is under way takes these objects, as far as they are there.

    To be called after a record that needs them was written: a sweep that begins later sees it. One
    that has begun before may not have, so what it may delete is stored anew.

    Args:
        store: The store.
        cache: Keeps the bytes on their way.
        objects: (digest, size) of each.
    """
    if not is_collected_from(store):
        return
    # In this order: had a sweep ended between the two looks, the object would seem to be there.
    in_danger = is_swept(store)
    if not in_danger:
        return
    for sha256, size in _without_living_copy(store, objects):
        address = find(store, sha256, size)
        if address is None:
            continue
        try:
            path = cache.get(store, address, sha256, size)
        except Missing:
            # The sweep was faster. Who needs the bytes is told that they were collected.
            continue
        put(store, path, sha256)


def _without_living_copy(
    store: Store, objects: Iterable[tuple[str, int]]
) -> Iterator[tuple[str, int]]:
    for sha256, size in objects:
        if store.size(living_key(store, sha256)) != size:
            yield sha256, size
