"""A choice of rows that are unlike each other, over hashed TF-IDF vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from components.canonical import derived_seed
from components.contracts.recipe import DiversityChoice
from components.select.filter_settings import Rules
from components.select.scored_samples import Filter, Remaining, SampleKey, ScoredSample, split

NUM_FEATURES = 2**15
NUM_DIMENSIONS = 64
"""Vectors are projected to so many (Johnson–Lindenstrauss): 256 bytes a row stay in memory."""


def filter_of(rules: Rules, remaining: Remaining) -> Filter | None:
    """Keeps `diversity.rows` of what remains: from clusters in turn, by k-centre (1708.00489), or
    by a baseline."""
    section = rules.section.diversity
    if section is None:
        return None
    keys, merits = [], []
    for one in _all(remaining):
        keys.append(one.key)
        merits.append((_merit(one), derived_seed(rules.seed, "choice", *one.key)))
    chosen = (
        _choice(section, keys, merits, remaining, rules.seed)
        if len(keys) > section.rows
        else set(keys)
    )
    detail = f"{section.rows} rows of {len(keys)} were chosen ({section.method})"
    return lambda block: split(block, lambda one: "" if one.key in chosen else detail, "diversity")


def _choice(
    section: DiversityChoice,
    keys: list[SampleKey],
    merits: list[tuple[float, int]],
    remaining: Remaining,
    seed: int,
) -> set[SampleKey]:
    # Best first; a derived number decides between equals, so that neighbours have no advantage.
    order = sorted(range(len(keys)), key=lambda place: (-merits[place][0], merits[place][1]))
    match section.method:
        case "top-score":
            places = order[: section.rows]
        case "random":
            places = sorted(range(len(keys)), key=lambda place: merits[place][1])[: section.rows]
        case "k-centre":
            places = _centres(_vectors(remaining, seed), order[0], section.rows)
        case _:
            places = _balanced(_vectors(remaining, seed), order, section, seed)
    return {keys[place] for place in places}


def _merit(one: ScoredSample) -> float:
    """What is better among like rows: the judge's or reward model's score, else the share of votes."""
    return next(
        (one.scores[name] for name in ("judge", "reward", "influence") if name in one.scores),
        one.vote_share,
    )


def _all(remaining: Remaining) -> Iterator[ScoredSample]:
    for block in remaining():
        yield from block


def _vectors(remaining: Remaining, seed: int) -> Any:
    """(rows, NUM_DIMENSIONS) float32 of unit length: words and pairs of words, hashed, weighted by
    rarity."""
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
    frequency, rows = np.zeros(NUM_FEATURES), 0
    for block in remaining():
        counts = hashing.transform([f"{one.prompt.text} {one.text}" for one in block])
        frequency += np.bincount(counts.indices, minlength=NUM_FEATURES)
        rows += counts.shape[0]
    rarity = (np.log((1 + rows) / (1 + frequency)) + 1).astype(np.float32)
    projection = SparseRandomProjection(
        NUM_DIMENSIONS, random_state=seed % 2**31, dense_output=True
    )
    projection.fit(hashing.transform(["any"]))
    parts = []
    for block in remaining():
        weighted = (
            hashing.transform([f"{one.prompt.text} {one.text}" for one in block])
            .multiply(rarity)
            .tocsr()
        )
        parts.append(projection.transform(weighted).astype(np.float32))
    vectors = np.concatenate(parts)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _centres(vectors: Any, first: int, count: int) -> list[int]:
    """Greedy k-centre: each next row is the one farthest from all chosen so far; within twice the
    best possible."""
    import numpy as np

    chosen = [first]
    distances = 1 - vectors @ vectors[first]
    while len(chosen) < count:
        place = int(np.argmax(distances))
        chosen.append(place)
        distances = np.minimum(distances, 1 - vectors @ vectors[place])
        distances[chosen] = -1.0
    return chosen


def _balanced(vectors: Any, order: list[int], section: DiversityChoice, seed: int) -> list[int]:
    """The best rows of every cluster in turn, until there are enough."""
    from sklearn.cluster import MiniBatchKMeans

    count = min(section.clusters, section.rows)
    means = MiniBatchKMeans(count, random_state=seed % 2**31, n_init=1, batch_size=2048).fit(
        vectors
    )
    taken: dict[int, int] = {}
    ranked: list[tuple[int, int, int]] = []
    for place in order:
        cluster = int(means.labels_[place])
        taken[cluster] = taken.get(cluster, -1) + 1
        ranked.append((taken[cluster], len(ranked), place))
    return [place for _, _, place in sorted(ranked)[: section.rows]]
