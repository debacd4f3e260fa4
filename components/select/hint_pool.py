"""Prompts that no sample answers right: a pool that is carried from round to round, and their
samples with a hint.

Each selection writes the whole pool as it stands after its round, so the next round reads one file.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from components.contracts.artifacts import DROPPED, HINTED_PREFIX, TOO_HARD
from components.contracts.rows import HardPrompt, TrainingRow, read_rows, write_rows
from components.contracts.summaries.select import HintPool
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch
from components.select.scored_samples import Block, ScoredSample, by_prompt
from components.select.sorted_samples import gather
from components.verifiers import reference_answer

NOT_RIGHT = ("unfinished", "empty", "verifier")
"""Reasons for a drop that say an answer is not right. One that fell later has passed the verifier.
"""


def with_hinted(
    blocks: Iterator[Block], context: Context, shards: Iterable[Receipt], folder: Path
) -> Iterator[Block]:
    """The round's samples, prompt by prompt, hinted ones after the others of theirs. `folder` is
    an empty one."""
    helped = gather(context, shards, folder, prefix=HINTED_PREFIX)
    marked = ([replace(one, hinted=True) for one in own] for own in _groups(helped))
    yield from heapq.merge(_groups(blocks), marked, key=lambda own: own[0].prompt.id)


def _groups(blocks: Iterator[Block]) -> Iterator[list[ScoredSample]]:
    for block in blocks:
        yield from by_prompt(block)


@dataclass
class Pool:
    """Which prompts of a round were too hard: of none of their samples without a hint did the
    verifier accept any. They wait for a hint until a sample, with it or without it, is right."""

    answerable: set[str] = field(default_factory=set)
    """Ids of the prompts asked without a hint whose verifier holds an answer."""
    tried: set[str] = field(default_factory=set)
    """Ids of the prompts asked with a hint."""

    def watch(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """The same blocks."""
        for block in blocks:
            for own in by_prompt(block):
                prompt = own[0].prompt
                if own[0].hinted:
                    self.tried.add(prompt.id)
                elif reference_answer(prompt):
                    self.answerable.add(prompt.id)
            yield block

    def carry_on(
        self,
        context: Context,
        last: Receipt | None,
        round_number: int,
        folder: Path,
        accepted: Iterable[TrainingRow],
    ) -> HintPool:
        """Write the pool after this round to `folder`, from that of the last selection and what was
        accepted and (in `folder`) dropped: those least often hinted in vain first, among them the
        newest."""
        failed, right = _verdicts(folder / DROPPED)
        helped = set[str]()
        for row in accepted:
            (helped if row.provenance.get("hinted") else right).add(row.provenance["prompt_id"])
        found = (failed & self.answerable) - right
        answered = right | helped
        before: dict[str, HardPrompt] = {}
        if last is not None and TOO_HARD in last.objects:
            before = {
                row.prompt_id: row for row in read_rows(fetch(context, last, TOO_HARD), HardPrompt)
            }
        waiting = [
            HardPrompt(
                prompt_id=identity,
                round=round_number if identity in found else before[identity].round,
                hints=(before[identity].hints if identity in before else 0)
                + (identity in self.tried),
            )
            for identity in {*before, *found} - answered
        ]
        waiting.sort(key=lambda row: (row.hints, -row.round, row.prompt_id))
        write_rows(folder / TOO_HARD, waiting)
        return HintPool(
            found=len(found), answered=len(before.keys() & answered), waiting=len(waiting)
        )


def _verdicts(dropped: Path) -> tuple[set[str], set[str]]:
    """Ids of prompts with a wrong sample, and of those with one that was right or that may not be
    trained on at all; of samples without a hint, as far as they were dropped (those of the audit
    never are)."""
    failed, right = set[str](), set[str]()
    with dropped.open("rb") as file:
        for line in file:
            row: dict[str, Any] = json.loads(line)
            if not row["row"].get("hinted"):
                (failed if row["reason"] in NOT_RIGHT else right).add(row["row"]["prompt_id"])
    return failed, right
