"""Near-duplicates by MinHash-LSH over character shingles, checked by their real Jaccard similarity.

Prompts made from a template share most of their text although they ask different things. So shingles that many
prompts of a task have in common do not count, and rows whose numbers differ are never duplicates.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

SHINGLE_CHARACTERS = 5
BOILERPLATE_SHARE = 0.2
"""A shingle that at least this share of a task's prompts have in common is its template, not the question."""
BOILERPLATE_PROMPTS = 10
"""…but only if at least so many prompts have it: two or three that agree may well be duplicates."""
NUM_PERMUTATIONS = 128

_NUMBER = re.compile(r"[0-9]+")


def near_duplicates(
    texts: Sequence[str], origins: Sequence[tuple[str, str]], threshold: float
) -> dict[int, tuple[int, float]]:
    """Place of each near-duplicate → place of the earlier kept text it repeats, and their Jaccard similarity.

    `origins` are (task, prompt id) of each text. LSH only proposes pairs (Broder 1997; bands chosen so that a pair at
    the threshold is missed in less than 2 % of cases); the verdict is the exact similarity of the shingle sets.
    """
    from datasketch import MinHash, MinHashLSH

    shingles = distinctive_shingles(texts, origins)
    numbers = [_NUMBER.findall(text) for text in texts]
    index = MinHashLSH(num_perm=NUM_PERMUTATIONS, params=(32, 4) if threshold >= 0.6 else (64, 2))
    found: dict[int, tuple[int, float]] = {}
    empty = MinHash(num_perm=NUM_PERMUTATIONS)
    for place, own in enumerate(shingles):
        if not own:
            continue
        sketch = empty.copy()
        sketch.update_batch([shingle.encode() for shingle in own])
        for earlier in sorted(index.query(sketch)):
            similarity = len(own & shingles[earlier]) / len(own | shingles[earlier])
            if similarity >= threshold and numbers[place] == numbers[earlier]:
                found[place] = (earlier, similarity)
                break
        else:
            index.insert(place, sketch)
    return found


def distinctive_shingles(texts: Sequence[str], origins: Sequence[tuple[str, str]]) -> list[frozenset[str]]:
    """The 5-character shingles of each text (white space squeezed) without those of its task's template."""
    shingles = [_shingles(text) for text in texts]
    owners: dict[tuple[str, str], set[str]] = defaultdict(set)
    for own, (task, prompt) in zip(shingles, origins, strict=True):
        for shingle in own:
            owners[task, shingle].add(prompt)
    prompts = Counter(task for task, _ in set(origins))
    boilerplate = {
        (task, shingle)
        for (task, shingle), ids in owners.items()
        if len(ids) >= max(BOILERPLATE_PROMPTS, BOILERPLATE_SHARE * prompts[task])
    }
    return [
        frozenset(shingle for shingle in own if (task, shingle) not in boilerplate)
        for own, (task, _) in zip(shingles, origins, strict=True)
    ]


def _shingles(text: str) -> frozenset[str]:
    text = " ".join(text.split())
    begins = range(max(1, len(text) - SHINGLE_CHARACTERS + 1))
    return frozenset(text[begin : begin + SHINGLE_CHARACTERS] for begin in begins)
