"""The pool of prompts that no sample answers right, and their samples with a hint.

The pool is carried from round to round: each selection writes all of it as it stands after its
round, so the next round reads one file.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from components.contracts.artifacts import DROPPED, HINTED_PREFIX, TOO_HARD
from components.contracts.rows import HardPrompt, TrainingRow, read_rows, write_rows
from components.contracts.summaries.select import HintPool
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch
from components.select.scored_samples import Block, ScoredSample, by_prompt
from components.select.sorted_samples import gather
from components.verifiers import reference_answer

NOT_RIGHT = ("unfinished", "empty", "verifier")
"""Reasons for a drop that say an answer is not right. An answer that was dropped for another reason
has passed the verifier."""


def with_hinted(
    blocks: Iterator[Block], context: Context, shards: Iterable[Receipt], folder: Path
) -> Iterator[Block]:
    """Yield the samples of a round, prompt by prompt, hinted ones after the others of a prompt.

    Args:
        blocks: The samples without a hint.
        context: Store of the shards.
        shards: Receipts of generate.
        folder: An empty folder.
    """
    hinted_groups = (
        [replace(scored, hinted=True) for scored in group]
        for group in _groups(gather(context, shards, folder, prefix=HINTED_PREFIX))
    )
    # heapq.merge is stable: of equal prompt ids the group of the first argument comes first.
    yield from heapq.merge(
        _groups(blocks), hinted_groups, key=lambda group: group[0].prompt.id
    )


def _groups(blocks: Iterator[Block]) -> Iterator[list[ScoredSample]]:
    for block in blocks:
        yield from by_prompt(block)


@dataclass
class Pool:
    """Prompts of a round that were too hard: the verifier accepted no sample without a hint.

    They wait for a hint until a sample, with a hint or without, is right.
    """

    answerable: set[str] = field(default_factory=set)
    """Ids of the prompts that were sampled without a hint and have a reference answer."""
    tried: set[str] = field(default_factory=set)
    """Ids of the prompts that were sampled with a hint."""

    def watch(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """Yield the blocks unchanged; note their prompts."""
        for block in blocks:
            for group in by_prompt(block):
                prompt = group[0].prompt
                if group[0].hinted:
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
        """Write the pool as it stands after this round; return its counts for the summary.

        Prompts that were hinted in vain least often come first, among them the newest.

        Args:
            context: Store of `last`.
            last: Selection of the round before, with the pool so far; None in the first round.
            round_number: This round.
            folder: Holds `dropped.jsonl` of this round; the pool is written there.
            accepted: Accepted rows of this round.
        """
        failed, solved = _failed_and_solved(folder / DROPPED)
        solved_with_hint = set[str]()
        for row in accepted:
            ids = solved_with_hint if row.provenance.get("hinted") else solved
            ids.add(row.provenance["prompt_id"])
        # Without a reference answer there is nothing to hint at.
        too_hard = (failed & self.answerable) - solved
        answered = solved | solved_with_hint
        earlier: dict[str, HardPrompt] = {}
        if last is not None and TOO_HARD in last.objects:
            rows = read_rows(fetch(context, last, TOO_HARD), HardPrompt)
            earlier = {row.prompt_id: row for row in rows}
        # Prompts that were solved in this round, with a hint or without, leave the pool.
        waiting = []
        for identity in {*earlier, *too_hard} - answered:
            num_hints = earlier[identity].hints if identity in earlier else 0
            waiting.append(
                HardPrompt(
                    prompt_id=identity,
                    round=round_number
                    if identity in too_hard
                    else earlier[identity].round,
                    hints=num_hints + (identity in self.tried),
                )
            )
        waiting.sort(key=lambda row: (row.hints, -row.round, row.prompt_id))
        write_rows(folder / TOO_HARD, waiting)
        return HintPool(
            found=len(too_hard),
            answered=len(earlier.keys() & answered),
            waiting=len(waiting),
        )


def _failed_and_solved(dropped: Path) -> tuple[set[str], set[str]]:
    """Return (failed, solved) prompt ids read from `dropped.jsonl`; hinted samples are skipped.

    Failed: a sample was not right. Solved: a sample was right, or may not be trained on at all.
    """
    failed: set[str] = set()
    solved: set[str] = set()
    with dropped.open("rb") as file:
        for line in file:
            # Not by the row's model: of many rows only three fields are needed.
            row = json.loads(line)
            sample = row["row"]
            if sample.get("hinted"):
                continue
            ids = failed if row["reason"] in NOT_RIGHT else solved
            ids.add(sample["prompt_id"])
    return failed, solved
