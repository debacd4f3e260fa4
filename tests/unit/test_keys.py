from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import UserError
from components.storage import keys

ESCAPES = [
    "",
    ".",
    "..",
    "/",
    "a/b",
    "../a",
    "a/..",
    ".hidden",
    "a b",
    "a\n",
    "a\0",
    "ä",
    "-rf",
    "a..b",
    "x" * 201,
]


@pytest.mark.parametrize("text", ESCAPES)
def test_what_could_leave_a_folder_is_no_part_of_a_key(text: str) -> None:
    with pytest.raises(UserError, match="cannot be part of an object key"):
        keys.part(text)


@pytest.mark.parametrize(
    "address",
    [
        lambda text: keys.receipt_key(text, "k"),
        lambda text: keys.receipt_key("train", text),
        keys.attempts_prefix,
        lambda text: keys.attempt_key("run", text, "1"),
        lambda text: keys.attempt_key("run", "task", text),
        lambda text: keys.run_key("run", text),
        lambda text: keys.run_key("run", "folder", text),
        keys.job_key,
        lambda text: keys.progress_key("train", "k", text),
        lambda text: keys.progress_key("train", "k", "folder", text),
        lambda text: keys.model_prefix(text, "1"),
        lambda text: keys.model_prefix("name", text),
    ],
)
def test_every_address_checks_the_parts_it_is_given(
    address: Callable[[str], str],
) -> None:
    for text in ESCAPES:
        with pytest.raises(UserError):
            address(text)


@given(st.text())
def test_a_relative_path_that_passes_stays_inside_and_is_returned_unchanged(
    text: str,
) -> None:
    try:
        found = keys.relative_path(text)
    except UserError:
        return
    assert found == text
    assert not text.startswith("/")
    assert not {"", ".", ".."} & set(text.split("/"))


@given(st.text())
def test_a_foreign_path_that_passes_stays_inside(text: str) -> None:
    try:
        keys.foreign_path(text)
    except UserError:
        return
    assert not text.startswith("/")
    assert not {"", ".", ".."} & set(text.split("/"))
    assert "\0" not in text
    assert "\n" not in text


def test_foreign_names_may_have_spaces_and_other_letters() -> None:
    assert (
        keys.foreign_path("Meine Modelle/größe (1).json")
        == "Meine Modelle/größe (1).json"
    )


def test_a_key_that_s3_would_refuse_for_its_length_is_refused() -> None:
    with pytest.raises(UserError, match="at most 700"):
        keys.relative_path("/".join(["a" * 99] * 8))


def test_a_listing_takes_folders_only() -> None:
    assert keys.folder_prefix("") == ""
    assert keys.folder_prefix("attempts/run/") == "attempts/run/"
    for text in ("attempts/ru", "/", "../", "a/../b/", "a//"):
        with pytest.raises(UserError):
            keys.folder_prefix(text)


@pytest.mark.parametrize(
    "digest",
    ["", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "\n", "../" + "a" * 61],
)
def test_only_a_sha256_in_lower_case_hex_is_a_content_address(digest: str) -> None:
    with pytest.raises(UserError, match="not a SHA-256"):
        keys.object_key(digest)


def test_objects_are_spread_over_256_folders() -> None:
    assert keys.object_key("ab" * 32) == "objects/ab/" + "ab" * 32


@pytest.mark.parametrize(
    "root",
    [
        "file:///data/runs",
        "s3://bucket",
        "s3://bucket/a/prefix",
        "file:///data/steps/x",
    ],
)
def test_the_uri_of_a_receipt_gives_back_store_step_and_key(root: str) -> None:
    uri = f"{root}/{keys.receipt_key('train', '0123abc')}"
    assert keys.split_receipt_uri(uri) == (root, "train", "0123abc")


@pytest.mark.parametrize(
    "uri",
    [
        "file:///data",
        "file:///data/steps/train",
        "file:///data/steps/train/key",
        "steps/train/key.json",
        "/steps/train/key.json",
        "file:///data/steps/../key.json",
        "file:///data/steps/train/../../x.json",
        "s3://b/steps/train/key.json",
    ],
)
def test_what_is_no_uri_of_a_receipt_is_refused(uri: str) -> None:
    with pytest.raises(UserError):
        keys.split_receipt_uri(uri)


@pytest.mark.parametrize(
    ("uri", "root"),
    [
        ("file:///data/runs/", "file:///data/runs"),
        ("file:///data//runs/./x/..", "file:///data/runs"),
        ("file:////data/runs", "file:///data/runs"),
        ("file:///my runs/ä", "file:///my%20runs/%C3%A4"),
        ("file:///my%20runs/%C3%A4", "file:///my%20runs/%C3%A4"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a/prefix/", "s3://bucket/a/prefix"),
        ("s3://bucket/data#1/", "s3://bucket/data#1"),
        ("s3://bucket/why?/#", "s3://bucket/why?/#"),
        ("s3://bucket/a b/50%/%23", "s3://bucket/a b/50%/%23"),
        ("s3://bucket/a=b/c@d/e+f", "s3://bucket/a=b/c@d/e+f"),
        ("s3://My_Bucket/data", "s3://My_Bucket/data"),
        ("s3://x_.Y-z/data", "s3://x_.Y-z/data"),
    ],
)
def test_a_store_has_one_spelling(uri: str, root: str) -> None:
    assert keys.canonical_root(uri) == root
    assert keys.canonical_root(root) == root


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "/data",
        "data",
        "file://data/runs",
        "file:///",
        "file:///..",
        "file://host/data",
        "s3://",
        "s3://B/x",
        "s3://a/x",
        "s3://bucket/a/../b",
        "s3://bucket//a",
        "s3://bucket/a?versionId=1",
        "s3://bucket#1/a",
        "s3://bucket?x/a",
        "s3://-bucket/a",
        "s3://my bucket/a",
        "gs://bucket/a",
        "http://bucket/a",
        "s3://[",
    ],
)
def test_what_is_no_store_is_refused_in_one_line_that_says_what_is_one(
    uri: str,
) -> None:
    with pytest.raises(UserError) as caught:
        keys.canonical_root(uri)
    assert "\n" not in str(caught.value)


def test_credentials_in_a_uri_are_refused_and_not_repeated() -> None:
    with pytest.raises(UserError, match="AWS_ACCESS_KEY_ID") as caught:
        keys.canonical_root("s3://name:hunter2@bucket/prefix")
    assert "hunter2" not in str(caught.value)
