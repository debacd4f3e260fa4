"""Near-duplicates of earlier rows: MinHash-LSH proposes pairs, their exact similarity decides.

Only a few bytes a row stay in memory: texts and band hashes lie in files, and one band at a time is
sorted. Source: Broder 1997; LSH as in 2107.06499.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from components.select.filter_settings import FilterSettings
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
from components.text_similarity import (
    NUM_PERMUTATIONS,
    Shingles,
    answer_key,
    band_hashes,
    boilerplate,
    jaccard,
    numbers_key,
    rows_per_band,
    shingles_of,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

TEMPLATE_PROMPTS = 1000
"""Prompts of each task whose texts show its template. Ids are hashes, so the first ones are a fair
sample."""
MAX_LEADERS = 64
"""Earlier rows that a row is compared with, at most, among those that share a band with it and are
not duplicates themselves. It keeps the cost of a large group below the square of its size."""


def filter_of(settings: FilterSettings, remaining: Remaining) -> Filter | None:
    """Return a filter that drops near-duplicates of an earlier row.

    Both have the same numbers and the same right answer.

    A near-duplicate has a Jaccard similarity of at least `minhash_threshold` over shingles, without
    those of its task's template. None at a threshold of 1.
    """
    threshold = settings.section.minhash_threshold
    # Equal rows were dropped before, as duplicates.
    if threshold >= 1.0:
        return None
    detail_by_key = _Search(remaining, threshold, settings.folder).duplicates()

    def apply(block: Block) -> Outcome:
        return split(
            block, lambda scored: detail_by_key.get(scored.key, ""), "near_duplicate"
        )

    return apply


_Leader = tuple[SampleKey, Shingles]
"""A row that later rows of its group are compared with."""


class _Search:
    """All pairs of rows that share a band, and the verdict on each."""

    def __init__(self, remaining: Remaining, threshold: float, folder: Path) -> None:
        self._threshold = threshold
        self._rows_per_band = rows_per_band(threshold)
        self._num_bands = NUM_PERMUTATIONS // self._rows_per_band
        self._template = boilerplate(_first_rows(remaining))
        self._folder = folder
        self._offsets = self._write(remaining)

    def duplicates(self) -> dict[SampleKey, str]:
        """Return near-duplicate → the earlier row it resembles, in words.

        The first of a group of similar rows is not in it. Deletes the files.
        """
        import numpy as np

        is_duplicate = np.zeros(len(self._offsets) - 1, dtype=bool)
        detail_by_key: dict[SampleKey, str] = {}
        with self._texts.open("rb") as file:
            self._descriptor = file.fileno()
            for band in range(self._num_bands):
                path = self._band_file(band)
                hashes = np.fromfile(path, dtype=np.uint64)
                path.unlink()
                for rows in _groups(hashes):
                    self._compare(rows, is_duplicate, detail_by_key)
        self._texts.unlink()
        return detail_by_key

    @property
    def _texts(self) -> Path:
        return self._folder / "texts"

    def _band_file(self, band: int) -> Path:
        return self._folder / f"band-{band}"

    def _write(self, remaining: Remaining) -> npt.NDArray[np.int64]:
        """Write all texts to one file and the hashes of each band to one file.

        Returns (rows + 1,) int64: where each text begins, and the end of the last one.
        """
        import numpy as np

        lengths = []
        with ExitStack() as stack:
            text_file = stack.enter_context(self._texts.open("wb"))
            band_files = [
                stack.enter_context(self._band_file(band).open("wb"))
                for band in range(self._num_bands)
            ]
            for block in remaining():
                texts = [_text(scored) for scored in block]
                tasks = [scored.slice[0] for scored in block]
                shingles = list(map(self._distinctive, tasks, texts))
                # Rows with other numbers, or another right answer, get another salt: they are never
                # proposed as a pair.
                salts = [
                    numbers_key(text) << 32 | answer_key(scored.prompt)
                    for text, scored in zip(texts, block, strict=True)
                ]
                hashes = band_hashes(shingles, salts, self._rows_per_band)
                for band, band_file in enumerate(band_files):
                    band_file.write(hashes[:, band].tobytes())
                lines = [
                    json.dumps([task, *scored.key, text]).encode()
                    for task, scored, text in zip(tasks, block, texts, strict=True)
                ]
                text_file.write(b"".join(lines))
                line_lengths = [len(line) for line in lines]
                lengths.append(np.array(line_lengths, dtype=np.int64))
        first_offset = np.zeros(1, dtype=np.int64)
        return np.concatenate([first_offset, *lengths]).cumsum()

    def _compare(
        self,
        rows: npt.NDArray[np.int64],
        is_duplicate: npt.NDArray[np.bool_],
        detail_by_key: dict[SampleKey, str],
    ) -> None:
        """Mark the rows of a group that resemble an earlier one of it."""
        # What is a duplicate by another band already leads no rows of its own.
        rows = rows[~is_duplicate[rows]]
        if len(rows) < 2:
            return
        leaders: list[_Leader] = []
        for row in rows:
            key, shingles = self._row(int(row))
            if detail := self._resemblance(shingles, leaders):
                is_duplicate[row] = True
                detail_by_key[key] = detail
            elif len(leaders) < MAX_LEADERS:
                leaders.append((key, shingles))

    def _resemblance(self, shingles: Shingles, leaders: list[_Leader]) -> str:
        """Say which leader a row is too similar to; return an empty string if it is to none."""
        for (prompt, index), leader_shingles in leaders:
            similarity = jaccard(shingles, leader_shingles)
            if similarity >= self._threshold:
                return f"Jaccard {similarity:.2f} to sample {index} of prompt {prompt}"
        return ""

    def _row(self, row: int) -> _Leader:
        """Return (key, distinctive shingles) of a row, read from the file."""
        begin = int(self._offsets[row])
        end = int(self._offsets[row + 1])
        # Shingles are made anew: those of all rows would not fit into memory.
        line = os.pread(self._descriptor, end - begin, begin)
        task, prompt, index, text = json.loads(line)
        return (prompt, index), self._distinctive(task, text)

    def _distinctive(self, task: str, text: str) -> Shingles:
        return shingles_of(text) - self._template.get(task, frozenset())


def _text(scored: ScoredSample) -> str:
    return f"{scored.prompt.text}\n{scored.text}"


def _first_rows(remaining: Remaining) -> Iterator[tuple[str, str]]:
    """Yield (task, text) of one row of each task's first prompts."""
    num_prompts: Counter[str] = Counter()
    for block in remaining():
        for group in by_prompt(block):
            task = group[0].slice[0]
            num_prompts[task] += 1
            if num_prompts[task] <= TEMPLATE_PROMPTS:
                yield task, _text(group[0])


def _groups(hashes: npt.NDArray[np.uint64]) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the rows with equal hashes, where there are at least two.

    Rows are in order within a group; groups are in the order of their first rows.

    Args:
        hashes: (rows,) uint64 of one band.
    """
    import numpy as np

    if not len(hashes):
        return
    order = np.argsort(hashes, kind="stable")
    # Sorted by hash: equal ones are neighbours, and begin where the hash changes.
    ordered = hashes[order]
    differs = ordered[1:] != ordered[:-1]
    begins = np.flatnonzero(np.concatenate([[True], differs]))
    sizes = np.diff(np.concatenate([begins, [len(hashes)]]))
    is_group = sizes >= 2
    begins = begins[is_group]
    sizes = sizes[is_group]
    # By first rows: which row of several similar ones stays must not depend on hashes.
    for number in np.argsort(order[begins], kind="stable"):
        begin = begins[number]
        yield order[begin : begin + sizes[number]]
