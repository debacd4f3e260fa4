"""A choice of rows that are unlike each other, over hashed TF-IDF vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from components.canonical import derived_seed
from components.contracts.recipe import DiversityChoice
from components.select.filter_settings import FilterSettings
from components.select.scored_samples import (
    Block,
    Filter,
    Remaining,
    SampleKey,
    ScoredSample,
    split,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

NUM_FEATURES = 2**15
NUM_DIMENSIONS = 64
"""Length of the projected vectors (Johnson–Lindenstrauss): 256 bytes a row stay in memory."""


def filter_of(settings: FilterSettings, remaining: Remaining) -> Filter | None:
    """Return a filter that keeps `diversity.rows` of the remaining rows.

    They are chosen from clusters in turn, by k-centre (1708.00489), or by a baseline.
    """
    section = settings.section.diversity
    if section is None:
        return None
    keys: list[SampleKey] = []
    merits: list[tuple[float, int]] = []
    for scored in _all_samples(remaining):
        keys.append(scored.key)
        random_number = derived_seed(settings.seed, "choice", *scored.key)
        merits.append((_merit(scored), random_number))
    chosen = set(keys)
    if len(keys) > section.rows:
        chosen = _choice(section, keys, merits, remaining, settings.seed)
    detail = f"{section.rows} rows of {len(keys)} were chosen ({section.method})"

    def refusal(scored: ScoredSample) -> str:
        return "" if scored.key in chosen else detail

    return lambda block: split(block, refusal, "diversity")


def _choice(
    section: DiversityChoice,
    keys: list[SampleKey],
    merits: list[tuple[float, int]],
    remaining: Remaining,
    seed: int,
) -> set[SampleKey]:
    """Return the keys of the chosen rows.

    Args:
        section: Method and number of rows.
        keys: All rows, in order.
        merits: (merit, random number) of each row.
        remaining: Begins another pass over the same rows.
        seed: Seed of the projection and of the clusters.
    """

    def best_first(row: int) -> tuple[float, int]:
        merit, random_number = merits[row]
        # The random number decides between equals, so that neighbours have no advantage.
        return -merit, random_number

    def random_order(row: int) -> int:
        _, random_number = merits[row]
        return random_number

    all_rows = range(len(keys))
    ranking = sorted(all_rows, key=best_first)
    match section.method:
        case "top-score":
            rows = ranking[: section.rows]
        case "random":
            rows = sorted(all_rows, key=random_order)[: section.rows]
        case "k-centre":
            rows = _centres(_vectors(remaining, seed), ranking[0], section.rows)
        case _:
            rows = _balanced(_vectors(remaining, seed), ranking, section, seed)
    return {keys[row] for row in rows}


def _merit(scored: ScoredSample) -> float:
    """Return the number that ranks like rows: the first score there is, else the share of votes."""
    for name in ("judge", "reward", "influence"):
        if name in scored.scores:
            return scored.scores[name]
    return scored.vote_share


def _all_samples(remaining: Remaining) -> Iterator[ScoredSample]:
    for block in remaining():
        yield from block


def _vectors(remaining: Remaining, seed: int) -> npt.NDArray[np.float32]:
    """Return (rows, NUM_DIMENSIONS) float32 vectors of unit length.

    They count words and pairs of words, hashed and weighted by rarity.
    """
    import numpy as np
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.random_projection import SparseRandomProjection

    hashing = HashingVectorizer(
        n_features=NUM_FEATURES,
        ngram_range=(1, 2),
        alternate_sign=False,
        norm="l2",
        dtype=np.float32,
        token_pattern=r"\w+",
    )
    # Two passes: the rarity of a word is known only once all rows were seen.
    document_counts = np.zeros(NUM_FEATURES)
    num_rows = 0
    for block in remaining():
        counts = hashing.transform(_texts(block))
        document_counts += np.bincount(counts.indices, minlength=NUM_FEATURES)
        num_rows += counts.shape[0]
    # Smoothed inverse document frequency: no word has an infinite weight, and none has 0.
    rarity = np.log((1 + num_rows) / (1 + document_counts)) + 1
    rarity = rarity.astype(np.float32)
    projection = SparseRandomProjection(
        NUM_DIMENSIONS, random_state=seed % 2**31, dense_output=True
    )
    # Random projections depend on the number of features alone: any row will do to fit one.
    projection.fit(hashing.transform(["any"]))
    parts = []
    for block in remaining():
        weighted = hashing.transform(_texts(block)).multiply(rarity).tocsr()
        parts.append(projection.transform(weighted).astype(np.float32))
    vectors: npt.NDArray[np.float32] = np.concatenate(parts)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    # A text without any word has length 0.
    vectors /= np.maximum(lengths, 1e-12)
    return vectors


def _texts(block: Block) -> list[str]:
    return [f"{scored.prompt.text} {scored.text}" for scored in block]


def _centres(vectors: npt.NDArray[np.float32], first: int, count: int) -> list[int]:
    """Return the rows of a greedy k-centre choice: each is the farthest from those before it.

    The largest distance to a centre is at most twice the best possible one.
    """
    import numpy as np

    chosen = [first]
    distances = 1 - vectors @ vectors[first]
    while len(chosen) < count:
        farthest = int(np.argmax(distances))
        chosen.append(farthest)
        distances = np.minimum(distances, 1 - vectors @ vectors[farthest])
        # Equal rows have distance 0 as well; chosen ones must be below.
        distances[chosen] = -1.0
    return chosen


def _balanced(
    vectors: npt.NDArray[np.float32], ranking: list[int], section: DiversityChoice, seed: int
) -> list[int]:
    """Return the best rows of every cluster in turn, until there are enough."""
    from sklearn.cluster import MiniBatchKMeans

    # More clusters than rows to choose would leave some without a turn.
    num_clusters = min(section.clusters, section.rows)
    clustering = MiniBatchKMeans(
        num_clusters, random_state=seed % 2**31, n_init=1, batch_size=2048
    ).fit(vectors)
    num_ranked: dict[int, int] = {}
    by_turn: list[tuple[int, int, int]] = []
    for position, row in enumerate(ranking):
        cluster = int(clustering.labels_[row])
        turn = num_ranked.get(cluster, 0)
        num_ranked[cluster] = turn + 1
        by_turn.append((turn, position, row))
    return [row for _, _, row in sorted(by_turn)[: section.rows]]
