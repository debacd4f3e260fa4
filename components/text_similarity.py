"""Shingles, sketches and bands: search for similar texts without comparing all with all.

Prompts made from a template share most of their text although they ask different things. So
shingles that many prompts of a task have in common do not count, and rows whose numbers or right
answers differ are never duplicates.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from components.canonical import canonical_json, normalised_text
from components.contracts.rows import Prompt

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Shingles = frozenset[str]
"""The distinct runs of SHINGLE_CHARACTERS characters of a text."""
SHINGLE_CHARACTERS = 5
BOILERPLATE_SHARE = 0.2
"""A shingle that at least this share of a task's prompts have in common is its template, not the
question."""
BOILERPLATE_PROMPTS = 10
"""A shingle of fewer prompts is no template: two or three that agree may well be duplicates."""
MAX_ANSWER_CHARACTERS = 64
"""Longest reference that tells two questions apart by itself."""
NUM_PERMUTATIONS = 128
# Fixed, not the campaign's: the same rows resemble each other in every campaign.
_SEED = 20_240_101
_NUMBER = re.compile(r"[0-9]+")
_MULTIPLIER = 0x9E3779B97F4A7C15


def shingles_of(text: str) -> Shingles:
    """Return the distinct runs of 5 characters of a text; the whole text if it is shorter.

    The text is normalised first: runs of white space count as one space.
    """
    text = normalised_text(text)
    num_shingles = max(1, len(text) - SHINGLE_CHARACTERS + 1)
    shingles = [
        text[begin : begin + SHINGLE_CHARACTERS] for begin in range(num_shingles)
    ]
    return frozenset(shingles)


def numbers_key(text: str) -> int:
    """Return 32 bits that are equal for texts with the same numbers in the same order."""
    numbers = "\0".join(_NUMBER.findall(text))
    return zlib.crc32(numbers.encode())


def answer_key(prompt: Prompt) -> int:
    """Return 32 bits that are equal for prompts with the same right answer, or with none at hand.

    A question and its negation are alike but for a word: their right answers tell them apart.
    """
    if not prompt.reference:
        return 0
    answer = prompt.reference.get("answer")
    # A verifier without an answer (a pattern, tests of a program) has other data to differ in.
    text = (
        answer if isinstance(answer, str) else canonical_json(prompt.reference).decode()
    )
    text = normalised_text(text).casefold()
    # A long answer is text like the question: how alike the rows are says how alike it is.
    if len(text) > MAX_ANSWER_CHARACTERS:
        return 0
    return zlib.crc32(text.encode())


def jaccard(first: Shingles, second: Shingles) -> float:
    """Return the size of the intersection over that of the union; 0 for two empty sets."""
    num_shared = len(first & second)
    num_together = len(first) + len(second) - num_shared
    return num_shared / max(1, num_together)


def boilerplate(texts: Iterable[tuple[str, str]]) -> dict[str, Shingles]:
    """Return task → shingles of its template.

    Args:
        texts: (task, text) of one row per prompt, of some prompts of each task.
    """
    num_prompts = Counter[str]()
    counts_by_task = defaultdict[str, Counter[str]](Counter)
    for task, text in texts:
        num_prompts[task] += 1
        counts_by_task[task].update(shingles_of(text))
    templates = {}
    for task, counts in counts_by_task.items():
        min_count = max(BOILERPLATE_PROMPTS, BOILERPLATE_SHARE * num_prompts[task])
        templates[task] = frozenset(
            shingle for shingle, count in counts.items() if count >= min_count
        )
    return templates


def rows_per_band(threshold: float) -> int:
    """Return the number of the 128 permutations that make a band, for a Jaccard threshold."""
    # 21 bands of 6 miss a pair of similarity 0.8 once in 500 and propose one of 0.3 once in 65.
    if threshold >= 0.75:
        return 6
    # 32 bands of 4 miss a pair of similarity 0.6 once in 85.
    if threshold >= 0.6:
        return 4
    # 64 bands of 2 miss a pair of similarity 0.4 once in 70,000.
    return 2


def band_hashes(
    shingles: Sequence[Shingles], salts: Sequence[int], rows: int
) -> npt.NDArray[np.uint64]:
    """Return (texts, 128 // rows) uint64: similar texts with the same salt agree in some column.

    Texts with different salts agree by accident alone. MinHash (Broder 1997) with LSH bands.

    Args:
        shingles: Of each text.
        salts: Of each text.
        rows: Permutations per band, see `rows_per_band`.
    """
    import numpy as np
    import rensa

    matrix = rensa.RMinHash.digest_matrix_from_token_sets(
        [list(text_shingles) for text_shingles in shingles], NUM_PERMUTATIONS, _SEED
    )
    bands = NUM_PERMUTATIONS // rows
    num_texts = len(shingles)
    digests = np.array(matrix.to_rows(), dtype=np.uint64).reshape(
        num_texts, NUM_PERMUTATIONS
    )
    in_bands = digests[:, : bands * rows].reshape(num_texts, bands, rows)
    hashes = np.zeros((num_texts, bands), dtype=np.uint64)
    # Multiplying and shifting mixes the bits: any 64-bit hash of the rows of a band would do.
    for row in range(rows):
        hashes ^= in_bands[:, :, row]
        hashes *= np.uint64(_MULTIPLIER)
        hashes ^= hashes >> np.uint64(29)
    salt_hashes = np.asarray(salts, dtype=np.uint64) * np.uint64(_MULTIPLIER)
    hashes ^= salt_hashes[:, None]
    empty = np.array([not text_shingles for text_shingles in shingles])
    # Texts without shingles cannot be compared: each gets a number that no other of them has.
    numbers = np.arange(int(empty.sum()), dtype=np.uint64)
    hashes[empty] = numbers[:, None]
    return hashes
