"""Wrong samples as rows of their own, for an objective that takes right and wrong answers apart
(KTO 2402.01306): `wrong.jsonl`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from components.contracts.artifacts import ACCEPTED, DROPPED, PROMPTS, WRONG
from components.contracts.rows import (
    Prompt,
    TrainingRow,
    answered,
    read_rows,
    write_rows,
)
from components.runtime.campaign import Campaign
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch
from components.select.mix import accumulate, weigh
from components.select.row_files import RowFile
from components.select.scored_samples import row_key
from components.select.worse_answers import worse_answers


def write_wrong(
    context: Context,
    campaign: Campaign,
    folder: Path,
    shards: Sequence[Receipt],
    earlier: Sequence[Receipt],
    *,
    evaluation_ids: frozenset[str],
    labelled_keys: frozenset[int],
) -> int:
    """Write the wrong samples of this round and of earlier ones; return the number of rows.

    Args:
        context: Of the step.
        campaign: Of the round.
        folder: Has `accepted.jsonl` and `dropped.jsonl`, and gets `wrong.jsonl`.
        shards: Receipts of generate.
        earlier: Selections of earlier rounds, the oldest first.
        evaluation_ids: Ids of the evaluation prompts.
        labelled_keys: `row_key` of the labelled rows.
    """
    section = campaign.recipe.select
    accepted = RowFile(folder / ACCEPTED)
    # A verifier or a vote may be wrong about an answer that a labelled row gives.
    right_keys = labelled_keys | {
        row_key(row.prompt, row.completion) for row in accepted
    }
    newest = list(
        wrong_rows(
            worse_answers(folder / DROPPED),
            _prompts(context, shards),
            round_number=campaign.next_round,
            right_keys=right_keys,
        )
    )
    older: list[TrainingRow] = []
    if earlier and WRONG in earlier[-1].objects and not section.unsafe_replace:
        # The last round's file has those of all rounds before it.
        earlier_rows = RowFile(fetch(context, earlier[-1], WRONG))
        older = list(
            accumulate(
                earlier_rows,
                newest,
                evaluation_ids=evaluation_ids,
                labelled_keys=right_keys,
                left_out=Counter(),
            )
        )
    rows = weigh(
        [],
        older,
        newest,
        labelled_share=None if section.union else 0.0,
        newest_share=section.newest_share,
    )
    return write_rows(folder / WRONG, rows)


def wrong_rows(
    answers: Mapping[str, list[str]],
    prompts: Iterable[Prompt],
    *,
    round_number: int,
    right_keys: frozenset[int],
) -> Iterator[TrainingRow]:
    """Yield each wrong answer as a row, in the order of prompt ids.

    Args:
        answers: Prompt id → wrong answers.
        prompts: The prompts of the round, in any order; those without wrong answers are passed over.
        round_number: The round.
        right_keys: `row_key` of right answers, which are left out.
    """
    by_id = {prompt.id: prompt for prompt in prompts if prompt.id in answers}
    for identity in sorted(by_id):
        prompt = by_id[identity]
        for number, text in enumerate(answers[identity]):
            if row_key(prompt.text, text) in right_keys:
                continue
            yield TrainingRow(
                id=f"{identity}-r{round_number}-wrong-{number}",
                prompt=prompt.text,
                completion=text,
                conversation=answered(prompt, text),
                wrong=True,
                source="self",
                round=round_number,
                tags=prompt.tags,
                is_text=prompt.is_text,
            )


def _prompts(context: Context, shards: Sequence[Receipt]) -> Iterator[Prompt]:
    """Yield the prompts of all shards, as they are without a hint."""
    for shard in shards:
        yield from read_rows(fetch(context, shard, PROMPTS), Prompt)
