"""Diversity of texts without a model: distinct n-grams, self-BLEU, Vendi score, entropy.

A token is a word, a digit or another sign, so that answers that are numbers have n-grams too. All
functions are deterministic: the same texts in the same order give the same numbers.
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

# Both compare every text with every other: their cost grows with the square.
MAX_SELF_BLEU_TEXTS = 48
MAX_VENDI_TEXTS = 256
MAX_TOKENS_PER_TEXT = 512
"""Later tokens of a text are ignored."""
_BUCKETS = 4096
NGrams = Counter[tuple[str, ...]]
"""n-gram → number of occurrences."""
_TOKEN = re.compile(r"\d|[^\W\d]+|[^\w\s]")


def tokens_of(text: str) -> list[str]:
    """Return the words of a text in lower case, and digits and signs one by one."""
    return _TOKEN.findall(text.casefold())[:MAX_TOKENS_PER_TEXT]


def ngrams(texts: Iterable[str], order: int) -> NGrams:
    """Return n-gram → number of occurrences; no n-gram reaches over the end of a text."""
    counts = NGrams()
    for text in texts:
        tokens = tokens_of(text)
        shifted = [tokens[offset:] for offset in range(order)]
        counts.update(zip(*shifted, strict=False))
    return counts


def distinct_share(counts: NGrams, size: int | None = None) -> float | None:
    """Return distinct-n (1510.03055): different n-grams over all n-grams; None without any.

    The share falls with the amount of text, so texts of different lengths are compared at an equal
    `size`: the result is then the expectation over samples of `size` of the n-grams, drawn without
    replacement (rarefaction, Hurlbert 1971), in closed form.

    Args:
        counts: n-gram → number of occurrences.
        size: Number of n-grams to compare at; None for all of them.

    Raises:
        ValueError: `size` is not between 1 and the number of n-grams.
    """
    total = counts.total()
    if not total:
        return None
    if size is None or size == total:
        return len(counts) / total
    if not 1 <= size <= total:
        raise ValueError(f"{size} of {total} n-grams")
    # P(an n-gram that occurs f times is not drawn) = C(total - f, size) / C(total, size).
    # Both have the factor size!, which is left out.
    log_all = _log_arrangements(total, size)
    expected_distinct = 0.0
    for frequency, num_kinds in Counter(counts.values()).items():
        num_others = total - frequency
        # Then every sample of this size holds such an n-gram.
        if num_others < size:
            expected_distinct += num_kinds
            continue
        log_not_drawn = _log_arrangements(num_others, size) - log_all
        # expm1 keeps the digits of 1 - p where p is close to 1.
        drawn = -math.expm1(log_not_drawn)
        expected_distinct += num_kinds * drawn
    return expected_distinct / size


def _log_arrangements(total: int, size: int) -> float:
    """Return the logarithm of total! / (total - size)!."""
    num_left = total - size
    return math.lgamma(total + 1) - math.lgamma(num_left + 1)


def self_bleu(texts: Sequence[str]) -> float | None:
    """Return the mean BLEU-4 of each text against all others, 0 (varied) to 100 (all the same).

    Only the first MAX_SELF_BLEU_TEXTS texts count; None for fewer than two. Orders longer than a
    text do not count against it. Source: 1802.01886.
    """
    from sacrebleu.metrics.bleu import BLEU

    spaced = [" ".join(tokens_of(text)) for text in texts[:MAX_SELF_BLEU_TEXTS]]
    if len(spaced) < 2:
        return None
    bleu = BLEU(tokenize="none", effective_order=True)
    scores = []
    for index, text in enumerate(spaced):
        references = spaced[:index] + spaced[index + 1 :]
        scores.append(bleu.sentence_score(text, references).score)
    return float(np.mean(scores))


def vendi_score(texts: Sequence[str]) -> float | None:
    """Return the effective number of different texts (2210.02410); None without texts.

    It is the exponential of the entropy of the eigenvalues of K/n, with K the cosine similarities
    of hashed TF-IDF vectors of words and word pairs: 1 for equal texts, n for texts without a word
    in common. Only the first MAX_VENDI_TEXTS texts count.
    """
    texts = texts[:MAX_VENDI_TEXTS]
    if not texts:
        return None
    counts = np.zeros((len(texts), _BUCKETS))
    for row, text in enumerate(texts):
        tokens = tokens_of(text)
        word_pairs = [" ".join(pair) for pair in itertools.pairwise(tokens)]
        # A text without tokens has the empty feature: its vector must not be zero.
        for feature in [*tokens, *word_pairs] or [""]:
            # Not `hash`, which differs from process to process.
            bucket = zlib.crc32(feature.encode()) % _BUCKETS
            counts[row, bucket] += 1.0
    num_texts = len(texts)
    num_with_feature = np.count_nonzero(counts, axis=0)
    rarity = np.log((1 + num_texts) / (1 + num_with_feature)) + 1.0
    vectors = counts * rarity
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarities = vectors @ vectors.T
    eigenvalues = np.linalg.eigvalsh(similarities / num_texts)
    # Rounding makes tiny negative ones, which have no logarithm.
    positive = eigenvalues[eigenvalues > 1e-12]
    eigenvalue_entropy = -np.sum(positive * np.log(positive))
    # Rounded: the last digits of eigenvalues differed between a container and a laptop, and
    # receipts should not.
    return round(float(np.exp(eigenvalue_entropy)), 9)


def entropy(items: Iterable[Hashable]) -> float:
    """Return the entropy of the items' frequencies, in nats; 0 without items."""
    counts = Counter(items)
    total = counts.total()
    return sum(number / total * math.log(total / number) for number in counts.values())
