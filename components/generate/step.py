"""Sample answers from the champion: one shard of one round's prompts."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.canonical import derived_seed
from components.contracts import artifacts
from components.contracts.recipe import EngineName
from components.contracts.rows import Prompt, Sample, read_rows, write_rows
from components.contracts.summaries import GenerateSummary
from components.contracts.summaries.generate import EngineFacts, SampleCounts
from components.errors import UserError
from components.generate.batches import Ask, SavedBatches, batches_of
from components.generate.engines.choice import (
    Engine,
    batch_rows,
    choose_engine,
    open_engine,
)
from components.generate.hint_prompts import hard_prompts, hinted, last_selection
from components.runtime.campaign import Campaign, checkpoint_name, load_campaign
from components.runtime.code_digest import code_digest
from components.runtime.context import Context
from components.runtime.receipts import (
    Receipt,
    commit_once,
    digests_of,
    fetch,
    fetch_folder,
    read_receipt,
    step_key,
)


@dataclass(frozen=True)
class GenerateInputs:
    """Which shard of which round."""

    state: str
    """URI of the state the round begins from."""
    shard: int
    """0 … recipe.generate.shards - 1."""


@dataclass(frozen=True)
class Work:
    """What is to be sampled, and its address."""

    campaign: Campaign
    champion: Receipt
    shard: int
    engine: EngineName
    why: str
    """Why this engine."""
    prompts: list[Prompt]
    """Of this shard, in the order of the round."""
    batches: dict[int, list[Prompt]]
    """Of this shard, by their number in the round."""
    selection: Receipt | None
    """Where the pool of too-hard prompts is."""
    hard: list[Prompt]
    """Of this shard, to be tried with a hint, as they are without it; in the order of the pool."""
    hinted_batches: dict[int, list[Prompt]]
    """The same as the model sees them; their numbers go on from those of the other batches."""

    @property
    def inputs(self) -> dict[str, Receipt]:
        """Receipts the result depends on."""
        pool = {} if self.selection is None else {"select": self.selection}
        return {"prepare": self.campaign.prepared, "champion": self.champion, **pool}

    @property
    def hinted_indices(self) -> range:
        """Sample indices with a hint: they go on from those without, so that no sample has
        another's index or seed."""
        hints, first = (
            self.campaign.recipe.generate.hints,
            self.campaign.state.plan.samples_per_prompt,
        )
        return range(
            first, first + ((hints.samples_per_prompt or first) if hints is not None else 0)
        )

    @property
    def config(self) -> dict[str, Any]:
        """The part of the recipe the result depends on."""
        recipe, plan = self.campaign.recipe, self.campaign.state.plan
        # `engine` is what the recipe's word for it came to; how an endpoint is asked changes no
        # answer.
        left_out: dict[str, Any] = dict.fromkeys(
            ("temperature", "samples_per_prompt", "engine"), True
        )
        if recipe.generate.hints is None:
            left_out["hints"] = True
        how = {"concurrency", "timeout_seconds", "max_retries"}
        return self.campaign.config(
            section=recipe.generate.model_dump(mode="json", exclude={**left_out, "endpoint": how}),
            engine=self.engine,
            num_peers=recipe.train.num_peers,
            shard=self.shard,
            round=self.campaign.next_round,
            temperature=plan.temperature,
            samples_per_prompt=plan.samples_per_prompt,
            level=plan.level,
            system_prompt=recipe.model.system_prompt,
        )

    @property
    def key(self) -> str:
        """The step key."""
        code = code_digest("generate")
        return step_key(
            "generate", code, self.config, digests_of(self.inputs), self.campaign.recipe.seed
        )


def run(inputs: GenerateInputs, context: Context) -> Receipt:
    """Write `samples.jsonl` and `prompts.jsonl` of this shard, with `generate.hints` also
    `hinted_samples.jsonl` and `hinted_prompts.jsonl` (the prompts without their hint).

    A sample's seed derives from (campaign seed, round, prompt, sample index), and the round is
    divided into batches before these are divided among the shards: neither the number of shards nor
    a shard that was killed and goes on after its last finished batch changes a sample. Raises
    UserError if the round has no prompts or fewer than shards, or for an engine that is not
    installed or refuses the request; Transient where an endpoint fails for now.
    """
    work = _work(inputs, context)
    saved = SavedBatches(context, work.key)

    def in_folder(folder: Path) -> GenerateSummary:
        context.progress.note(f"engine {work.engine}: {work.why}")
        samples, engine_facts = _sample(context, work, saved)
        write_rows(folder / artifacts.PROMPTS, work.prompts)
        hinted_indices = work.hinted_indices
        plain = [sample for sample in samples if sample.index not in hinted_indices]
        write_rows(folder / artifacts.SAMPLES, plain)
        hinted_counts = None
        if work.campaign.recipe.generate.hints is not None:
            helped = [sample for sample in samples if sample.index in hinted_indices]
            write_rows(folder / artifacts.HINTED_PROMPTS, work.hard)
            write_rows(folder / artifacts.HINTED_SAMPLES, helped)
            hinted_counts = _counted(work.hard, helped)
        return _summary(work, _counted(work.prompts, plain), engine_facts, hinted_counts)

    receipt = commit_once(
        context,
        work.campaign.task("generate", f"-s{inputs.shard}"),
        "generate",
        config=work.config,
        inputs=work.inputs,
        seed=work.campaign.recipe.seed,
        work=in_folder,
    )
    saved.remove()
    return receipt


def _work(inputs: GenerateInputs, context: Context) -> Work:
    campaign = load_campaign(context, inputs.state)
    champion = read_receipt(context, campaign.champion_ref)
    section = campaign.recipe.generate
    engine, why = choose_engine(context, campaign, champion)
    prompts = round_prompts(context, campaign)
    batches = batches_of(
        prompts,
        samples_per_prompt=campaign.state.plan.samples_per_prompt,
        batch_size=batch_rows(engine, campaign),
        shards=section.shards,
    )
    own = _own(dict(enumerate(batches)), inputs.shard, section.shards)
    if not own:
        raise UserError(
            f"round {campaign.next_round}: shard {inputs.shard} of {section.shards} has no prompts: lower shards"
        )
    selection = last_selection(context, campaign)
    hard = hard_prompts(context, campaign, selection)
    with_hints = _own(
        _hinted_batches(campaign, engine, hard, len(batches)), inputs.shard, section.shards
    )
    return Work(
        campaign,
        champion,
        inputs.shard,
        engine,
        why,
        _those_in(own, prompts),
        own,
        selection,
        _those_in(with_hints, hard),
        with_hints,
    )


def _hinted_batches(
    campaign: Campaign, engine: EngineName, hard: Sequence[Prompt], first: int
) -> dict[int, list[Prompt]]:
    """Batches of what the model sees of these prompts, by numbers from `first` on: apart from those
    without a hint, so that hints change no other sample."""
    section = campaign.recipe.generate
    if section.hints is None or not hard:
        return {}
    samples = section.hints.samples_per_prompt or campaign.state.plan.samples_per_prompt
    seen = [hinted(prompt, section.hints.template) for prompt in hard]
    batches = batches_of(
        seen,
        samples_per_prompt=samples,
        batch_size=batch_rows(engine, campaign),
        shards=section.shards,
    )
    return dict(enumerate(batches, first))


def _own(batches: dict[int, list[Prompt]], shard: int, shards: int) -> dict[int, list[Prompt]]:
    """The batches of a shard, by number."""
    return dict(list(batches.items())[shard::shards])


def _those_in(batches: dict[int, list[Prompt]], prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts that are in these batches, in their order."""
    ids = {prompt.id for batch in batches.values() for prompt in batch}
    return [prompt for prompt in prompts if prompt.id in ids]


def _summary(
    work: Work, counts: SampleCounts, engine_facts: EngineFacts, hinted: SampleCounts | None
) -> GenerateSummary:
    campaign, plan = work.campaign, work.campaign.state.plan
    return GenerateSummary(
        round=campaign.next_round,
        shard=work.shard,
        shards=campaign.recipe.generate.shards,
        temperature=plan.temperature,
        level=plan.level,
        champion=work.champion.ref,
        engine=work.engine,
        engine_reason=work.why,
        batches=len(work.batches),
        batch_size=campaign.recipe.generate.batch_size,
        hinted=hinted,
        **dict(counts),
        **dict(engine_facts),
    )


def _counted(prompts: Sequence[Prompt], samples: Sequence[Sample]) -> SampleCounts:
    num_finished = sum(sample.finished for sample in samples)
    return SampleCounts(
        prompts=len(prompts),
        generated=len(samples),
        tokens=sum(sample.num_tokens for sample in samples),
        finished_share=num_finished / max(1, len(samples)),
        truncated=len(samples) - num_finished,
        distinct_answers=len({(sample.prompt_id, sample.text) for sample in samples}),
    )


def round_prompts(context: Context, campaign: Campaign) -> list[Prompt]:
    """The prompts of this round: the next window of the unlabelled pool, of the plan's length where
    there is a ladder, then the audit split, on which `select` measures its filters.

    Rounds walk through the pool and begin again at its end, so the first rounds see prompts no
    round has seen.
    """
    level = campaign.state.plan.level
    pool, audit = (_asked(context, campaign, split) for split in ("unlabelled", "audit"))
    if not pool:
        raise UserError(
            f"round {campaign.next_round}: no unlabelled prompts (level {level}); give data with prompts to answer"
        )
    # The pool comes task by task; a fixed shuffle lets every window hold all of them.
    pool.sort(key=lambda prompt: derived_seed(campaign.recipe.seed, "pool", prompt.id))
    count = min(campaign.recipe.generate.prompts_per_round, len(pool))
    begin = (campaign.next_round - 1) * count % len(pool)
    return (pool + pool)[begin : begin + count] + audit


def _asked(context: Context, campaign: Campaign, split: str) -> list[Prompt]:
    """The prompts of a split that may be asked at the plan's level; none if the data has no such
    split."""
    name, level = artifacts.split_file(split), str(campaign.state.plan.level)
    if name not in campaign.prepared.objects:
        return []
    rows = read_rows(fetch(context, campaign.prepared, name), Prompt)
    return [prompt for prompt in rows if prompt.tags.get("length", level) == level]


def _sample(context: Context, work: Work, saved: SavedBatches) -> tuple[list[Sample], EngineFacts]:
    """All samples of the shard, in order of prompt and index, and what the engine tells of itself."""
    # An endpoint is one model, however many peers answer on their own.
    peers = 1 if work.engine == "openai" else work.campaign.recipe.train.num_peers
    samples: list[Sample] = []
    engine_facts = EngineFacts()
    for peer in range(peers):
        folder = (
            None
            if work.engine == "openai"
            else fetch_folder(context, work.champion, checkpoint_name(peer))
        )
        try:
            engine = open_engine(work.engine, context, work.campaign, folder)
            engine_facts = engine.about
            samples += _sample_peer(context, work, saved, engine, peer, peers)
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
    order = {prompt.id: place for place, prompt in enumerate([*work.hard, *work.prompts])}
    return sorted(samples, key=lambda item: (order[item.prompt_id], item.index)), engine_facts


def _sample_peer(
    context: Context, work: Work, saved: SavedBatches, engine: Engine, peer: int, peers: int
) -> list[Sample]:
    """What one peer's model is to answer: its indices of every prompt, batch after batch."""
    asks = _asks(work, peer, peers)
    total = sum(len(own) for own in asks.values())
    samples: list[Sample] = []
    tokens, seconds = 0, 0.0
    for number, own in asks.items():
        name = f"peer-{peer}-batch-{number:05d}"
        found = saved.load(name, own)
        if found is None:
            begun, before, rate = (
                context.clock(),
                len(samples),
                tokens / seconds if seconds else 0.0,
            )
            report = functools.partial(_report, context, before, total, rate)
            found = engine.answer(own, report)
            seconds, tokens = (
                seconds + context.clock() - begun,
                tokens + sum(one.num_tokens for one in found),
            )
            saved.save(name, own, found)
        samples += found
    context.charge("compute_seconds", seconds)
    context.charge("tokens_generated", tokens)
    context.costs["sampling_tokens_per_second"] = context.costs["tokens_generated"] / max(
        context.costs["compute_seconds"], 1e-9
    )
    return samples


def _report(context: Context, before: int, total: int, rate: float, done: int) -> None:
    context.progress.update(before + done, total, rate, "answers")


def _asks(work: Work, peer: int, peers: int) -> dict[int, list[Ask]]:
    """What a peer is to answer, by batch: its indices of every prompt, without and with a hint."""
    campaign = work.campaign
    plain = range(campaign.state.plan.samples_per_prompt)
    asks = {
        number: [
            Ask(
                prompt,
                index,
                derived_seed(campaign.recipe.seed, campaign.next_round, prompt.id, index),
            )
            for prompt in batch
            for index in indices
            if index % peers == peer
        ]
        for batches, indices in ((work.batches, plain), (work.hinted_batches, work.hinted_indices))
        for number, batch in batches.items()
    }
    return {number: own for number, own in asks.items() if own}
