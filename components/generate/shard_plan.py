"""Plan of a shard: its prompts, its batches, its engine, and what its result depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import JsonValue

from components.canonical import derived_seed
from components.contracts.recipe import EngineName
from components.contracts.rows import Prompt
from components.errors import UserError
from components.generate.batches import Ask, batches_of
from components.generate.engines.choice import batch_rows, choose_engine
from components.generate.hint_prompts import hard_prompts, hinted, last_selection
from components.generate.round_prompts import round_prompts
from components.runtime.campaign import Campaign
from components.runtime.code_digest import code_digest
from components.runtime.context import Context
from components.runtime.receipts import Receipt, digests_of, read_receipt, step_key

Batches = dict[int, list[Prompt]]
"""Number of a batch in the round → its prompts."""


@dataclass(frozen=True)
class ShardPlan:
    """Prompts, batches and engine of a shard, with everything that its step key depends on."""

    campaign: Campaign
    model: Receipt
    """Holds the checkpoints that answer: the champion's, or the teacher's."""
    shard: int
    engine: EngineName
    engine_reason: str
    prompts: list[Prompt]
    """Prompts of this shard, in the order of the round."""
    batches: Batches
    """Batches of this shard."""
    selection: Receipt | None
    """Selection with the pool of too-hard prompts; None without one."""
    hard: list[Prompt]
    """Prompts of this shard to try with a hint (as they are without it), in the pool's order."""
    hinted_batches: Batches
    """The same prompts with their hint. The numbers go on from those of all other batches."""

    @property
    def inputs(self) -> dict[str, Receipt]:
        """Receipts the result depends on."""
        # A teacher's answers are the same whichever champion learns from them.
        role = (
            "champion" if self.campaign.recipe.generate.teacher is None else "teacher"
        )
        inputs = {"prepare": self.campaign.prepared, role: self.model}
        # Without hints the selection changes nothing, so it must not change the key either.
        if self.selection is not None:
            inputs["select"] = self.selection
        return inputs

    @property
    def indices(self) -> range:
        """Sample indices without a hint."""
        return range(self.campaign.state.plan.samples_per_prompt)

    @property
    def hinted_indices(self) -> range:
        """Sample indices with a hint; empty without hints."""
        # They go on from those without a hint, so that no sample has another's index or seed.
        first = self.campaign.state.plan.samples_per_prompt
        hints = self.campaign.recipe.generate.hints
        count = (hints.samples_per_prompt or first) if hints is not None else 0
        return range(first, first + count)

    @property
    def config(self) -> dict[str, JsonValue]:
        """Settings the result depends on."""
        recipe = self.campaign.recipe
        plan = self.campaign.state.plan
        exclude: dict[str, bool | set[str]] = {
            # These two may differ from round to round: the plan's values stand below.
            "temperature": True,
            "samples_per_prompt": True,
            # `auto` is no engine: the one that it came to stands below.
            "engine": True,
            # The receipt of its model is an input, its system prompt stands below.
            "teacher": True,
            # These change when an endpoint is asked, and no answer.
            "endpoint": {"concurrency", "timeout_seconds", "max_retries"},
        }
        if recipe.generate.hints is None:
            exclude["hints"] = True
        written: dict[str, JsonValue] = {}
        if recipe.generate.source == "model":
            # By it prompts are held against those of evaluation splits.
            written["contamination"] = recipe.select.contamination
        else:
            exclude["own_prompts"] = True
        if self.engine != "vllm":
            exclude["vllm"] = True
        if recipe.train.method == "raft":
            written["log_probabilities"] = True
        return self.campaign.config(
            section=recipe.generate.model_dump(mode="json", exclude=exclude),
            engine=self.engine,
            num_peers=self.num_models,
            shard=self.shard,
            round=self.campaign.next_round,
            temperature=plan.temperature,
            samples_per_prompt=plan.samples_per_prompt,
            level=plan.level,
            system_prompt=recipe.answering_system_prompt,
            **written,
        )

    @property
    def num_models(self) -> int:
        """Number of models that share the samples: a teacher is one, however many learn from it."""
        recipe = self.campaign.recipe
        return recipe.train.num_peers if recipe.generate.teacher is None else 1

    @property
    def key(self) -> str:
        """The step key."""
        code = code_digest("generate")
        seed = self.campaign.recipe.seed
        return step_key("generate", code, self.config, digests_of(self.inputs), seed)

    def with_written(self, written: Sequence[Prompt]) -> ShardPlan:
        """Return the plan with prompts that the model wrote, before the others.

        The key is the same: they follow from what it is made of.
        """
        prompts = [*written, *self.prompts]
        batches = dict(enumerate(_round_batches(self.campaign, self.engine, prompts)))
        return replace(self, prompts=prompts, batches=batches)

    def asks_of_peer(self, peer: int, num_peers: int) -> dict[int, list[Ask]]:
        """Return number of a batch → its requests to one peer, without those that have none."""
        # Each peer answers its share of the indices of every prompt: agreement is then a vote across
        # models that were trained from several seeds.
        asks_by_batch: dict[int, list[Ask]] = {}
        for batches, indices in (
            (self.batches, self.indices),
            (self.hinted_batches, self.hinted_indices),
        ):
            for number, prompts in batches.items():
                asks = [
                    self._ask(prompt, index)
                    for prompt in prompts
                    for index in indices
                    if index % num_peers == peer
                ]
                if asks:
                    asks_by_batch[number] = asks
        return asks_by_batch

    def _ask(self, prompt: Prompt, index: int) -> Ask:
        # The shard is not part of the seed: another number of shards draws the same samples.
        campaign = self.campaign
        seed = derived_seed(campaign.recipe.seed, campaign.next_round, prompt.id, index)
        return Ask(prompt, index, seed)


def plan_shard(context: Context, campaign: Campaign, shard: int) -> ShardPlan:
    """Return the plan of a shard of the round that begins.

    Args:
        context: Store of the campaign.
        campaign: Recipe and state.
        shard: Number of the shard, from 0.

    Raises:
        UserError: The round has no prompts, or fewer than shards.
    """
    model = read_receipt(context, campaign.teacher_ref or campaign.champion_ref)
    section = campaign.recipe.generate
    engine, engine_reason = choose_engine(context, campaign, model)
    prompts = round_prompts(context, campaign)
    round_batches = _round_batches(campaign, engine, prompts)
    batches = _batches_of_shard(dict(enumerate(round_batches)), shard, section.shards)
    if not batches and section.source != "model":
        raise UserError(
            f"round {campaign.next_round}: shard {shard} of {section.shards} has no prompts: "
            "lower shards"
        )
    selection = last_selection(context, campaign)
    hard = hard_prompts(context, campaign, selection)
    all_hinted = _hinted_batches(
        campaign, engine, hard, first_number=len(round_batches)
    )
    hinted_batches = _batches_of_shard(all_hinted, shard, section.shards)
    return ShardPlan(
        campaign=campaign,
        model=model,
        shard=shard,
        engine=engine,
        engine_reason=engine_reason,
        prompts=_prompts_in(batches, prompts),
        batches=batches,
        selection=selection,
        hard=_prompts_in(hinted_batches, hard),
        hinted_batches=hinted_batches,
    )


def _round_batches(
    campaign: Campaign, engine: EngineName, prompts: Sequence[Prompt]
) -> list[list[Prompt]]:
    return batches_of(
        prompts,
        samples_per_prompt=campaign.state.plan.samples_per_prompt,
        batch_size=batch_rows(engine, campaign),
        shards=campaign.recipe.generate.shards,
    )


def _hinted_batches(
    campaign: Campaign, engine: EngineName, hard: Sequence[Prompt], first_number: int
) -> Batches:
    """Return the batches of hinted prompts of the round, with numbers from `first_number` on."""
    section = campaign.recipe.generate
    if section.hints is None or not hard:
        return {}
    # Batches of their own: in a batch with others they would change how those are rounded.
    batches = batches_of(
        [hinted(prompt, section.hints.template) for prompt in hard],
        samples_per_prompt=(
            section.hints.samples_per_prompt or campaign.state.plan.samples_per_prompt
        ),
        batch_size=batch_rows(engine, campaign),
        shards=section.shards,
    )
    return dict(enumerate(batches, first_number))


def _batches_of_shard(batches: Batches, shard: int, num_shards: int) -> Batches:
    # Every n-th one: batches are ordered by length, so all shards get short and long prompts.
    return dict(list(batches.items())[shard::num_shards])


def _prompts_in(batches: Batches, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return the prompts that are in these batches, in the order of `prompts`."""
    ids = {prompt.id for batch in batches.values() for prompt in batch}
    return [prompt for prompt in prompts if prompt.id in ids]
