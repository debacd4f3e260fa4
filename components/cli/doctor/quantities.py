"""Quantities of Kubernetes (`250m`, `64`, `192Gi`) as numbers, and numbers as words."""

from __future__ import annotations


def amount(quantity: object) -> float:
    """Return a quantity as a number: cores, or bytes. Raises ValueError for other text."""
    from kubernetes.utils.quantity import parse_quantity

    return float(parse_quantity(str(quantity)))


def in_words(resource: str, number: float) -> str:
    """Return a number of a resource with its unit: `1.5 cores`, `7.6 GiB`, `8 of nvidia.com/gpu`."""
    if resource == "cpu":
        return f"{number:g} cores"
    if resource == "memory":
        return f"{number / 2**30:.4g} GiB"
    return f"{number:g} of {resource}"
