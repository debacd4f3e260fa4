"""The one byte form of a JSON value, digests over it, and seeds made from what they depend on."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def derived_seed(*parts: object) -> int:
    """A 63-bit seed that depends on every part and on nothing else (not on order of work or shard
    count)."""
    text = "\x1f".join(str(piece) for piece in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def canonical_json(value: Any) -> bytes:
    """The one byte form of a JSON value: sorted keys, no spaces, no NaN. Digests are taken over it."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest_of(value: Any) -> str:
    """SHA-256 (hex) of a JSON value's canonical form."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
