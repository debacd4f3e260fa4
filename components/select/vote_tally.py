"""Agreement between the samples of a prompt, compared with the verdicts of the verifier.

Votes are counted where samples are joined with their prompts (`scored_samples`), by answer: how an
answer is worded makes no difference. Here they are only added up.
"""

from __future__ import annotations

from collections.abc import Iterable

from components.contracts.rows import Prompt
from components.contracts.summaries.select import PromptKind, Votes
from components.select.scored_samples import Block, SampleKey, ScoredSample, by_prompt

Kind = tuple[tuple[str, str], ...]
"""The tags of a prompt, in order."""


class VoteTally:
    """Adds up the votes of a round as its blocks pass the filters.

    Samples with a hint do not count. Prompts that are shorter or longer than all validation prompts
    do not count either: they are of another kind, and what is known of the validation prompts says
    nothing of them.
    """

    def __init__(self, validation: Iterable[Prompt]) -> None:
        prompts = list(validation)
        lengths = [len(prompt.text) for prompt in prompts]
        self._min_length = min(lengths, default=0)
        self._max_length = max(lengths, default=0)
        # Kinds that validation has not are never asked for; there may be as many as prompts.
        self._prompts_by_kind: dict[Kind, int] = {
            _kind(prompt): 0 for prompt in prompts
        }
        self._passed_shares = _Mean()
        self._refused_shares = _Mean()
        self._minority = 0
        self._minority_passed = 0
        self._accepted = 0
        self._disputed = 0

    def add(self, checked: Block, accepted: Block) -> None:
        """Count a block.

        Args:
            checked: The samples that came to the verifier.
            accepted: Those of them that the verifier accepts.
        """
        accepted_keys = {scored.key for scored in accepted}
        for group in by_prompt(checked):
            if self._counts(group[0]):
                self._add_prompt(group, accepted_keys)

    def _add_prompt(
        self, group: list[ScoredSample], accepted_keys: set[SampleKey]
    ) -> None:
        # Counted here, where samples that repeat each other are still all there.
        accepted = [scored for scored in group if scored.key in accepted_keys]
        is_majority_accepted = any(scored.is_majority for scored in accepted)
        shares = self._passed_shares if is_majority_accepted else self._refused_shares
        shares.add(group[0].vote_share)
        kind = _kind(group[0].prompt)
        if kind in self._prompts_by_kind:
            self._prompts_by_kind[kind] += 1
        num_disputed = sum(not scored.is_majority for scored in accepted)
        self._minority += sum(not scored.is_majority for scored in group)
        self._minority_passed += num_disputed
        self._accepted += len(accepted)
        self._disputed += num_disputed

    def withdraw(self, given: Block, passed: Block) -> None:
        """Take back the samples that a later filter drops for what they say.

        Args:
            given: The samples before that filter.
            passed: The samples after it.
        """
        # Most filters drop nothing of most blocks.
        if len(given) == len(passed):
            return
        passed_keys = {scored.key for scored in passed}
        for scored in given:
            if scored.key not in passed_keys and self._counts(scored):
                self._accepted -= 1
                self._disputed -= not scored.is_majority

    def summary(self) -> Votes | None:
        """Return the counts; None if no prompt was counted."""
        num_prompts = self._passed_shares.count + self._refused_shares.count
        # Shares of nothing would be read as 0.
        if not num_prompts:
            return None
        total_share = self._passed_shares.total + self._refused_shares.total
        kinds = [
            PromptKind(tags=dict(kind), prompts=count)
            for kind, count in sorted(self._prompts_by_kind.items())
            if count
        ]
        return Votes(
            prompts=num_prompts,
            agreement=total_share / num_prompts,
            prompts_passed=self._passed_shares.count,
            passed_agreement=self._passed_shares.value,
            refused_agreement=self._refused_shares.value,
            minority=self._minority,
            minority_passed=self._minority_passed,
            accepted=self._accepted,
            disputed=self._disputed,
            kinds=tuple(kinds),
        )

    def _counts(self, scored: ScoredSample) -> bool:
        length = len(scored.prompt.text)
        return not scored.hinted and self._min_length <= length <= self._max_length


class _Mean:
    """Running mean of numbers that are added one by one."""

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
