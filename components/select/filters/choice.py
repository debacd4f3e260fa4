"""A choice among the samples that all other filters passed: as many by every strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from components.canonical import derived_seed
from components.contracts.recipe import Keep
from components.contracts.rows import Dropped
from components.select.filter_settings import FilterSettings
from components.select.filters.difficulty import indecision
from components.select.scored_samples import (
    Block,
    Filter,
    NoScore,
    Outcome,
    Remaining,
    SampleKey,
    ScoredSample,
    drop,
    with_score,
)
from components.select.spread import centres, cluster_by_cluster, vectors_of

Scores = Mapping[SampleKey, float | NoScore]


def filter_of(settings: FilterSettings, remaining: Remaining) -> Filter | None:
    """Return a filter that keeps `keep.share` or `keep.rows` of the remaining samples.

    The number is the same for every strategy. A sample that the strategy has no score for is
    dropped as `unscored`, and counted among those that the share is of. None if the recipe does not
    ask for it.
    """
    section = settings.section.keep
    if section is None:
        return None
    name = settings.section.ranked_by
    scores = _scores(settings, name, remaining)
    chosen, num_samples = _chosen(section, scores, remaining, settings.seed)
    detail = f"{len(chosen)} samples of {num_samples} were chosen (by {section.by})"

    def apply(block: Block) -> Outcome:
        passed: list[ScoredSample] = []
        dropped: list[Dropped] = []
        for unscored in block:
            score = scores.get(unscored.key)
            if isinstance(score, NoScore):
                dropped.append(drop(unscored, "unscored", score.reason))
                continue
            # Dropped rows carry the score too: it shows how far they were from the choice.
            scored = unscored if score is None else with_score(unscored, name, score)
            if scored.key in chosen:
                passed.append(scored)
            else:
                dropped.append(drop(scored, "choice", detail))
        return passed, dropped

    return apply


def _scores(settings: FilterSettings, name: str, remaining: Remaining) -> Scores:
    """Return the scores that the strategy ranks by; none for one that needs no model.

    Args:
        settings: Holds the scorers.
        name: The scorer; empty for none.
        remaining: Begins a pass over the samples.
    """
    scores: dict[SampleKey, float | NoScore] = {}
    if not name:
        return scores
    too_long = NoScore(f"no score by {name}: it is too long for the model")
    for block in remaining():
        # A filter before this one may have asked the same model.
        known = [scored for scored in block if name in scored.scores]
        scores.update((scored.key, scored.scores[name]) for scored in known)
        new = [scored for scored in block if name not in scored.scores]
        for scored, score in zip(new, settings.scorers[name](new), strict=True):
            scores[scored.key] = too_long if score is None else score
    return scores


def _chosen(
    section: Keep, scores: Scores, remaining: Remaining, seed: int
) -> tuple[set[SampleKey], int]:
    """Return (keys of the chosen samples, number of samples that were there).

    Args:
        section: Strategy and number.
        scores: Scores that the strategy ranks by, or none.
        remaining: Begins a pass over the samples.
        seed: Seed of what is left to chance.
    """
    keys: list[SampleKey] = []
    merits: list[tuple[float, int]] = []
    num_samples = 0
    for block in remaining():
        num_samples += len(block)
        for scored in block:
            score = scores.get(scored.key)
            if isinstance(score, NoScore):
                continue
            keys.append(scored.key)
            # The random number decides between equals, so that neighbours have no advantage.
            random_number = derived_seed(seed, "choice", *scored.key)
            merits.append((-_merit(section, scored, score), random_number))
    count = section.count_of(num_samples)
    if count >= len(keys):
        return set(keys), num_samples
    ranking = sorted(range(len(keys)), key=lambda row: merits[row])
    rows = _rows(section, ranking, count, remaining, seed)
    return {keys[row] for row in rows}, num_samples


def _rows(
    section: Keep, ranking: Sequence[int], count: int, remaining: Remaining, seed: int
) -> Sequence[int]:
    """Return the positions of `count` samples, of all that are ranked."""
    match section.by:
        case "k-centre":
            return centres(vectors_of(remaining, seed), ranking[0], count)
        case "diversity":
            vectors = vectors_of(remaining, seed)
            return cluster_by_cluster(vectors, ranking, count, section.clusters, seed)
        case _:
            return ranking[:count]


def _merit(section: Keep, scored: ScoredSample, score: float | None) -> float:
    """Return the number that ranks a sample: the highest is the best.

    Args:
        section: The strategy.
        scored: The sample.
        score: Its score by the scorer of the strategy; None for one that has none.
    """
    match section.by:
        case "random":
            return 0.0
        case "difficulty" if score is None:
            return indecision(scored)
        case "likelihood":
            # A perplexity: the lowest is the likeliest.
            assert score is not None, "likelihood has a scorer"
            return -score
        case _ if score is not None:
            return score
    for name in ("judge", "reward", "influence"):
        if name in scored.scores:
            return scored.scores[name]
    return scored.vote_share
