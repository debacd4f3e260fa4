"""Verifiers `chrf`, `bleu`, `rouge_l`, `wer`, `cer`: how near a text is to its references, 0 to 1.

They are for translations, summaries and transcripts, where many answers are good and few are equal
to the reference. 1 is the reference itself. Of several references the best counts; `bleu` takes
n-grams from all. White space and Unicode forms make no difference, and think blocks do not count.

- `chrf`: F2 over character n-grams, 1 to 6, without white space, of orders that both texts have
  (Popović 2015, ACL W15-3049); sacrebleu's
  `nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no`, divided by 100.
- `bleu`: BLEU-4 of one text (Papineni et al. 2002, ACL P02-1040) with orders that the answer has
  and no match smoothed exponentially (Chen and Cherry 2014, ACL W14-3346, method 3); sacrebleu's
  `nrefs:1|case:mixed|eff:yes|tok:13a|smooth:exp` (1804.08771), divided by 100.
- `rouge_l`: F1 of the longest common subsequence of words (Lin 2004, ACL W04-1013), without
  stemming, case and punctuation; each Han character and kana is a word.
- `wer`: 1 - min(1, word error rate), in words between spaces, case and punctuation included.
- `cer`: the same in characters, spaces included, for languages without spaces between words.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import NamedTuple

from components.canonical import normalised_text
from components.contracts.rows import Prompt
from components.errors import UserError
from components.sandbox.verdict import Verdict
from components.text_tokens import tokens_of
from components.verifiers.final_answer import MAX_ANSWER_CHARACTERS, answer_part
from components.verifiers.references import reference_text

MAX_REFERENCE_CHARACTERS = 5 * MAX_ANSWER_CHARACTERS
"""Of all references of a prompt together: an answer is compared with each of them."""


def verdict(prompt: Prompt, text: str) -> Verdict:
    """Return the score of a text by the prompt's metric, with the score in words.

    Raises:
        UserError: A package that computes it is missing.
    """
    name = prompt.verifier
    require_metric(name)
    references = _references(prompt)
    answer = answer_key(text)
    if not references or not answer:
        return Verdict(0.0, "no answer" if references else "no reference")
    score = _METRICS[name].score(answer, references)
    return Verdict(score, f"{name} {score:.3f}")


def answer_key(text: str) -> str:
    """Return what is compared: the text between `<answer>` tags, or without thoughts, normalised."""
    return normalised_text(answer_part(text))


def references_problem(prompt: Prompt) -> str:
    """Return why no answer can be compared with this prompt's references, "" if answers can be."""
    if not prompt.reference:
        # A question without an answer; whether that may be is not for the metric to say.
        return ""
    references = _references(prompt)
    num_characters = sum(map(len, references))
    if num_characters > MAX_REFERENCE_CHARACTERS:
        return (
            f"the references have {num_characters} characters, more than "
            f"{MAX_REFERENCE_CHARACTERS}"
        )
    if prompt.verifier == "rouge_l":
        references = [text for text in references if _words_of(text)]
        return "" if references else "no reference has a word"
    return "" if references else "the reference is empty"


def require_metric(name: str) -> None:
    """Raise UserError, with what installs it, where a package of a metric is missing."""
    for package in _METRICS[name].packages:
        # Found, not imported: the command line asks before any task.
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"verifier {name} needs the package {package}, which is not installed: pip install "
                f"{package}, or the extra `metrics` of ratchet-lm"
            )


def _references(prompt: Prompt) -> list[str]:
    """Return the references of a prompt, each once, without empty ones."""
    listed = prompt.reference.get("answers")
    texts = listed if isinstance(listed, list) else [reference_text(prompt)]
    normalised = (normalised_text(text) for text in texts if isinstance(text, str))
    return list(dict.fromkeys(filter(None, normalised)))


def _chrf(answer: str, references: Sequence[str]) -> float:
    from sacrebleu.metrics.chrf import CHRF

    return _share(CHRF().sentence_score(answer, references).score)


def _bleu(answer: str, references: Sequence[str]) -> float:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
    from sacrebleu.tokenizers.tokenizer_re import TokenizerRegexp

    score = BLEU(effective_order=True).sentence_score(answer, references).score
    # Each tokenizer keeps its last 65,536 texts; of long answers that is gigabytes.
    Tokenizer13a.__call__.cache_clear()
    TokenizerRegexp.__call__.cache_clear()
    return _share(score)


def _share(percent: float) -> float:
    # Sums of logarithms give 100.00000000000004 for the reference itself.
    return min(1.0, round(percent / 100, 12))


def _rouge_l(answer: str, references: Sequence[str]) -> float:
    from rapidfuzz.distance import LCSseq

    answer_words = _words_of(answer)
    best = 0.0
    for reference in references:
        reference_words = _words_of(reference)
        num_common = LCSseq.similarity(reference_words, answer_words)
        if num_common:
            # F1 of num_common / len(answer_words) and num_common / len(reference_words).
            f1 = 2 * num_common / (len(answer_words) + len(reference_words))
            best = max(best, f1)
    return best


def _words_of(text: str) -> tuple[str, ...]:
    return tokens_of(text).words().tokens


def _wer(answer: str, references: Sequence[str]) -> float:
    import jiwer

    error_rate: float = min(jiwer.wer(reference, answer) for reference in references)
    return max(0.0, 1 - error_rate)


def _cer(answer: str, references: Sequence[str]) -> float:
    import jiwer

    error_rate: float = min(jiwer.cer(reference, answer) for reference in references)
    return max(0.0, 1 - error_rate)


class _Metric(NamedTuple):
    score: Callable[[str, Sequence[str]], float]
    """(answer, references) → score from 0 to 1."""
    packages: tuple[str, ...]
    """Modules that it imports."""


# rouge-score itself is not used for ROUGE-L: it was last released in 2022, takes quadratic time in
# Python, imports nltk, and knows the letters a to z alone, so that a Russian summary scores 0.
_METRICS = {
    "chrf": _Metric(_chrf, ("sacrebleu",)),
    "bleu": _Metric(_bleu, ("sacrebleu",)),
    "rouge_l": _Metric(_rouge_l, ("rapidfuzz",)),
    "wer": _Metric(_wer, ("jiwer",)),
    "cer": _Metric(_cer, ("jiwer",)),
}
