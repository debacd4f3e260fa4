"""Sample answers from the champion, or from a teacher: one shard of one round's prompts."""

from __future__ import annotations

import functools
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.contracts import artifacts
from components.contracts.rows import Prompt, Sample, write_rows
from components.contracts.summaries import GenerateSummary
from components.contracts.summaries.generate import (
    EngineFacts,
    SampleCounts,
    WrittenPrompts,
)
from components.generate.batches import Ask, SavedBatches
from components.generate.engines.choice import Engine, batch_rows, open_engine
from components.generate.own_prompts import (
    Written,
    known_prompts,
    sift,
    writing_asks,
    writing_campaign,
)
from components.generate.shard_plan import ShardPlan, plan_shard
from components.runtime.campaign import Campaign, checkpoint_in, load_campaign
from components.runtime.context import Context
from components.runtime.receipts import Receipt, commit_once, fetch_folder


@dataclass(frozen=True)
class GenerateInputs:
    """Inputs of the step."""

    state: str
    """URI of the state the round begins from."""
    shard: int
    """0 … recipe.generate.shards - 1."""


def run(inputs: GenerateInputs, context: Context) -> Receipt:
    """Write `samples.jsonl` and `prompts.jsonl` of this shard.

    With `generate.hints` also write `hinted_samples.jsonl` and `hinted_prompts.jsonl` (the prompts
    without their hint).

    With `generate.from: model` the prompts are written first; `rejected_prompts.jsonl` has those that
    are not asked.

    A sample's seed derives from (campaign seed, round, prompt, sample index), and the round is
    divided into batches before these are divided among the shards: neither the number of shards nor
    a shard that was killed and goes on after its last finished batch changes a sample.

    Raises:
        UserError: The round has no prompts or fewer than shards, or the engine is not installed or
            refuses the request.
        Transient: An endpoint fails for now.
    """
    plan = plan_shard(context, load_campaign(context, inputs.state), inputs.shard)
    saved = SavedBatches(context, plan.key)

    def work(folder: Path) -> GenerateSummary:
        context.progress.note(f"engine {plan.engine}: {plan.engine_reason}")
        written = _write_prompts(context, plan, saved)
        full_plan = plan if written is None else plan.with_written(written.prompts)
        samples, engine_facts = _sample(context, full_plan, saved)
        return _write(full_plan, samples, engine_facts, written, folder)

    receipt = commit_once(
        context,
        plan.campaign.task("generate", f"-s{inputs.shard}"),
        "generate",
        config=plan.config,
        inputs=plan.inputs,
        seed=plan.campaign.recipe.seed,
        work=work,
    )
    # Only now: until the receipt is committed, the saved batches are all that a retry can go on
    # from.
    saved.remove()
    return receipt


def _write(
    plan: ShardPlan,
    samples: Sequence[Sample],
    engine_facts: EngineFacts,
    written: Written | None,
    folder: Path,
) -> GenerateSummary:
    """Write prompts and samples to a folder; return the summary."""
    written_counts = None
    if written is not None:
        write_rows(folder / artifacts.REJECTED_PROMPTS, written.dropped)
        reasons = Counter(row.reason for row in written.dropped)
        written_counts = WrittenPrompts(
            tried=len(written.prompts) + len(written.dropped),
            asked=len(written.prompts),
            dropped=dict(sorted(reasons.items())),
        )
    plain = [sample for sample in samples if sample.index not in plan.hinted_indices]
    write_rows(folder / artifacts.PROMPTS, plan.prompts)
    write_rows(folder / artifacts.SAMPLES, plain)
    hinted_counts = None
    if plan.campaign.recipe.generate.hints is not None:
        hinted = [sample for sample in samples if sample.index in plan.hinted_indices]
        write_rows(folder / artifacts.HINTED_PROMPTS, plan.hard)
        write_rows(folder / artifacts.HINTED_SAMPLES, hinted)
        hinted_counts = _counts(plan.hard, hinted)
    campaign = plan.campaign
    taught_by = campaign.recipe.generate.teacher
    return GenerateSummary(
        round=campaign.next_round,
        shard=plan.shard,
        shards=campaign.recipe.generate.shards,
        temperature=campaign.state.plan.temperature,
        level=campaign.state.plan.level,
        champion=plan.model.ref if taught_by is None else "",
        teacher=plan.model.ref if taught_by is not None else "",
        engine=plan.engine,
        engine_reason=plan.engine_reason,
        batches=len(plan.batches),
        batch_size=campaign.recipe.generate.batch_size,
        hinted=hinted_counts,
        written=written_counts,
        # Samples with a hint count in `hinted` alone: they say nothing of what the model can do.
        **dict(_counts(plan.prompts, plain)),
        **dict(engine_facts),
    )


def _counts(prompts: Sequence[Prompt], samples: Sequence[Sample]) -> SampleCounts:
    # A prompt that an endpoint refuses says nothing about how answers end.
    answered = [sample for sample in samples if not sample.no_answer]
    # A piece of text may stop anywhere.
    texts = {prompt.id for prompt in prompts if prompt.is_text}
    num_finished = sum(
        sample.finished or sample.prompt_id in texts for sample in answered
    )
    return SampleCounts(
        prompts=len(prompts),
        generated=len(samples),
        tokens=sum(sample.num_tokens for sample in samples),
        finished_share=num_finished / max(1, len(answered)),
        truncated=len(answered) - num_finished,
        no_answer=len(samples) - len(answered),
        distinct_answers=len({(sample.prompt_id, sample.text) for sample in samples}),
    )


def _sample(
    context: Context, plan: ShardPlan, saved: SavedBatches
) -> tuple[list[Sample], EngineFacts]:
    """Return all samples of the shard, by prompt and index, and the facts about the engine."""
    # An endpoint is one model, however many peers answer on their own.
    num_peers = 1 if plan.engine == "openai" else plan.num_models
    samples: list[Sample] = []
    engine_facts = EngineFacts()
    for peer in range(num_peers):
        with _opened(context, plan, plan.campaign, peer) as engine:
            engine_facts = engine.about
            asks_by_batch = plan.asks_of_peer(peer, num_peers)
            samples += _sample_batches(
                context, saved, engine, f"peer-{peer}", asks_by_batch
            )
    positions = {
        prompt.id: position
        for position, prompt in enumerate([*plan.hard, *plan.prompts])
    }
    samples.sort(key=lambda sample: (positions[sample.prompt_id], sample.index))
    return samples, engine_facts


def _write_prompts(
    context: Context, plan: ShardPlan, saved: SavedBatches
) -> Written | None:
    """Return the prompts that the model writes for the round; None if they come from the data."""
    campaign = plan.campaign
    if campaign.recipe.generate.source != "model":
        return None
    known = known_prompts(context, campaign)
    asks = writing_asks(campaign, known)
    size = batch_rows(plan.engine, campaign)
    asks_by_batch = {
        begin // size: asks[begin : begin + size] for begin in range(0, len(asks), size)
    }
    with _opened(context, plan, writing_campaign(campaign), 0) as engine:
        samples = _sample_batches(context, saved, engine, "prompts", asks_by_batch)
    written = sift(context, campaign, samples, known)
    context.progress.note(
        f"prompts: {len(written.prompts)} of {len(samples)} written are asked"
    )
    return written


@contextmanager
def _opened(
    context: Context, plan: ShardPlan, campaign: Campaign, peer: int
) -> Iterator[Engine]:
    """Open the engine over a peer's checkpoint, which is deleted afterwards.

    Args:
        context: Store of the model.
        plan: Names engine and model.
        campaign: Sampling settings.
        peer: Number of the peer.
    """
    folder = None
    if plan.engine != "openai":
        folder = fetch_folder(context, plan.model, checkpoint_in(plan.model, peer))
    try:
        yield open_engine(plan.engine, context, campaign, folder)
    finally:
        # Checkpoints of all peers together may not fit on the disk.
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _sample_batches(
    context: Context,
    saved: SavedBatches,
    engine: Engine,
    prefix: str,
    asks_by_batch: dict[int, list[Ask]],
) -> list[Sample]:
    """Return the samples of one model, batch after batch.

    Args:
        context: Clock, costs and progress.
        saved: Batches that were finished before an interruption; new ones are saved there.
        engine: The model.
        prefix: Begin of the names of its saved batches.
        asks_by_batch: Number of a batch → its requests.
    """
    num_asks = sum(len(asks) for asks in asks_by_batch.values())
    samples: list[Sample] = []
    tokens = 0
    seconds = 0.0
    for number, asks in asks_by_batch.items():
        name = f"{prefix}-batch-{number:05d}"
        batch_samples = saved.load(name, asks)
        if batch_samples is None:
            # The rate is that of the batches sampled here: those that were saved cost no time.
            rate = tokens / seconds if seconds else 0.0
            report = functools.partial(_report, context, len(samples), num_asks, rate)
            start_seconds = context.clock()
            batch_samples = engine.answer(asks, report)
            seconds += context.clock() - start_seconds
            tokens += sum(sample.num_tokens for sample in batch_samples)
            saved.save(name, asks, batch_samples)
        samples += batch_samples
    context.charge("compute_seconds", seconds)
    context.charge("tokens_generated", tokens)
    total_seconds = max(context.costs["compute_seconds"], 1e-9)
    context.costs["sampling_tokens_per_second"] = (
        context.costs["tokens_generated"] / total_seconds
    )
    return samples


def _report(
    context: Context, num_earlier: int, total: int, rate: float, num_done: int
) -> None:
    context.progress.update(num_earlier + num_done, total, rate, "answers")
