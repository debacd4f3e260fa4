"""How far the samples of a prompt agree, held against what the verifier says of them.

Votes are counted where samples are joined with their prompts (`scored_samples`), by answer: how an
answer is worded makes no difference. Here they are only added up.
"""

from __future__ import annotations

from collections.abc import Iterable

from components.contracts.rows import Prompt
from components.contracts.summaries.select import PromptKind, Votes
from components.select.scored_samples import Block, ScoredSample, by_prompt

Kind = tuple[tuple[str, str], ...]
"""The tags of a prompt, in order."""


class VoteTally:
    """Adds up the votes of a round as its blocks pass the filters. Samples with a hint do not count.

    Shorter or longer prompts than validation has are of another kind: what is known of the
    validation prompts says nothing of them, so they do not count either.
    """

    def __init__(self, validation: Iterable[Prompt]) -> None:
        prompts = list(validation)
        lengths = [len(prompt.text) for prompt in prompts]
        self._shortest, self._longest = min(lengths, default=0), max(lengths, default=0)
        # Kinds that validation has not are never asked for; there may be as many as prompts.
        self._kinds: dict[Kind, int] = {_kind(prompt): 0 for prompt in prompts}
        self._passed_shares = _Mean()
        self._refused_shares = _Mean()
        self._minority = 0
        self._minority_passed = 0
        self._accepted = 0
        self._disputed = 0

    def judge(self, judged: Block, passed: Block) -> None:
        """Count a block that came to the verifier, and what the verifier left of it."""
        passed_keys = {sample.key for sample in passed}
        for own in by_prompt(judged):
            if not self._counts(own[0]):
                continue
            accepted = [sample for sample in own if sample.key in passed_keys]
            is_right = any(_is_majority(sample) for sample in accepted)
            (self._passed_shares if is_right else self._refused_shares).add(own[0].vote_share)
            kind = _kind(own[0].prompt)
            if kind in self._kinds:
                self._kinds[kind] += 1
            self._minority += sum(not _is_majority(sample) for sample in own)
            disputed = sum(not _is_majority(sample) for sample in accepted)
            self._minority_passed += disputed
            self._accepted += len(accepted)
            self._disputed += disputed

    def withdraw(self, given: Block, kept: Block) -> None:
        """Take back what a later filter refuses for what it says."""
        if len(given) == len(kept):
            return
        kept_keys = {sample.key for sample in kept}
        for sample in given:
            if sample.key not in kept_keys and self._counts(sample):
                self._accepted -= 1
                self._disputed -= not _is_majority(sample)

    def summary(self) -> Votes | None:
        """Return the counts; None if no prompt was counted."""
        num_prompts = self._passed_shares.count + self._refused_shares.count
        if not num_prompts:
            return None
        return Votes(
            prompts=num_prompts,
            agreement=(self._passed_shares.total + self._refused_shares.total) / num_prompts,
            prompts_passed=self._passed_shares.count,
            passed_agreement=self._passed_shares.value,
            refused_agreement=self._refused_shares.value,
            minority=self._minority,
            minority_passed=self._minority_passed,
            accepted=self._accepted,
            disputed=self._disputed,
            kinds=tuple(
                PromptKind(tags=dict(kind), prompts=count)
                for kind, count in sorted(self._kinds.items())
                if count
            ),
        )

    def _counts(self, sample: ScoredSample) -> bool:
        return not sample.hinted and self._shortest <= len(sample.prompt.text) <= self._longest


class _Mean:
    """A mean that is added up."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None


def _kind(prompt: Prompt) -> Kind:
    return tuple(sorted(prompt.tags.items()))


def _is_majority(sample: ScoredSample) -> bool:
    return bool(sample.answer) and sample.answer == sample.majority
