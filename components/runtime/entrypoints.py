"""The shell of every step: surroundings, pointer artifacts, command line, exit status.

It is the same whether KFP starts the step or `python -m components.<step>`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from components.contracts.summaries import StartSummary
from components.errors import Corrupt, RatchetError, text_of_bug
from components.runtime.context import Context, make_context
from components.runtime.progress import Progress
from components.runtime.receipts import (
    Receipt,
    fetch,
    read_receipt,
    read_summary,
    receipt_uri,
    ref_of_uri,
)
from components.storage.folder import full_disk_errors
from components.storage.keys import split_receipt_uri


class Artifact(Protocol):
    """The part of a KFP artifact that is used here."""

    path: str
    metadata: dict[str, object]


@contextmanager
def step_context(store_or_state: str) -> Iterator[Context]:
    """Yield the surroundings of a step, from the URI of its store or of a receipt in it.

    An expected failure inside ends the process with one line and the failure's exit status;
    anything else keeps its traceback.
    """
    progress = Progress()
    sys.excepthook = lambda *bug: progress.say(text_of_bug(*bug), "ERROR")
    # On a cluster KFP's launcher turns every failing status into 1; the line tells them apart.
    try:
        progress = Progress.from_environment(os.environ)
        is_receipt = "/steps/" in store_or_state and store_or_state.endswith(".json")
        root = split_receipt_uri(store_or_state)[0] if is_receipt else store_or_state
        with full_disk_errors(Path.cwd()):
            yield make_context(root, os.environ, progress)
    except RatchetError as error:
        progress.say(f"error ({type(error).__name__}): {error}", "ERROR")
        raise SystemExit(error.exit_code) from None


def run_step(
    state: str,
    step: Callable[[Context], Receipt],
    output: Artifact,
    pointed_to: Callable[[Context, Receipt], Receipt] | None = None,
) -> tuple[str, Receipt]:
    """Run one step with the surroundings of its state's store and write the pointer to its receipt.

    Ends the process as `step_context` says.

    Args:
        state: URI of the state, or of the store.
        step: does the work.
        output: the artifact that becomes the pointer.
        pointed_to: gives the receipt that the pointer is about, where that is not the step's own.

    Returns:
        URI of the step's receipt, and the receipt.
    """
    with step_context(state) as context:
        receipt = step(context)
        target = receipt if pointed_to is None else pointed_to(context, receipt)
        write_pointer(context, target, output)
    return receipt_uri(context, receipt), receipt


def mix_of(context: Context, receipt: Receipt) -> Receipt:
    """Return the mix that a receipt stands for: the first mix of a start receipt, else itself."""
    if receipt.step not in StartSummary.written_by:
        return receipt
    return read_receipt(context, read_summary(receipt, StartSummary).first_mix)


def base_of(context: Context, receipt: Receipt) -> Receipt:
    """Return the model that a receipt stands for: the base of a start receipt, else itself."""
    if receipt.step not in StartSummary.written_by:
        return receipt
    return read_receipt(context, read_summary(receipt, StartSummary).base)


def save_text(context: Context, receipt: Receipt, name: str, path: str) -> None:
    """Copy a text file of a receipt to where KFP shows it (Markdown cards)."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(fetch(context, receipt, name).read_bytes())


def write_pointer(context: Context, receipt: Receipt, output: Artifact) -> None:
    """Make a KFP artifact a pointer: the receipt's URI and digest, and scalars of its summary."""
    # A kilobyte of JSON and no payload: KFP downloads input artifacts whole before the code starts,
    # and does not check the bytes that it stored.
    scores = {
        name: value
        for name, value in receipt.summary.items()
        if isinstance(value, int | float | str | bool)
    }
    pointer = {
        "uri": receipt_uri(context, receipt),
        "digest": receipt.digest,
        "step": receipt.step,
        **scores,
    }
    Path(output.path).parent.mkdir(parents=True, exist_ok=True)
    Path(output.path).write_text(json.dumps(pointer, sort_keys=True), encoding="utf-8")
    # The same in the metadata: lineage and "Compare runs" show that, not the file.
    output.metadata.update(pointer)


def read_pointer(context: Context, path: str) -> Receipt:
    """Return the receipt behind a pointer artifact, with its digest checked."""
    # KFP does not fail where a task left no output file, so the reader has to see that.
    try:
        pointer = json.loads(Path(path).read_text(encoding="utf-8"))
        uri = pointer["uri"]
        digest = pointer["digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Corrupt(
            f"artifact {path} is not a pointer to a receipt ({error!r}); re-run the task that made "
            "it"
        ) from None
    receipt = read_receipt(context, ref_of_uri(context, uri))
    if receipt.digest != digest:
        raise Corrupt(
            f"{uri}: digest is {receipt.digest}, the pointer {path} says {digest}"
        )
    return receipt


def parser(
    step: str, description: str | None, **required: str
) -> argparse.ArgumentParser:
    """Return a parser of the step's command line.

    Args:
        step: name of the step's folder.
        description: text above the options.
        required: name of a required option, which takes a URI → its help text.
    """
    step_parser = argparse.ArgumentParser(
        prog=f"python -m components.{step}",
        description=description,
        epilog=(
            "Prints the URI of the receipt. Exit status: 2 wrong input, 3 damaged data, 75 try "
            "again."
        ),
        # An abbreviation would mean another option once one with the same beginning is added.
        allow_abbrev=False,
    )
    for name, help_text in required.items():
        option = f"--{name.replace('_', '-')}"
        step_parser.add_argument(option, required=True, metavar="URI", help=help_text)
    return step_parser


def receipt_at(context: Context, uri: str) -> Receipt:
    """Return the receipt behind a URI.

    Raises UserError if it is of another store, Missing or Corrupt if it is no receipt.
    """
    return read_receipt(context, ref_of_uri(context, uri))


def carry_out(
    store_or_state: str,
    step: Callable[[Context], Receipt],
    values_of: Callable[[Receipt], Mapping[str, bool | str]] | None = None,
) -> None:
    """Run a step with the surroundings of its store and print the URI of its receipt.

    Then `name=value`, in JSON, for each of `values_of` the receipt. Nothing else reaches standard
    output: what libraries print there goes to standard error. Ends the process as `step_context`
    says.
    """
    with step_context(store_or_state) as context:
        with stdout_to_stderr():
            receipt = step(context)
        print(receipt_uri(context, receipt))
        values = {} if values_of is None else values_of(receipt)
        for name, value in values.items():
            print(f"{name}={json.dumps(value)}")


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send standard output, that of child processes too, to standard error."""
    # The descriptor, not sys.stdout: compilers and torchrun's workers write past Python.
    sys.stdout.flush()
    stdout_copy = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(stdout_copy, 1)
        os.close(stdout_copy)
