"""A trial of a recipe: parts of its tasks, each done for a few seconds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

from components.cli.estimate.calibration import (
    FIRST_UNITS,
    GROWTH,
    Calibration,
    Cost,
    Part,
    Rate,
    Trial,
    measured_rate,
    num_gpus,
    rate_through,
    total,
)
from components.cli.estimate.forks import forked, forked_side_by_side
from components.cli.estimate.prepare_part import AnswerLengths, Prepared, prepare_part
from components.cli.estimate.sample_parts import evaluate_part, sample_part
from components.cli.estimate.train_part import MeasuredTraining, Phase, train_part
from components.cli.estimate.trial_campaign import context_of
from components.cli.local.run import LOCAL_PARALLELISM
from components.contracts.recipe import Recipe

EVALUATE_SECONDS = 3.0
SAMPLE_SECONDS = 3.0
TRAIN_SECONDS = 4.0
"""Each measurement grows until it takes about so long."""
LEAST_STEPS = 6
MOST_STEPS = 40
# Of the demo on 2 cores: 0.9 to 1.2 s for 3,000 samples, and 0.15 s.
SELECT = Rate(fixed=Cost(seconds=0.3), unit=Cost(seconds=0.0003))
DECIDE = Cost(seconds=0.15)
UNCERTAINTY = 0.25
"""Aim of the figure `budget.time_error`."""


def calibrate(trial: Trial, start: Cost) -> Calibration:
    """Return the costs of a recipe's tasks on this machine.

    Args:
        trial: The recipe.
        start: Cost of what a run does before its first task.

    Raises:
        UserError: What the first steps of a run would raise: the data or the model cannot be used.
    """
    recipe = trial.recipe
    load, _, _ = os.getloadavg()
    prepared = forked(partial(prepare_part, trial))
    evaluate_base = _evaluation(trial, prepared, None)
    evaluate = evaluate_base
    taught = prepared.evaluated if recipe.train.has_supervised_stage else None
    if taught is not None:
        evaluate = _evaluation(trial, prepared, taught)
    threads = context_of(trial).threads
    first_training = Rate()
    if recipe.train.has_supervised_stage:
        first_training = _first_training(trial, prepared, threads)
    generate = Rate()
    round_training = Rate()
    if trial.rounds:
        generate = _sampling(trial, prepared)
        num_steps = recipe.train.rounds.steps
        round_training = _rate_of_training(trial, prepared, "round", num_steps, threads)
    release = (evaluate.unit + evaluate_base.unit).times(prepared.num_released)
    return Calibration(
        source="trial",
        uncertainty=UNCERTAINTY,
        cores=threads,
        gpus=num_gpus(),
        start=start,
        prepare=prepared.cost,
        evaluate_base=evaluate_base.cost_of(prepared.num_evaluated),
        evaluate=evaluate.cost_of(prepared.num_evaluated),
        first_training=first_training,
        round_training=round_training,
        generate=generate,
        select=SELECT,
        decide=DECIDE,
        # Champion and base answer the prompts of the release; the model is stored once more.
        publish=release.model_copy(update={"stored_bytes": prepared.model_bytes}),
        num_samples=samples_of_round(recipe, prepared.num_round_prompts),
        gaps=(*_busy(load, threads), *_gaps(recipe)),
    )


def samples_of_round(recipe: Recipe, num_prompts: int) -> int:
    """Return the samples of a round, those with a hint among them where the recipe asks for them."""
    section = recipe.generate
    count = num_prompts * section.samples_per_prompt
    if section.source == "model":
        # The prompts are samples too.
        count += num_prompts
    if section.hints is not None:
        each = section.hints.samples_per_prompt or section.samples_per_prompt
        count += section.hints.prompts_per_round * each
    return count


def _evaluation(
    trial: Trial, prepared: Prepared, lengths: AnswerLengths | None
) -> Rate:
    """Return the rate of an evaluation by prompt.

    Args:
        trial: The trial.
        prepared: Its campaign.
        lengths: Answers of the model that is evaluated; None: those of the base, as it is.
    """
    longest = None if lengths is None else lengths.longest

    def measure(num_prompts: int) -> Part:
        return forked(
            partial(evaluate_part, trial, prepared.start, num_prompts, longest)
        )

    rate = measured_rate(measure, prepared.num_evaluated, EVALUATE_SECONDS)
    if lengths is None:
        return rate
    num_samples = (
        prepared.num_evaluated + trial.recipe.evaluate.pass_k * prepared.num_sampled
    )
    return with_tokens(rate, lengths.mean * num_samples / prepared.num_evaluated)


def with_tokens(rate: Rate, unit_tokens: float) -> Rate:
    """Return a rate of sampling whose units have other numbers of tokens, and so other times."""
    measured_tokens = rate.unit.tokens_sampled
    if not measured_tokens:
        return rate
    changes = {
        "seconds": rate.unit.seconds * unit_tokens / measured_tokens,
        "tokens_sampled": unit_tokens,
    }
    return Rate(fixed=rate.fixed, unit=rate.unit.model_copy(update=changes))


def _sampling(trial: Trial, prepared: Prepared) -> Rate:
    """Return the rate of a round's sampling by sample, all shards together."""
    recipe = trial.recipe
    # Answers of a teacher are as long as the teacher makes them.
    is_taught = recipe.train.has_supervised_stage and recipe.generate.teacher is None
    lengths = prepared.sampled if is_taught else None
    longest = None if lengths is None else lengths.longest
    if recipe.generate.engine == "openai":
        mean = lengths.mean if lengths is not None else recipe.generate.max_new_tokens
        return Rate(unit=Cost(tokens_sampled=mean, tokens_bought=mean))
    num_shards = min(recipe.generate.shards, LOCAL_PARALLELISM)

    def measure(num_prompts: int) -> Part:
        each = max(1, num_prompts // num_shards)
        parts = [
            partial(sample_part, trial, prepared.start, shard, each, longest)
            for shard in range(num_shards)
        ]
        return _side_by_side(forked_side_by_side(parts))

    rate = measured_rate(measure, prepared.num_round_prompts, SAMPLE_SECONDS)
    return rate if lengths is None else with_tokens(rate, lengths.mean)


def _side_by_side(parts: list[Part]) -> Part:
    """Return parts of shards that ran at the same time as one."""
    seconds = max(part.cost.seconds for part in parts)
    cost = total([part.cost for part in parts]).model_copy(update={"seconds": seconds})
    return Part(num_units=sum(part.num_units for part in parts), cost=cost)


def _first_training(trial: Trial, prepared: Prepared, threads: int) -> Rate:
    """Return the rate of round 0 by step: the mean over its stages."""
    section = trial.recipe.train
    phases: dict[Phase, int] = {"supervised": section.first.steps}
    if section.pretrain is not None:
        phases["pretrain"] = section.pretrain.steps
    costs = []
    for phase, num_steps in phases.items():
        if num_steps:
            rate = _rate_of_training(trial, prepared, phase, num_steps, threads)
            costs.append(rate.cost_of(num_steps))
    return Rate(unit=total(costs).times(1 / sum(phases.values())))


def _rate_of_training(
    trial: Trial, prepared: Prepared, phase: Phase, num_steps: int, threads: int
) -> Rate:
    """Return the rate of a training by optimizer step; its model is stored at the end.

    Args:
        trial: The trial.
        prepared: Its campaign.
        phase: The training.
        num_steps: Its length.
        threads: Cores of the machine.
    """
    section = trial.recipe.train
    measured = _measured_training(trial, prepared, phase)
    num_evaluations = -(-num_steps // section.evaluate_every)
    evaluation_seconds = (
        num_evaluations * prepared.num_dev_rows * measured.dev_row_seconds
    )
    # Peers train side by side, as many as there are cores.
    num_turns = -(-section.num_peers // min(section.num_peers, threads))
    num_devices = section.num_nodes * (section.num_processes if num_gpus() else 1)
    step_seconds = measured.step_seconds + evaluation_seconds / num_steps
    return Rate(
        fixed=Cost(
            seconds=num_turns * measured.fixed_seconds,
            stored_bytes=section.num_peers * prepared.model_bytes,
        ),
        unit=Cost(
            seconds=num_turns * step_seconds / num_devices,
            tokens_trained=section.num_peers * measured.step_tokens,
        ),
    )


def _measured_training(
    trial: Trial, prepared: Prepared, phase: Phase
) -> MeasuredTraining:
    """Return the times of whole optimizer steps; where these are long, of steps of fewer rows."""
    batch_size = trial.recipe.train.batch_size
    num_rows = min(FIRST_UNITS, batch_size)
    num_steps = LEAST_STEPS
    smaller = None
    while True:
        measured = forked(
            partial(train_part, trial, prepared.start, phase, num_rows, num_steps)
        )
        part = Part(num_units=num_rows, cost=Cost(seconds=measured.step_seconds))
        # An upper bound: many rows fill a processor better than few.
        next_step_seconds = max(part.cost.seconds * GROWTH, 1e-6)
        if num_rows == batch_size or next_step_seconds * LEAST_STEPS > TRAIN_SECONDS:
            break
        smaller = part
        num_rows = min(batch_size, num_rows * GROWTH)
        num_steps = max(
            LEAST_STEPS, min(MOST_STEPS, int(TRAIN_SECONDS / next_step_seconds))
        )
    step = rate_through(smaller if num_rows < batch_size else None, part).cost_of(
        batch_size
    )
    changes = {
        "step_seconds": step.seconds,
        "step_tokens": measured.step_tokens * batch_size / num_rows,
    }
    return measured.model_copy(update=changes)


def _busy(load: float, cores: int) -> Iterator[str]:
    """Yield a sentence if other processes take much of the machine's time.

    Args:
        load: Processes that wanted to run in the minute of the trial's begin.
        cores: Cores that the trial may use.
    """
    if load > cores:
        yield f"how fast this machine is when it is idle: {load:.0f} processes share {cores} cores"


def _gaps(recipe: Recipe) -> Iterator[str]:
    """Yield a sentence for each part of the recipe whose cost a trial does not measure."""
    yield "select and decide are not tried out: they are taken to be as fast as in the demo"
    if recipe.generate.engine == "openai":
        yield "the endpoint is not asked, so its time is not known"
    if recipe.select.judge is not None:
        yield "the judge is not asked, so its time and its price are not known"
    if recipe.select.reward is not None:
        yield "the reward model of section select is not tried out"
    if recipe.select.influence is not None or recipe.select.ranked_by:
        yield "select asks a model about each sample, which is not tried out"
    if recipe.select.people is not None:
        yield "each round waits for people"
    if recipe.evaluate.harness is not None:
        yield "lm-eval's tasks are not tried out"
    if recipe.train.method in ("kto", "raft"):
        yield f"train.method {recipe.train.method} is timed as sft, which takes less"
    if recipe.train.method in ("dpo", "rpo"):
        yield (
            f"pairs of train.method {recipe.train.method}: every sample is taken to have a wrong one "
            "beside it, as long as an answer of the base"
        )
    if recipe.train.num_nodes > 1 or recipe.train.num_processes > 1:
        yield "several processes are taken to divide the work without loss"
