"""Verdicts of people on the answers of a round, beside those of the automatic quality measure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from components.contracts.artifacts import SAMPLES
from components.contracts.recipe import SelectSection
from components.contracts.reviews import ReviewBatch, answer_id
from components.contracts.rows import Sample, read_rows
from components.contracts.summaries.select import Agreement
from components.errors import UserError
from components.runtime.campaign import Campaign
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch
from components.runtime.reviews import read_batches, verdicts_in
from components.select.scored_samples import Block, ScoredSample
from components.verifiers import Room, verify_all


def people_batches(
    context: Context, campaign: Campaign, shards: Sequence[Receipt]
) -> list[ReviewBatch]:
    """Return what people said of the round's answers; nothing if the recipe does not ask them.

    Raises:
        UserError: The round waits for people.
    """
    section = campaign.recipe.select.people
    if section is None:
        return []
    number = campaign.next_round
    run_id = campaign.state.run_id
    batches = read_batches(context, run_id, number)
    verdicts = verdicts_in(context, batches)
    answers = {
        answer_id(sample.prompt_id, sample.text)
        for shard in shards
        for sample in read_rows(fetch(context, shard, SAMPLES), Sample)
    }
    marked = len(answers & verdicts.keys())
    # Of a weak model there may be fewer answers than are asked for.
    needed = min(section.min_verdicts, len(answers))
    if marked < needed:
        raise UserError(
            f"round {number} waits for people: {marked} of its {len(answers)} answers are marked, "
            f"and select.people asks for {needed}: `review export {run_id}`, mark them, "
            f"`review import {run_id} FILE`, and run again, which goes on here"
        )
    return batches


def automatic_verdicts(
    section: SelectSection, samples: Sequence[ScoredSample], room: Room
) -> list[bool]:
    """Return what the verifier says of answers or, without one, whether they won the vote."""
    if section.verifier:
        return verify_all([(scored.prompt, scored.text) for scored in samples], room)
    return [
        scored.is_majority and scored.vote_share >= section.min_vote_share
        for scored in samples
    ]


class MarkedAnswers:
    """Collects the answers that people marked, as the samples pass by."""

    def __init__(self, verdicts: Mapping[str, bool]) -> None:
        self._verdicts = verdicts
        self._marked: dict[str, ScoredSample] = {}

    def watch(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Yield the blocks as they are."""
        for block in blocks:
            for scored in block:
                identity = answer_id(scored.prompt.id, scored.sample.text)
                if identity in self._verdicts and not scored.hinted:
                    self._marked.setdefault(identity, scored)
            yield block

    def agreement(self, section: SelectSection, room: Room) -> Agreement | None:
        """Return how far people and the automatic measure agree; None without a verdict."""
        if not self._marked:
            return None
        automatic = automatic_verdicts(section, list(self._marked.values()), room)
        people = [self._verdicts[identity] for identity in self._marked]
        return agreement_of(people, automatic)


def agreement_of(people: Sequence[bool], automatic: Sequence[bool]) -> Agreement:
    """Return the agreement of two verdicts on the same answers, at least one."""
    num = len(people)
    num_same = sum(one == other for one, other in zip(people, automatic, strict=True))
    observed = num_same / num
    share_people = sum(people) / num
    share_automatic = sum(automatic) / num
    by_chance = share_people * share_automatic + (1 - share_people) * (
        1 - share_automatic
    )
    # Where both say the same of every answer, chance alone would agree as well (Cohen 1960).
    kappa = None if by_chance == 1.0 else (observed - by_chance) / (1 - by_chance)
    return Agreement(
        answers=num,
        right=sum(people),
        automatic_right=sum(automatic),
        accuracy=observed,
        kappa=kappa,
    )
