"""Every object key of the store, in one place, and the spelling of a store's URI.

Keys are relative to the store's root and use `/`. Each function checks the parts it is given, so no
recipe, file name or run name can address anything outside its own folder.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from components.errors import UserError, without_passwords

# File systems allow 255 bytes a name; the rest is for endings such as `.json`.
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_OBJECT = re.compile(r"objects/([0-9a-f]{2})(?:\.([1-9]\d*))?/([0-9a-f]{64})")
# Old buckets of S3, MinIO and Ceph have capitals, underscores and longer names than new ones may.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_QUERY = re.compile(r"\?[\w.-]+=")
_URI_HELP = "use file:///absolute/folder or s3://bucket/prefix"

MAX_KEY_LENGTH = 700
"""Longest key in characters. S3 allows 1,024 bytes; the rest is for the prefix of the store."""


def part(text: str) -> str:
    """Return `text` if it is safe as one path component, else raise UserError."""
    # Not even inside a name, where some tools take '..' for a step up.
    if not _PART.fullmatch(text) or ".." in text:
        raise UserError(
            f"{text!r} cannot be part of an object key: use letters, digits and . _ = + - (at "
            "most 200, no '..')"
        )
    return text


def relative_path(text: str) -> str:
    """Return `text` if every component of this relative path is safe, else raise UserError."""
    if len(text) > MAX_KEY_LENGTH:
        raise UserError(
            f"{text[:80]!r}… cannot be an object key: {len(text)} characters, at most "
            f"{MAX_KEY_LENGTH}"
        )
    return "/".join(part(piece) for piece in text.split("/"))


def foreign_path(text: str) -> str:
    """Return `text` if it names something inside its folder, else raise UserError.

    For keys that others chose: spaces and other letters are fine. Keys that this project writes
    pass `relative_path`.
    """
    has_empty_or_dots = any(piece in ("", ".", "..") for piece in text.split("/"))
    if has_empty_or_dots or not text.isprintable():
        raise UserError(
            f"{text!r} cannot be an object key: it has an empty part, '.', '..' or control "
            "characters"
        )
    return text


def folder_prefix(text: str) -> str:
    """Return `text` if it is empty (the root) or a folder ending in `/`, else raise UserError.

    Listings take folders only.
    """
    # A real server was seen to lose keys when it pages through half a name.
    if text and not text.endswith("/"):
        raise UserError(f"{text!r} is not a folder of the store: end it with '/'")
    return f"{foreign_path(text[:-1])}/" if text else ""


def object_key(sha256: str, generation: int = 0) -> str:
    """Return the content address of bytes with this digest: `objects/ab/abcdef…`.

    Args:
        sha256: Digest of the bytes.
        generation: Number among the addresses of these bytes (see storage/objects.py); from the
            second on it is in the folder's name, `objects/ab.1/abcdef…`.
    """
    return f"objects/{_in_folders(sha256, generation)}"


def split_object_key(key: str) -> tuple[str, int] | None:
    """Return (digest, generation) of the address of an object; None for any other key."""
    match = _OBJECT.fullmatch(key)
    if match is None or not match[3].startswith(match[1]):
        return None
    return match[3], int(match[2] or 0)


def condemned_key(sha256: str, generation: int) -> str:
    """Return the key of the mark that condemns one address of an object."""
    return f"condemned/{_in_folders(sha256, generation)}.json"


def stored_again_key(sha256: str, generation: int) -> str:
    """Return the key of the note that an object was stored anew, at a later address."""
    return f"stored-again/{_in_folders(sha256, generation)}.json"


def _in_folders(sha256: str, generation: int) -> str:
    if not _SHA256.fullmatch(sha256):
        raise UserError(f"{sha256!r} is not a SHA-256 digest in lower-case hex")
    # In 256 folders, so that none of a local store holds all objects of a long campaign.
    folder = f"{sha256[:2]}.{generation}" if generation else sha256[:2]
    return f"{folder}/{sha256}"


def collections_key() -> str:
    """Return the key of the document that tells writers that garbage is collected here."""
    return "gc/begun.json"


def sweep_key(sweep_id: str) -> str:
    """Return the key of the document that is there while one sweep deletes objects."""
    return f"{sweeps_prefix()}{part(sweep_id)}.json"


def sweeps_prefix() -> str:
    """Return the folder of the sweeps that are under way."""
    return "gc/sweeps/"


def receipt_key(step: str, key: str) -> str:
    """Return the key of the write-once receipt of one piece of work."""
    return f"steps/{part(step)}/{part(key)}.json"


def attempts_prefix(run_id: str) -> str:
    """Return the folder of the attempts at one run's tasks: times, hosts, errors.

    For people, never a source of truth.
    """
    return f"attempts/{part(run_id)}/"


def attempt_key(run_id: str, task: str, attempt: str) -> str:
    """Return the key of the record of one attempt at a task."""
    return f"{attempts_prefix(run_id)}{part(task)}/{part(attempt)}.json"


def run_key(run_id: str, *names: str) -> str:
    """Return the key of a document about a whole run (resolved recipe, summary, report).

    All of `names` but the last are folders.
    """
    return "/".join(["runs", part(run_id), *map(part, names)])


def review_key(run_id: str, round_number: int, number: int) -> str:
    """Return the key of the n-th batch of people's verdicts on a round, from 1."""
    return f"reviews/{part(run_id)}/round-{round_number}/{number:05d}.json"


def job_key(job_id: str) -> str:
    """Return the key of the document that names the run of a pipeline job."""
    return f"jobs/{part(job_id)}.json"


def progress_prefix(step: str, key: str) -> str:
    """Return the folder, with its slash, of the progress that an unfinished step has saved."""
    return f"progress/{part(step)}/{part(key)}/"


def progress_key(step: str, key: str, *names: str) -> str:
    """Return the key of a progress receipt of an unfinished step, or of a file that it names.

    `names` is the receipt's name, or the folder and name of the file.
    """
    return progress_prefix(step, key) + "/".join(map(part, names))


def replay_key(sha256: str) -> str:
    """Return the key of an endpoint's answer to the request with this digest.

    It reads `replay/ab/abcdef….json`.
    """
    return f"replay/{object_key(sha256).removeprefix('objects/')}.json"


def input_key(sha256: str, *names: str) -> str:
    """Return the key of a file that came from a person's machine, or of its folder.

    Args:
        sha256: Digest of the file, or of the names and digests of all files of the folder.
        names: Name of the file; empty for the folder, without a slash at its end.
    """
    folder = object_key(sha256).removeprefix("objects/")
    return "/".join(["inputs", folder, *map(part, names)])


def opening_key(prompts_sha256: str, number: int) -> str:
    """Return the key of the record of one opening of a set of prompts.

    Args:
        prompts_sha256: Digest of the file of prompts.
        number: Number among its openings, from 1.
    """
    folder = object_key(prompts_sha256).removeprefix("objects/")
    return f"openings/{folder}/{_line_number(number)}.json"


def release_key(name: str, number: int) -> str:
    """Return the key of a line of the ledger of releases of a name; lines count from 1."""
    return f"{releases_prefix()}{part(name)}/{_line_number(number)}.json"


def releases_prefix() -> str:
    """Return the folder of all ledgers."""
    return "releases/"


def approval_key(publish_key: str) -> str:
    """Return the key of the consent to the release of a publish receipt of this key."""
    return f"approvals/{part(publish_key)}.json"


def _line_number(number: int) -> str:
    # So that a listing is in order.
    return f"{number:06d}"


def probe_key() -> str:
    """Return the key of the one object by which a store is tried out."""
    return "probe/write-once.json"


def model_prefix(name: str, version: str) -> str:
    """Return the folder of a published model, with its slash."""
    # KServe's downloader lists by prefix: without the slash, version 1 would bring 10 along.
    return f"models/{part(name)}/{part(version)}/"


def split_receipt_uri(uri: str) -> tuple[str, str, str]:
    """Split the URI of a receipt into (canonical store root, step, key), or raise UserError."""
    root, marker, tail = uri.rpartition("/steps/")
    # The last "/steps/" counts: the store's own prefix may hold one.
    step, _, file = tail.partition("/")
    if not marker or not root or not file.endswith(".json"):
        raise UserError(
            f"{uri!r} is not the URI of a receipt (<store>/steps/<step>/<key>.json)"
        )
    return canonical_root(root), part(step), part(file.removesuffix(".json"))


def canonical_root(uri: str) -> str:
    """Return the one spelling of a store's URI. Raise UserError if it is not one."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise UserError(f"store {uri!r}: not a URI; {_URI_HELP}") from None
    if without_passwords(uri) != uri:
        # Checked first, and without the URI in the message: it would show the password.
        raise UserError(
            f"the store's URI holds a name or password; {_URI_HELP}, and AWS_ACCESS_KEY_ID for "
            "credentials"
        )
    if parts.scheme == "s3":
        return _bucket_root(uri)
    if parts.query or parts.fragment:
        raise UserError(f"store {uri!r}: '?' and '#' have no place in it; {_URI_HELP}")
    if parts.scheme == "file":
        return _folder_root(uri, parts)
    raise UserError(f"store {uri!r}: {_URI_HELP}")


def _folder_root(uri: str, parts: SplitResult) -> str:
    folder = Path(os.path.normpath(unquote(parts.path)))
    if parts.netloc or not folder.is_absolute() or folder == folder.parent:
        raise UserError(
            f"store {uri!r}: {_URI_HELP} (three slashes, and not the root folder)"
        )
    # POSIX gives a path of two leading slashes a meaning of its own, so normpath leaves them.
    return folder.as_uri().replace("file:////", "file:///")


def _bucket_root(uri: str) -> str:
    # Not by the rules of URLs: in a key of S3, '?' and '#' are characters like others.
    bucket, _, prefix = uri.partition("://")[2].partition("/")
    if _QUERY.search(prefix):
        raise UserError(
            f"store {uri!r}: a query such as '?versionId=…' has no place in it"
        )
    if not _BUCKET.fullmatch(bucket):
        raise UserError(
            f"store {uri!r}: {bucket!r} is no bucket name (3 to 255 of letters, digits and . _ -)"
        )
    prefix = prefix.rstrip("/")
    return f"s3://{bucket}/{foreign_path(prefix)}" if prefix else f"s3://{bucket}"
