"""Shingles, sketches and bands: which texts may resemble each other, without comparing all with
all.

Prompts made from a template share most of their text although they ask different things. So
shingles that many prompts of a task have in common do not count, and rows whose numbers differ are
never duplicates.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from components.canonical import normalised_text

SHINGLE_CHARACTERS = 5
BOILERPLATE_SHARE = 0.2
"""A shingle that at least this share of a task's prompts have in common is its template, not the
question."""
BOILERPLATE_PROMPTS = 10
"""…but only if at least so many prompts have it: two or three that agree may well be duplicates."""
NUM_PERMUTATIONS = 128
_SEED = 20_240_101
_NUMBER = re.compile(r"[0-9]+")
_MULTIPLIER = 0x9E3779B97F4A7C15


def shingles_of(text: str) -> frozenset[str]:
    """The distinct runs of 5 characters of a normalised text; all of it if it is shorter."""
    text = normalised_text(text)
    begins = range(max(1, len(text) - SHINGLE_CHARACTERS + 1))
    return frozenset([text[begin : begin + SHINGLE_CHARACTERS] for begin in begins])


def numbers_key(text: str) -> int:
    """32 bits that are equal for texts with the same numbers in the same order."""
    return zlib.crc32("\0".join(_NUMBER.findall(text)).encode())


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Size of the intersection over that of the union; 0 for two empty sets."""
    shared = len(first & second)
    return shared / max(1, len(first) + len(second) - shared)


def boilerplate(texts: Iterable[tuple[str, str]]) -> dict[str, frozenset[str]]:
    """Task → shingles of its template, from (task, text) of one row of each of some prompts."""
    prompts, counts = Counter[str](), defaultdict[str, Counter[str]](Counter)
    for task, text in texts:
        prompts[task] += 1
        counts[task].update(shingles_of(text))
    return {
        task: frozenset(
            shingle
            for shingle, count in own.items()
            if count >= max(BOILERPLATE_PROMPTS, BOILERPLATE_SHARE * prompts[task])
        )
        for task, own in counts.items()
    }


def rows_per_band(threshold: float) -> int:
    """How many of the 128 permutations make a band. 21 bands of 6 miss a pair of similarity 0.8
    once in 500 and look at one of 0.3 once in 65; 32 of 4 miss one of 0.6 once in 85; 64 of 2 one
    of 0.4 once in 70,000."""
    return 6 if threshold >= 0.75 else 4 if threshold >= 0.6 else 2


def band_hashes(shingles: Sequence[frozenset[str]], salts: Sequence[int], rows: int) -> Any:
    """(texts, 128 // rows) uint64: two texts with the same salt that are alike agree in at least
    one column (MinHash, Broder 1997, with LSH bands). Texts of different salts agree by accident
    alone."""
    import numpy as np
    import rensa

    matrix = rensa.RMinHash.digest_matrix_from_token_sets(
        [list(own) for own in shingles], NUM_PERMUTATIONS, _SEED
    )
    bands = NUM_PERMUTATIONS // rows
    digests = np.array(matrix.to_rows(), dtype=np.uint64).reshape(len(shingles), NUM_PERMUTATIONS)
    in_bands = digests[:, : bands * rows].reshape(len(shingles), bands, rows)
    hashes = np.zeros((len(shingles), bands), dtype=np.uint64)
    for row in range(rows):
        hashes = (hashes ^ in_bands[:, :, row]) * np.uint64(_MULTIPLIER)
        hashes ^= hashes >> np.uint64(29)
    hashes ^= np.asarray(salts, dtype=np.uint64)[:, None] * np.uint64(_MULTIPLIER)
    empty = np.array([not own for own in shingles])
    # Without shingles there is nothing to compare: a number of its own among these texts.
    hashes[empty] = np.arange(int(empty.sum()), dtype=np.uint64)[:, None]
    return hashes
