"""Recognition of secrets: parameters of a run are shown in the UI and kept for ever."""

from __future__ import annotations

import json
import re

_NAMES = re.compile(
    r"(^|[._-])(pass(word|wd|phrase)?|secrets?|token|api_?key|access_?key|private_?key|credentials)$"
)
# `store_secret_name` holds the name of a Secret, which may be seen.
_NAMES_OF_NAMES = re.compile(r"(secret|config_map|credentials?)_?names?$")
# Issuers give their keys these shapes so that scanners find them.
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


def looks_secret(name: str, value: object) -> bool:
    """Return whether a value is shaped like a key, or stands under a name such as `hf_token`.

    Mappings, lists and JSON text are searched. Names of secrets (`store_secret_name`), numbers and
    empty values are no secrets.
    """
    if isinstance(value, dict):
        return any(looks_secret(str(key), inner) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return any(looks_secret(name, inner) for inner in value)
    if not isinstance(value, str) or not value:
        return False
    # The recipe and other structures may come as JSON text.
    if value[0] in "{[":
        try:
            return looks_secret(name, json.loads(value))
        except ValueError:
            pass  # text that begins with a bracket
    return _is_secret_name(name.lower()) or _SHAPES.search(value) is not None


def _is_secret_name(name: str) -> bool:
    return _NAMES.search(name) is not None and _NAMES_OF_NAMES.search(name) is None
