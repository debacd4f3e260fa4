"""Receipts: what a step did, written once, after its payload.

The step key is a digest of the step's name, its code, its part of the recipe, its input receipts
and its seed. The same work has the same address, so a retry, a duplicate pod or a resumed run finds
finished work and re-uses it. A receipt is deterministic: times, hosts and errors go to attempt
records beside it.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from components.canonical import JsonObject, digest_of, sealed
from components.contracts.summaries import Summary
from components.errors import (
    Collected,
    Corrupt,
    Missing,
    OlderReceipt,
    RatchetError,
    UserError,
)
from components.runtime.attempts import Attempt, Task, attempting
from components.runtime.code_digest import code_digest
from components.runtime.context import Context
from components.runtime.stored_files import (
    ObjectRef,
    fetch_object,
    store_condemned_again,
    store_files,
)
from components.storage import keys
from components.storage.cache import link_or_copy
from components.storage.objects import find, hold, is_condemned, why_collected

RECEIPT_SCHEMA: Final = 3
"""Version of a receipt's form. Version 1 had other words in its summaries (`human_rows`, the
verdict `kept`, the split `heldout`), which no step reads any more. In version 2 the first champion
was the model of round 0, and the base was measured nowhere."""

Work = Callable[[Path], BaseModel]
"""Writes the step's files into an empty folder and returns the summary, which the receipt holds as
JSON."""

S = TypeVar("S", bound=Summary)


def _inside(name: str) -> str:
    """Return a file name if it stays inside the folder that it is fetched to."""
    try:
        return keys.relative_path(name)
    except UserError as error:
        raise ValueError(str(error)) from None


class Receipt(BaseModel):
    """The account of one finished piece of work."""

    # No times, hosts or costs: of two pods that do the same work, both write the same bytes.
    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: Literal[3] = RECEIPT_SCHEMA
    step: str
    key: str
    code: str
    seed: int
    inputs: dict[str, str]
    """Name of an input → digest of its receipt."""
    config: JsonObject
    objects: dict[Annotated[str, AfterValidator(_inside)], ObjectRef]
    """Relative path → bytes."""
    summary: JsonObject
    """As JSON; `read_summary` gives it back as what the step wrote."""

    @property
    def digest(self) -> str:
        """SHA-256 of the stored form."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def ref(self) -> str:
        """Return `step/key`, the name by which other receipts and states refer to this one."""
        # Without the store, so that a copied store stays valid.
        return f"{self.step}/{self.key}"

    def to_bytes(self) -> bytes:
        """Return the stored form: canonical JSON with a checksum of all other fields."""
        return sealed(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, data: bytes) -> Receipt:
        """Return the receipt of a stored form; raise ValidationError if it is none.

        `read_receipt` also looks whether it was changed.
        """
        stored = _StoredReceipt.model_validate_json(data)
        return Receipt.model_validate(stored.model_dump(exclude={"checksum"}))


class _StoredReceipt(Receipt):
    """The stored form of a receipt.

    The step key covers what went into the work. The checksum covers what came out of it too: a
    flipped bit in a verdict is still valid JSON.
    """

    checksum: str


def commit_once(
    context: Context,
    task: Task,
    step: str,
    *,
    config: JsonObject,
    inputs: dict[str, Receipt],
    seed: int,
    work: Work,
) -> Receipt:
    """Return the receipt of this work, doing it only if it is not done yet.

    The files that `work` writes are stored under their content address, then the receipt is written
    if absent. If another process was first, its receipt wins.

    Args:
        context: surroundings of the step.
        task: task that the attempt is recorded for.
        step: name of the step, whose code the key depends on.
        config: part of the recipe that the result depends on, as JSON.
        inputs: name of an input → its receipt.
        seed: seed that the result depends on.
        work: does the work, in an empty folder.

    Raises:
        Corrupt: the store holds something else under this key.
        Exception: whatever `work` raises, after recording it as an attempt.
    """
    with attempting(context, task, step) as attempt:
        return commit(
            context, attempt, step, config=config, inputs=inputs, seed=seed, work=work
        )


def commit(
    context: Context,
    attempt: Attempt,
    step: str,
    *,
    config: JsonObject,
    inputs: dict[str, Receipt],
    seed: int,
    work: Work,
) -> Receipt:
    """Do the same as `commit_once` inside an attempt that is under way.

    An attempt may commit several receipts; its record names the last one.
    """
    code = code_digest(step)
    digests = digests_of(inputs)
    key = step_key(step, code, config, digests, seed)
    receipt = find_receipt(context, step, key)
    attempt.reused = receipt is not None
    if receipt is not None:
        rely_on(context, attempt, receipt)
    else:

        def make_receipt(objects: dict[str, ObjectRef], summary: JsonObject) -> Receipt:
            return Receipt(
                step=step,
                key=key,
                code=code,
                seed=seed,
                inputs=digests,
                config=config,
                objects=objects,
                summary=summary,
            )

        receipt = _do(context, attempt, work, make_receipt)
    attempt.name(receipt.ref)
    return receipt


def rely_on(context: Context, attempt: Attempt, receipt: Receipt) -> None:
    """Record that an attempt reuses finished work, and hold what `gc` may be about to delete of it.

    Work of a run that retention has given up is found like any other. Without the record, `gc` would
    not know that a run needs it again.
    """
    attempt.note_reuse(receipt.ref)
    objects = [(ref.sha256, ref.size) for ref in receipt.objects.values()]
    hold(context.store, context.cache, objects)


def _do(
    context: Context,
    attempt: Attempt,
    work: Work,
    make_receipt: Callable[[dict[str, ObjectRef], JsonObject], Receipt],
) -> Receipt:
    # Scratch is on the cache's file system, so finished files join the cache by a hard link.
    context.scratch.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{attempt.step}-", dir=context.scratch))
    try:
        begin_seconds = context.clock()
        summary = work(folder)
        attempt.work_seconds += round(context.clock() - begin_seconds, 3)
        objects = store_files(context, folder)
        receipt = make_receipt(objects, summary.model_dump(mode="json"))
        # The first of many large files may have been found there hours ago.
        store_condemned_again(context, folder, objects)
        # Last: whoever sees the receipt finds all of its objects, even if this process was killed.
        address = keys.receipt_key(receipt.step, receipt.key)
        is_first = context.store.put_bytes(address, receipt.to_bytes(), if_absent=True)
        if not is_first:
            # Somebody was first, or the answer to our own write was lost.
            existing_receipt = read_receipt(context, receipt.ref)
            rely_on(context, attempt, existing_receipt)
            if existing_receipt != receipt:
                return existing_receipt
        # A mark that is not there now is younger than the receipt: whoever deletes by it looks for
        # receipts after it was written, and sees this one.
        store_condemned_again(context, folder, objects)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return receipt


def find_receipt(context: Context, step: str, key: str) -> Receipt | None:
    """Return the receipt of finished work, or None if it is not done yet.

    Objects that `gc` has collected are no damage: who needs one of them is told by `fetch`.

    Raises Corrupt if one of its objects is gone or has another size.
    """
    address = keys.receipt_key(step, key)
    try:
        receipt = read_receipt(context, f"{step}/{key}")
    except Missing:
        return None
    # Finished work that lost its results is not done again silently: a person has to look, since
    # other receipts may rest on it.
    for name, ref in receipt.objects.items():
        object_key = keys.object_key(ref.sha256)
        size = context.store.size(object_key)
        if size is None and is_condemned(context.store, ref.sha256, 0):
            # Its bytes are at a later address, or nobody was to need them.
            if find(context.store, ref.sha256, ref.size) is not None:
                continue
            if why_collected(context.store, ref.sha256) is not None:
                continue
        if size != ref.size:
            damage = (
                "is gone" if size is None else f"has {size} bytes instead of {ref.size}"
            )
            raise Corrupt(
                f"{context.store.root}/{object_key} ({name} of {address}) {damage}; restore it, or "
                "delete the receipt to have the step done again"
            )
    return receipt


def receipt_uri(context: Context, receipt: Receipt) -> str:
    """Return the URI by which a person or another task names this receipt."""
    return f"{context.store.root}/{keys.receipt_key(receipt.step, receipt.key)}"


def ref_of_uri(context: Context, uri: str) -> str:
    """Return the `step/key` reference behind a receipt's URI.

    Raises UserError if it is in another store.
    """
    root, step, key = keys.split_receipt_uri(uri)
    # A receipt of another store names objects that this one may not have.
    if root != context.store.root:
        raise UserError(f"{uri} is not in this run's store {context.store.root}")
    return f"{step}/{key}"


def read_receipt(context: Context, ref: str) -> Receipt:
    """Return the receipt of a `step/key` reference: the right one, and as it was written.

    Raises:
        Missing: There is none.
        Corrupt: The object is no receipt, another one, or was changed since it was written.
        OlderReceipt: An older Ratchet wrote it.
    """
    try:
        return _read_receipt_once(context, ref)
    except Missing:
        raise
    except Corrupt:
        # Bytes that were changed on their way are not what the store holds.
        return _read_receipt_once(context, ref)


def _read_receipt_once(context: Context, ref: str) -> Receipt:
    step, _, key = ref.partition("/")
    address = keys.receipt_key(step, key)
    uri = f"{context.store.root}/{address}"
    data = context.store.get_bytes(address)
    try:
        receipt = Receipt.from_bytes(data)
    except ValidationError as error:
        raise _receipt_error(uri, error) from None
    if receipt.ref != ref:
        raise Corrupt(f"{uri} holds the receipt of {receipt.ref}")
    if receipt.to_bytes() != data:
        raise Corrupt(
            f"{uri} was changed after it was written (its checksum does not fit); restore it, or "
            "delete it to have the step done again"
        )
    work_key = step_key(
        step, receipt.code, receipt.config, receipt.inputs, receipt.seed
    )
    if work_key != key:
        raise Corrupt(f"{uri}: its contents belong to key {work_key}; it was changed")
    return receipt


def _receipt_error(uri: str, error: ValidationError) -> RatchetError:
    """Return the exception for a document that is no receipt of this version."""
    for problem in error.errors():
        # Any other field of an older receipt may be wrong too, so look for the version first.
        version = problem["input"]
        is_version = problem["loc"] == ("schema_version",) and isinstance(version, int)
        if is_version and version < RECEIPT_SCHEMA:
            return OlderReceipt(
                f"{uri} was written by an older Ratchet (receipt version {version}); use a new "
                "store, or the version that wrote it"
            )
    return Corrupt(f"{uri}: not a receipt ({_first_problem(error)})")


def _first_problem(error: ValidationError) -> str:
    """Return the first field that is wrong, and the reason."""
    problem = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"])
    return f"{field}: {problem['msg']}"


def read_summary(receipt: Receipt, kind: type[S]) -> S:
    """Return the summary of a receipt as the model that its step wrote.

    Raises Corrupt if another step wrote it, or if it has other fields.
    """
    if receipt.step not in kind.written_by:
        raise Corrupt(
            f"{receipt.ref} is not a receipt of {' or '.join(kind.written_by)}"
        )
    try:
        return kind.model_validate(receipt.summary)
    except ValidationError as error:
        raise Corrupt(
            f"{receipt.ref}: its summary is not a {kind.__name__} ({_first_problem(error)})"
        ) from None


def fetch(context: Context, receipt: Receipt, name: str) -> Path:
    """Return the path of a local, verified, read-only copy of one file of a receipt."""
    if name not in receipt.objects:
        raise Corrupt(f"receipt {receipt.step}/{receipt.key} lists no file {name!r}")
    try:
        return fetch_object(context, receipt.objects[name])
    except Collected as error:
        address = keys.receipt_key(receipt.step, receipt.key)
        raise Collected(
            f"{name} of {receipt.ref} was {error}; to have the work done again, delete "
            f"{context.store.root}/{address} and what was built on it"
        ) from None


def fetch_folder(context: Context, receipt: Receipt, folder: str) -> Path:
    """Return a new local folder with the verified files of a receipt below `folder/`.

    The folder is the caller's to delete; its files are read-only.
    """
    prefix = f"{folder}/"
    names = [name for name in receipt.objects if name.startswith(prefix)]
    if not names:
        raise Corrupt(
            f"receipt {receipt.step}/{receipt.key} lists no files below {prefix}"
        )
    context.scratch.mkdir(parents=True, exist_ok=True)
    target = Path(
        tempfile.mkdtemp(prefix=f"{receipt.step}-{folder}-", dir=context.scratch)
    )
    try:
        for name in names:
            path = target / name.removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            # Hard links into the cache: a checkpoint of gigabytes takes no second place on disk.
            link_or_copy(fetch(context, receipt, name), path)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return target


def digests_of(inputs: dict[str, Receipt]) -> dict[str, str]:
    """Return name of an input → digest of its receipt, in order of the names."""
    return {name: receipt.digest for name, receipt in sorted(inputs.items())}


def step_key(
    step: str, code: str, config: JsonObject, inputs: dict[str, str], seed: int
) -> str:
    """Return the address of a piece of work (32 hexadecimal digits), from all it depends on.

    Args:
        step: name of the step.
        code: digest of the code that the step can execute.
        config: part of the recipe that the result depends on, as JSON.
        inputs: name of an input → digest of its receipt.
        seed: seed that the result depends on.
    """
    dependencies = {
        "step": step,
        "code": code,
        "config": config,
        "inputs": inputs,
        "seed": seed,
    }
    return digest_of(dependencies)[:32]
