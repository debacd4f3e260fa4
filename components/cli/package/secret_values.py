"""Values that must not travel where everybody reads them: parameters of a run are shown in the UI
and kept for ever."""

from __future__ import annotations

import json
import re
from typing import Any

_NAMES = re.compile(
    r"(^|[._-])(pass(word|wd|phrase)?|secrets?|token|api_?key|access_?key|private_?key|credentials)$"
)
_NAMES_OF_NAMES = re.compile(r"(secret|config_map|credentials?)_?names?$")
_SHAPES = re.compile(
    r"""\b(AKIA|ASIA)[A-Z0-9]{16}\b            # AWS access key
    | \bhf_[A-Za-z0-9]{20,}                    # Hugging Face
    | \bgh[pousr]_[A-Za-z0-9]{30,} | \bgithub_pat_\w{30,}
    | \bglpat-[\w-]{20,} | \bsk-[\w-]{20,} | \bxox[abprs]-[\w-]{10,} | \bAIza[\w-]{35}
    | -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----
    | \beyJ[\w-]{6,}\.eyJ[\w-]{6,}\.[\w-]+     # a JSON web token
    | ://[^/\s:@]+:[^/\s@]+@                   # an address with a password
    """,
    re.VERBOSE,
)


def looks_secret(name: str, value: Any) -> bool:
    """Whether a value, or anything in it, has the shape of a key, or stands under a name such as
    `hf_token`.

    Names of secrets (`store_secret_name`), numbers and empty values are none.
    """
    if isinstance(value, dict):
        return any(looks_secret(str(key), one) for key, one in value.items())
    if isinstance(value, list | tuple):
        return any(looks_secret(name, one) for one in value)
    if not isinstance(value, str) or not value:
        return False
    if value[0] in "{[":
        try:
            return looks_secret(name, json.loads(value))
        except ValueError:
            pass  # text that begins with a bracket
    named = _NAMES.search(name.lower()) is not None and _NAMES_OF_NAMES.search(name.lower()) is None
    return named or _SHAPES.search(value) is not None
