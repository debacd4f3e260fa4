"""Canonical forms: the bytes of a JSON value, digests and seeds over them, texts that look alike."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from typing import Any

JsonObject = dict[str, Any]
"""A JSON object whose fields are known elsewhere."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# Soft hyphen, zero-width space and non-joiner, direction marks, word joiner and the invisible
# operators, byte order mark. The zero-width joiner goes too, but not between two emoji, where it
# makes one picture of them.
_INVISIBLE = re.compile(
    "[\u00ad\u180e\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]"
    r"|(?<=\w)\u200d|\u200d(?=\w|\s|\Z)"
)
# Composition sorts a run of combining marks by insertion: 100,000 of them take a minute. Text cut
# after 30 (Unicode's stream-safe format, UAX 15) is composed in linear time.
_AFTER_30_MARKS = re.compile(r"(?<=[^\w\s]{30})(?=[^\w\s])")


def derived_seed(*parts: object) -> int:
    """Return a 63-bit seed that depends on every part, and on nothing else."""
    # Not a counter: a sample has the same seed whichever shard draws it, and in whatever order.
    text = "\x1f".join(str(part) for part in parts)
    digest = hashlib.sha256(text.encode()).digest()
    # 63 bits, because PyTorch and NumPy take signed 64-bit seeds.
    return int.from_bytes(digest[:8], "big") >> 1


def canonical_json(value: object) -> bytes:
    """Return the one byte form of a JSON value: sorted keys, no spaces, no NaN.

    Raises ValueError for NaN and infinity, which JSON does not have.
    """
    return json.dumps(
        value,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    ).encode()


def digest_of(value: object) -> str:
    """Return the SHA-256 (hex) of a JSON value's canonical form."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def sealed(document: JsonObject) -> bytes:
    """Return the canonical JSON of a document with a `checksum` of all its other fields."""
    return canonical_json({**document, "checksum": digest_of(document)})


def unsealed(data: bytes) -> JsonObject:
    """Return a sealed document without its checksum.

    A document without one is of an older version, and believed.

    Raises:
        ValueError: It is no JSON object, or was changed: a flipped bit may leave valid JSON.
    """
    document = json.loads(data)
    if not isinstance(document, dict):
        raise ValueError("no JSON object")
    checksum = document.pop("checksum", None)
    if checksum is not None and checksum != digest_of(document):
        raise ValueError(
            "it was changed after it was written: its checksum does not fit"
        )
    return document


def whole_characters(text: str) -> str:
    """Return the text with U+FFFD for each half of a surrogate pair, which UTF-8 cannot encode."""
    if not _LONE_SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def composed_text(text: str) -> str:
    """Return the text in whole, composed (NFC) characters, without those that cannot be seen."""
    if text.isascii():
        return text
    visible = _INVISIBLE.sub("", whole_characters(text))
    pieces = _AFTER_30_MARKS.split(visible)
    return "".join(unicodedata.normalize("NFC", piece) for piece in pieces)


def normalised_text(text: str) -> str:
    """Return `composed_text` with every run of white space made one space.

    Texts that look the same are the same in this form: prompts are told apart by it, exact answers
    and duplicates are compared by it.
    """
    return " ".join(composed_text(text).split())
