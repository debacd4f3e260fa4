"""Quantities of Kubernetes (`250m`, `64`, `192Gi`) as numbers, and numbers as words."""

from __future__ import annotations

import re

_QUANTITY = re.compile(r"([0-9.]+)(m|k|[MGTPE]|[KMGTPE]i|[eE][0-9]+)?")
_PREFIXES = "KMGTPE"


def amount(quantity: object) -> float:
    """Return a quantity as a number: cores, or bytes. Raises ValueError for other text."""
    match = _QUANTITY.fullmatch(str(quantity))
    if match is None:
        raise ValueError(f"{quantity!r} is no quantity of Kubernetes")
    number = float(match[1])
    unit = match[2] or ""
    if unit == "":
        return number
    if unit == "m":
        return number / 1000
    if unit[0] in "eE" and len(unit) > 1 and unit[1:].isdigit():
        return number * 10.0 ** int(unit[1:])
    base = 1024.0 if unit.endswith("i") else 1000.0
    return number * base ** (_PREFIXES.index(unit[0].upper()) + 1)


def in_words(resource: str, number: float) -> str:
    """Return a number of a resource with its unit: `1.5 cores`, `7.6 GiB`, `8 of nvidia.com/gpu`."""
    if resource == "cpu":
        return f"{number:g} cores"
    if resource == "memory":
        return f"{number / 2**30:.4g} GiB"
    return f"{number:g} of {resource}"
