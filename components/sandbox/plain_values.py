"""Plain values as JSON, between a process that nobody trusts and one that judges it.

What comes back is of Python's own types and nothing else: no class of the other side, and so no
`__eq__`, `__reduce__` or `__bool__` of its. Other objects stay where they are, and have a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

Json = object
MAX_ITEMS = 100_000
"""An iterator that gives more is endless."""
_SMALL = 2**53
_SEQUENCES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def encode(value: object, number_of: Callable[[object], int]) -> Json:
    """Return a value as JSON.

    Args:
        value: Any object.
        number_of: Keeps an object that is not plain, and returns its number.

    Raises:
        ValueError: An iterator does not end.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        # Python writes no decimals for huge numbers, and reads none.
        return int(value) if abs(value) < _SMALL else {"int": hex(value)}
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": value.hex()}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if isinstance(value, dict):
        pairs = [
            [encode(key, number_of), encode(item, number_of)]
            for key, item in value.items()
        ]
        return {"dict": pairs}
    if isinstance(value, list | tuple | set | frozenset):
        kind = next(
            name for name, type_ in _SEQUENCES.items() if isinstance(value, type_)
        )
        return {kind: [encode(item, number_of) for item in value]}
    if isinstance(value, Iterator):
        items = list(islice(value, MAX_ITEMS + 1))
        if len(items) > MAX_ITEMS:
            raise ValueError(f"an iterator of more than {MAX_ITEMS} items")
        return {"iterator": [encode(item, number_of) for item in items]}
    return {"object": number_of(value)}


def decode(document: Json, object_of: Callable[[int], object]) -> object:
    """Return the value of a JSON document of `encode`.

    Args:
        document: As it came from the other side.
        object_of: Returns what stands for the object of a number.

    Raises:
        ValueError, TypeError: It is no such document.
    """
    if document is None or isinstance(document, bool | int | float | str):
        return document
    if not isinstance(document, dict) or len(document) != 1:
        raise ValueError("no value")
    ((kind, content),) = document.items()
    match kind:
        case "int":
            return int(content, 16)
        case "bytes":
            return bytes.fromhex(content)
        case "object":
            return object_of(int(content))
        case "complex":
            real, imaginary = content
            return complex(float(real), float(imaginary))
        case "range":
            start, stop, step = content
            return range(int(start), int(stop), int(step))
        case "dict":
            return {
                decode(key, object_of): decode(item, object_of) for key, item in content
            }
        case "iterator":
            return iter([decode(item, object_of) for item in content])
    return _SEQUENCES[kind](decode(item, object_of) for item in content)
