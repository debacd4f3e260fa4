"""What a receipt says is checked before it is believed: damage is named, and so is a stranger."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.contracts.summaries import PublishSummary, TrainSummary
from components.errors import Corrupt, OlderReceipt, UserError
from components.runtime.context import Context
from components.runtime.receipts import (
    fetch,
    fetch_folder,
    find_receipt,
    read_receipt,
    read_summary,
    ref_of_uri,
)
from components.storage import keys
from components.storage.store import Store
from tests.unit.receipted import Make, Work, commit, rewrite


@pytest.mark.parametrize("damage", ["gone", "cut off"])
def test_finished_work_without_its_objects_is_corrupt_and_named(
    context: Context, tmp_path: Path, damage: str
) -> None:
    receipt = commit(context, Work())
    key = keys.object_key(receipt.objects["model/weights.bin"].sha256)
    if damage == "gone":
        (tmp_path / "store" / key).unlink()
    else:
        context.store.put_bytes(key, b"wei")
    with pytest.raises(Corrupt, match=r"model/weights.bin") as caught:
        find_receipt(context, "train", receipt.key)
    assert key in str(caught.value)
    assert ("gone" if damage == "gone" else "3 bytes instead of 7") in str(caught.value)
    with pytest.raises(Corrupt, match=key):
        commit(context, Work())


def test_a_garbled_object_is_found_when_it_is_fetched(
    store: Store, make_test_context: Make
) -> None:
    receipt = commit(make_test_context(store), Work())
    key = keys.object_key(receipt.objects["model/weights.bin"].sha256)
    store.put_bytes(key, b"wEights")
    context = make_test_context(store)
    with pytest.raises(Corrupt, match=key):
        fetch(context, receipt, "model/weights.bin")
    with pytest.raises(Corrupt, match=key):
        fetch_folder(context, receipt, "model")
    assert list(context.scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda document: document.pop("summary"), "summary"),
        (lambda document: document.update(surprise=1), "surprise"),
        (lambda document: document.update(schema_version=4), "schema_version"),
        (
            lambda document: document["objects"].update(
                {"../../escape": {"sha256": "a" * 64, "size": 1}}
            ),
            "escape",
        ),
        (
            lambda document: document["objects"].update(
                {"/etc/passwd": {"sha256": "a" * 64, "size": 1}}
            ),
            "passwd",
        ),
        (
            lambda document: document["objects"].update(
                {"x": {"sha256": "../x", "size": 1}}
            ),
            "sha256",
        ),
        (
            lambda document: document["objects"].update(
                {"x": {"sha256": "a" * 64, "size": -1}}
            ),
            "size",
        ),
        (
            lambda document: document.update(step="select"),
            "holds the receipt of select/",
        ),
        (
            lambda document: document.update(key="other"),
            "holds the receipt of train/other",
        ),
    ],
)
def test_a_document_that_is_no_receipt_is_corrupt_and_says_why(
    context: Context, change: Callable[[dict[str, Any]], object], word: str
) -> None:
    receipt = commit(context, Work())
    rewrite(context, receipt, change)
    with pytest.raises(Corrupt, match=word) as caught:
        read_receipt(context, receipt.ref)
    assert f"{context.store.root}/steps/train/{receipt.key}.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_flipped_bit_of_a_receipt_goes_unnoticed(context: Context) -> None:
    receipt = commit(context, Work())
    address = keys.receipt_key(receipt.step, receipt.key)
    data = receipt.to_bytes()
    draw = random.Random(0)
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << draw.randrange(8)
        context.store.put_bytes(address, bytes(flipped))
        with pytest.raises((Corrupt, OlderReceipt), match=receipt.key):
            read_receipt(context, receipt.ref)


def test_a_changed_result_is_named_with_what_to_do(context: Context) -> None:
    receipt = commit(context, Work())
    address = keys.receipt_key(receipt.step, receipt.key)
    better = receipt.to_bytes().replace(b'"final_loss":0.5', b'"final_loss":0.1')
    context.store.put_bytes(address, better)
    with pytest.raises(
        Corrupt, match=rf"{address} was changed .* restore it, or delete it"
    ):
        read_receipt(context, receipt.ref)


def test_an_input_swapped_for_another_is_noticed_although_the_checksum_fits(
    context: Context,
) -> None:
    receipt = commit(context, Work())
    rewrite(context, receipt, lambda document: document["inputs"].update(data="0" * 64))
    with pytest.raises(Corrupt, match="belong to key"):
        read_receipt(context, receipt.ref)


def test_a_receipt_of_an_older_version_is_named_as_such(context: Context) -> None:
    receipt = commit(context, Work())
    rewrite(context, receipt, lambda document: document.update(schema_version=1))
    with pytest.raises(UserError) as caught:
        read_receipt(context, receipt.ref)
    assert str(caught.value) == (
        f"{context.store.root}/steps/train/{receipt.key}.json was written by an older Ratchet "
        "(receipt version 1); use a new store, or the version that wrote it"
    )
    with pytest.raises(UserError, match="older Ratchet"):
        commit(context, Work())


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"\xff\xfe", b"[1]"])
def test_bytes_that_are_no_document_are_corrupt(
    context: Context, content: bytes
) -> None:
    receipt = commit(context, Work())
    context.store.put_bytes(keys.receipt_key("train", receipt.key), content)
    with pytest.raises(Corrupt, match="not a receipt"):
        read_receipt(context, receipt.ref)


@pytest.mark.parametrize(
    "ref", ["", "train", "train/", "/key", "../x/y", "train/a/b", "train/../x"]
)
def test_a_reference_that_names_no_receipt_is_refused(
    context: Context, ref: str
) -> None:
    with pytest.raises(UserError):
        read_receipt(context, ref)


def test_a_file_that_the_receipt_does_not_list_is_refused(context: Context) -> None:
    receipt = commit(context, Work())
    with pytest.raises(Corrupt, match=r"lists no file 'weights.bin'"):
        fetch(context, receipt, "weights.bin")
    with pytest.raises(Corrupt, match="lists no files below mod/"):
        fetch_folder(context, receipt, "mod")


def test_a_receipt_of_another_store_is_refused_with_both_names(
    context: Context,
) -> None:
    with pytest.raises(
        UserError, match=f"s3://other/runs/steps/train/0123.json.*{context.store.root}"
    ):
        ref_of_uri(context, "s3://other/runs/steps/train/0123.json")


def test_a_summary_of_another_step_or_with_other_fields_is_corrupt_and_named(
    context: Context,
) -> None:
    receipt = commit(context, Work())
    with pytest.raises(Corrupt, match=f"{receipt.ref} is not a receipt of publish"):
        read_summary(receipt, PublishSummary)
    with pytest.raises(Corrupt, match=r"its summary is not a TrainSummary \(\w+: "):
        read_summary(receipt, TrainSummary)
