"""Choices of rows that are unlike each other, over hashed TF-IDF vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from components.select.scored_samples import Block, Remaining

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

NUM_FEATURES = 2**15
NUM_DIMENSIONS = 64
"""Length of the projected vectors (Johnson–Lindenstrauss): 256 bytes a row stay in memory."""


def vectors_of(remaining: Remaining, seed: int) -> npt.NDArray[np.float32]:
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


def centres(vectors: npt.NDArray[np.float32], first: int, count: int) -> list[int]:
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


def cluster_by_cluster(
    vectors: npt.NDArray[np.float32],
    ranking: Sequence[int],
    count: int,
    num_clusters: int,
    seed: int,
) -> list[int]:
    """Return `count` rows, the best of every cluster in turn.

    Args:
        vectors: A vector for each row.
        ranking: All rows, the best first.
        count: Rows to choose.
        num_clusters: Clusters that take turns.
        seed: Seed of the clustering.
    """
    from sklearn.cluster import MiniBatchKMeans

    # More clusters than rows to choose would leave some without a turn.
    num_clusters = min(num_clusters, count)
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
    return [row for _, _, row in sorted(by_turn)[:count]]
