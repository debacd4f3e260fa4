"""Files of receipts as objects of the store, also while `gc` deletes others (storage/objects.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from components.errors import Collected, Missing
from components.runtime.context import Context
from components.storage import keys, objects


class ObjectRef(BaseModel):
    """The bytes of one file of a receipt: they are at `objects/<sha256>`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]


def store_files(context: Context, folder: Path) -> dict[str, ObjectRef]:
    """Store all files below a folder under their content address. Return name → object."""
    refs: dict[str, ObjectRef] = {}
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in sorted(files):
        name = keys.relative_path(path.relative_to(folder).as_posix())
        sha256 = context.cache.adopt(path)
        context.store.put_file(keys.object_key(sha256), path, sha256)
        refs[name] = ObjectRef(sha256=sha256, size=path.stat().st_size)
    return refs


def store_condemned_again(
    context: Context, folder: Path, refs: dict[str, ObjectRef]
) -> None:
    """Store those files anew whose address `gc` has condemned.

    Args:
        context: The store.
        folder: Holds the files.
        refs: Name → object, as `store_files` returned them.
    """
    if not objects.is_collected_from(context.store):
        return
    for name, ref in refs.items():
        objects.put(context.store, folder / name, ref.sha256)


def fetch_object(context: Context, ref: ObjectRef) -> Path:
    """Return the path of a local, verified, read-only copy of an object.

    Raises:
        Collected: `gc` has deleted it.
        Missing: It is not there, and nobody says why.
    """
    address = keys.object_key(ref.sha256)
    while True:
        try:
            return context.cache.get(context.store, address, ref.sha256, ref.size)
        except Missing:
            # Its bytes may have been stored anew after this address was condemned.
            other_address = objects.find(context.store, ref.sha256, ref.size)
            if other_address is None or other_address == address:
                why = objects.why_collected(context.store, ref.sha256)
                if why is not None:
                    raise Collected(f"collected by gc ({why})") from None
                raise
            address = other_address
