"""How varied some texts are: distinct n-grams, self-BLEU, Vendi score, entropy of answers. No model
is asked.

Words are the tokens here, but every digit and every other sign is one by itself, so that answers
that are numbers have n-grams too. All is deterministic: the same texts in the same order give the
same numbers.
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

MAX_SELF_BLEU_TEXTS = 48
MAX_VENDI_TEXTS = 256
"""Both compare every text with every other: their cost grows with the square."""
MAX_TOKENS_PER_TEXT = 512
"""What comes later in a text is not regarded."""
_BUCKETS = 4096
_TOKEN = re.compile(r"\d|[^\W\d]+|[^\w\s]")


def tokens_of(text: str) -> list[str]:
    """Words in lower case; digits and signs one by one."""
    return _TOKEN.findall(text.casefold())[:MAX_TOKENS_PER_TEXT]


def ngrams(texts: Iterable[str], order: int) -> Counter[tuple[str, ...]]:
    """How often each n-gram occurs; none reaches over the end of a text."""
    counts: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        tokens = tokens_of(text)
        counts.update(zip(*(tokens[place:] for place in range(order)), strict=False))
    return counts


def distinct_share(counts: Counter[tuple[str, ...]], size: int | None = None) -> float | None:
    """distinct-n (1510.03055): different n-grams over all n-grams; None without any.

    The share falls with the amount of text, so texts of different lengths are compared at an equal
    `size`: what is then given is the expectation over samples of `size` of the n-grams, drawn
    without replacement (rarefaction, Hurlbert 1971), in closed form. `size` must not exceed the
    number of n-grams.
    """
    total = counts.total()
    if not total:
        return None
    if size is None or size == total:
        return len(counts) / total
    if not 1 <= size <= total:
        raise ValueError(f"{size} of {total} n-grams")
    # P(an n-gram that occurs f times is not drawn) = C(total - f, size) / C(total, size).
    missing = math.lgamma(total + 1) - math.lgamma(total - size + 1)
    kinds = 0.0
    for often, number in Counter(counts.values()).items():
        rest = total - often
        if rest < size:
            kinds += number
        else:
            kinds += number * -math.expm1(
                math.lgamma(rest + 1) - math.lgamma(rest - size + 1) - missing
            )
    return kinds / size


def self_bleu(texts: Sequence[str]) -> float | None:
    """Mean BLEU-4 of each text against all others as references, 0 to 100; high is monotonous
    (1802.01886).

    Of the first MAX_SELF_BLEU_TEXTS texts; None for fewer than two. Orders longer than a text do
    not count against it.
    """
    from sacrebleu.metrics.bleu import BLEU

    spaced = [" ".join(tokens_of(text)) for text in texts[:MAX_SELF_BLEU_TEXTS]]
    if len(spaced) < 2:
        return None
    bleu = BLEU(tokenize="none", effective_order=True)
    scores = [
        bleu.sentence_score(text, spaced[:place] + spaced[place + 1 :]).score
        for place, text in enumerate(spaced)
    ]
    return float(np.mean(scores))


def vendi_score(texts: Sequence[str]) -> float | None:
    """Effective number of different texts: the exponential of the entropy of the eigenvalues of K/n
    (2210.02410).

    K holds the cosine similarities of hashed TF-IDF vectors of words and word pairs: 1 for equal
    texts, n for texts without a word in common. Of the first MAX_VENDI_TEXTS texts; None without
    texts.
    """
    texts = texts[:MAX_VENDI_TEXTS]
    if not texts:
        return None
    counts = np.zeros((len(texts), _BUCKETS))
    for row, text in enumerate(texts):
        tokens = tokens_of(text)
        for feature in (*tokens, *map(" ".join, itertools.pairwise(tokens))) or ("",):
            counts[row, zlib.crc32(feature.encode()) % _BUCKETS] += 1.0
    rarity = np.log((1 + len(texts)) / (1 + np.count_nonzero(counts, axis=0))) + 1.0
    vectors = counts * rarity
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(vectors @ vectors.T / len(texts))
    kept = values[values > 1e-12]
    # Rounded: the last digits of eigenvalues differed between a container and a laptop, and
    # receipts should not.
    return round(float(np.exp(-np.sum(kept * np.log(kept)))), 9)


def entropy(items: Iterable[Hashable]) -> float:
    """Entropy of how often each item occurs, in nats; 0 for none."""
    counts = Counter(items)
    total = counts.total()
    return sum(number / total * math.log(total / number) for number in counts.values())
