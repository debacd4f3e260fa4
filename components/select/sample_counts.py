"""Counts of a round's samples before any filter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from components.canonical import normalised_text
from components.contracts.summaries import GenerateSummary
from components.runtime.receipts import Receipt, read_summary
from components.select.scored_samples import Block, by_prompt


@dataclass(frozen=True)
class DrawnCounts:
    """Counts of what generate drew for a round, over all shards."""

    tokens: int
    """With and without hints."""
    finished_share: float | None
    """Share of the answers without a hint that the model itself ended; None without answers."""

    @classmethod
    def of(cls, shards: Iterable[Receipt]) -> DrawnCounts:
        """Add up the summaries of all shards."""
        num_answers = 0
        num_finished = 0.0
        tokens = 0
        for shard in shards:
            summary = read_summary(shard, GenerateSummary)
            num_answers_of_shard = summary.generated - summary.no_answer
            num_answers += num_answers_of_shard
            # Shards differ in size: their shares count by their answers.
            num_finished += summary.finished_share * num_answers_of_shard
            tokens += summary.tokens
            if summary.hinted is not None:
                tokens += summary.hinted.tokens
        return cls(
            tokens=tokens,
            finished_share=num_finished / num_answers if num_answers else None,
        )


@dataclass
class SeenCounts:
    """Counts of samples that pass by; those of audit prompts and those with a hint do not count."""

    audit_ids: frozenset[str]
    """Ids of the audit prompts."""
    samples: int = 0
    prompts: int = 0
    distinct: int = 0
    """Samples whose text differs from the prompt's earlier ones."""
    tokens: int = 0

    def watch(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Yield the blocks unchanged; count their samples."""
        for block in blocks:
            for group in by_prompt(block):
                if group[0].prompt.id in self.audit_ids or group[0].hinted:
                    continue
                # Answers that differ in white space alone are one text to a reader.
                texts = {normalised_text(scored.text) for scored in group}
                self.prompts += 1
                self.samples += len(group)
                self.distinct += len(texts)
                self.tokens += sum(scored.sample.num_tokens for scored in group)
            yield block

    @property
    def distinct_share(self) -> float | None:
        """Share of the samples whose text differs from the prompt's earlier ones."""
        return self.distinct / self.samples if self.samples else None

    @property
    def mean_answer_tokens(self) -> float | None:
        """Tokens per sample."""
        return self.tokens / self.samples if self.samples else None
