"""Near-duplicates of earlier rows, of any prompt: MinHash-LSH proposes pairs, their real similarity
decides.

Nothing that grows with the round stays in memory but a few bytes a row: texts and band hashes lie
in files, and one band at a time is sorted. Source: Broder 1997; LSH as in 2107.06499.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from components.select.filter_settings import Rules
from components.select.scored_samples import (
    Block,
    Filter,
    Outcome,
    Remaining,
    SampleKey,
    ScoredSample,
    by_prompt,
    split,
)
from components.select.text_similarity import (
    NUM_PERMUTATIONS,
    band_hashes,
    boilerplate,
    jaccard,
    numbers_key,
    rows_per_band,
    shingles_of,
)

TEMPLATE_PROMPTS = 1000
"""Prompts of each task whose texts show its template. Ids are hashes, so the first ones are a fair
sample."""
MAX_LEADERS = 64
"""Of rows that share a band, each is compared with at most so many earlier ones that are not
duplicates themselves."""


def filter_of(rules: Rules, remaining: Remaining) -> Filter | None:
    """Drops rows whose shingles (without their task's template) have at least `minhash_threshold`
    in common with an earlier row that has the same numbers."""
    threshold = rules.section.minhash_threshold
    if threshold >= 1.0:
        return None
    found = _Search(remaining, threshold, rules.folder).duplicates()

    def apply(block: Block) -> Outcome:
        return split(block, lambda one: found.get(one.key, ""), "near_duplicate")

    return apply


class _Search:
    """All pairs that share a band, and the verdict on each."""

    def __init__(self, remaining: Remaining, threshold: float, folder: Path) -> None:
        self._threshold, self._rows = threshold, rows_per_band(threshold)
        self._bands = NUM_PERMUTATIONS // self._rows
        self._template = boilerplate(_first_rows(remaining))
        self._folder = folder
        self._offsets, self._count = self._write(remaining)

    def duplicates(self) -> dict[SampleKey, str]:
        """Each near-duplicate, and which earlier row it resembles how much. The first of a group of
        rows stays."""
        import numpy as np

        dropped = np.zeros(self._count, dtype=bool)
        found: dict[SampleKey, str] = {}
        with self._texts.open("rb") as file:
            self._descriptor = file.fileno()
            for band in range(self._bands):
                path = self._folder / f"band-{band}"
                hashes = np.fromfile(path, dtype=np.uint64)
                path.unlink()
                for group in _groups(hashes):
                    self._compare(group, dropped, found)
        self._texts.unlink()
        return found

    @property
    def _texts(self) -> Path:
        return self._folder / "texts"

    def _write(self, remaining: Remaining) -> tuple[Any, int]:
        """Texts in one file, band hashes in one file a band; gives back where each text begins."""
        import numpy as np

        lengths = []
        with ExitStack() as stack:
            texts = stack.enter_context(self._texts.open("wb"))
            bands = [
                stack.enter_context((self._folder / f"band-{band}").open("wb"))
                for band in range(self._bands)
            ]
            for block in remaining():
                shingles = [self._distinctive(one.slice[0], _text(one)) for one in block]
                hashes = band_hashes(
                    shingles, [numbers_key(_text(one)) for one in block], self._rows
                )
                for band, file in enumerate(bands):
                    file.write(hashes[:, band].tobytes())
                lines = [json.dumps([one.slice[0], *one.key, _text(one)]).encode() for one in block]
                texts.write(b"".join(lines))
                lengths.append(np.fromiter(map(len, lines), dtype=np.int64, count=len(lines)))
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), *lengths]).cumsum()
        return offsets, len(offsets) - 1

    def _compare(self, group: Any, dropped: Any, found: dict[SampleKey, str]) -> None:
        group = group[~dropped[group]]
        if len(group) < 2:
            return
        leaders: list[tuple[SampleKey, frozenset[str]]] = []
        for place in group:
            key, own = self._row(int(place))
            for other, shingles in leaders:
                similarity = jaccard(own, shingles)
                if similarity >= self._threshold:
                    dropped[place] = True
                    found[key] = (
                        f"Jaccard {similarity:.2f} to sample {other[1]} of prompt {other[0]}"
                    )
                    break
            else:
                if len(leaders) < MAX_LEADERS:
                    leaders.append((key, own))

    def _row(self, place: int) -> tuple[SampleKey, frozenset[str]]:
        begin, end = int(self._offsets[place]), int(self._offsets[place + 1])
        task, prompt, index, text = json.loads(os.pread(self._descriptor, end - begin, begin))
        return (prompt, index), self._distinctive(task, text)

    def _distinctive(self, task: str, text: str) -> frozenset[str]:
        return shingles_of(text) - self._template.get(task, frozenset())


def _text(one: ScoredSample) -> str:
    return f"{one.prompt.text}\n{one.text}"


def _first_rows(remaining: Remaining) -> Iterator[tuple[str, str]]:
    """(task, text) of one row of each task's first prompts."""
    seen: Counter[str] = Counter()
    for block in remaining():
        for own in by_prompt(block):
            task = own[0].slice[0]
            seen[task] += 1
            if seen[task] <= TEMPLATE_PROMPTS:
                yield task, _text(own[0])


def _groups(hashes: Any) -> Iterator[Any]:
    """Places with equal hashes, where there are at least two, each group in order; groups by their
    first place."""
    import numpy as np

    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    begins = (
        np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        if len(hashes)
        else np.zeros(0, int)
    )
    sizes = np.diff(np.concatenate([begins, [len(hashes)]]))
    several = begins[sizes >= 2], sizes[sizes >= 2]
    for number in np.argsort(order[several[0]], kind="stable"):
        begin, size = several[0][number], several[1][number]
        yield order[begin : begin + size]
