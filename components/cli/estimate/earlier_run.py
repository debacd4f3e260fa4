"""The calibration that an earlier run of the store has left: times of its tasks, and their work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from components.canonical import JsonObject
from components.cli.estimate.calibration import (
    Calibration,
    Cost,
    Rate,
    mean,
    num_gpus,
    total,
)
from components.cli.stores import unknown_run
from components.contracts.recipe import Recipe
from components.contracts.summaries import GenerateSummary, TrainSummary
from components.errors import RatchetError, UserError
from components.report.runs import begun_runs, load_run
from components.report.views import RunView, TaskView
from components.runtime.context import Context
from components.runtime.receipts import read_summary

MAX_RUNS = 20
"""Newest runs of a store that are looked at."""
START_SECONDS = 8.0
"""Imports before the first task of a run, which no attempt records (measured on 2 cores)."""
LEAST_UNCERTAINTY = 0.10
"""Share by which equal work takes longer from one day to the next."""
AMOUNTS: dict[str, set[str]] = {
    "generate": {
        "prompts_per_round",
        "samples_per_prompt",
        "temperature",
        "top_k",
        "top_p",
    },
    "train": {"pretrain", "first", "rounds", "weight_decay", "dropout"},
}
"""Section → keys that change how much work there is, or what comes of it, but not its rate."""


def earlier_calibration(
    context: Context, recipe: Recipe, host: str
) -> Calibration | None:
    """Return the costs of the newest run whose tasks have the rates of this recipe's, on this host.

    Args:
        context: Store of the runs.
        recipe: The recipe.
        host: Name of this machine, as attempts record it.
    """
    newest_first = list(reversed(begun_runs(context)))
    for run_id in newest_first[:MAX_RUNS]:
        try:
            view = load_run(context, run_id)
        except RatchetError:
            # Of an older version, or damaged: `runs` and `verify` tell.
            continue
        hosts = {attempt.host for task in view.tasks for attempt in task.attempts}
        is_alike = view.recipe is not None and rates_of(view.recipe) == rates_of(recipe)
        if is_alike and hosts == {host}:
            calibration = calibration_of(context, view, recipe)
            if calibration is not None:
                return calibration
    return None


def calibration_like(context: Context, run_id: str, recipe: Recipe) -> Calibration:
    """Return the costs of a run's tasks, wherever it ran.

    Raises UserError if the run has not done each kind of task by one attempt, or is not known.
    """
    view = load_run(context, run_id)
    if not view.tasks:
        raise unknown_run(context, run_id)
    calibration = calibration_of(context, view, recipe)
    if calibration is None:
        raise UserError(
            f"--like {run_id}: no round of this run was carried out as a whole, so it tells no "
            "rates; name another run, or leave it out for a trial"
        )
    return calibration


def rates_of(recipe: Recipe) -> JsonObject:
    """Return the parts of a recipe that decide how long a unit of work takes."""
    sections: JsonObject = {}
    for name in ("model", "data", "generate", "train", "evaluate"):
        section = getattr(recipe, name)
        sections[name] = section.model_dump(
            mode="json", exclude=AMOUNTS.get(name, set())
        )
    return sections


def calibration_of(
    context: Context, view: RunView, recipe: Recipe
) -> Calibration | None:
    """Return the costs of a run's tasks; None if a kind of task is missing.

    Tasks that were interrupted, or found their work done, are left out: their records have the times
    of a part alone.

    Args:
        context: Store of the run, for the number of cores.
        view: The run.
        recipe: The recipe whose amounts of work are meant.
    """
    if view.recipe is None:
        return None
    tasks = [task for task in view.tasks if _is_whole(task)]
    trainings = [task for task in tasks if task.last.step == "train"]
    first = [_training(view, task) for task in trainings if task.last.round == 0]
    later = [_training(view, task) for task in trainings if task.last.round > 0]
    evaluations = _costs(view, tasks, "evaluate", "evaluate-r")
    bases = _costs(view, tasks, "evaluate", "evaluate-base")
    prepare = _costs(view, tasks, "prepare", "prepare")
    rounds = list(_samplings(view, tasks))
    is_complete = bool(prepare and evaluations and later and rounds)
    if not is_complete or (view.recipe.train.has_supervised_stage and not first):
        return None
    num_samples = sum(count for count, _, _ in rounds) / len(rounds)
    return Calibration(
        source="earlier run",
        run_id=view.run_id,
        uncertainty=max(
            LEAST_UNCERTAINTY, _spread([rate.unit.seconds for rate in later])
        ),
        cores=context.threads,
        gpus=num_gpus(),
        start=Cost(seconds=START_SECONDS),
        prepare=mean(prepare),
        evaluate_base=mean(bases or evaluations),
        evaluate=mean(evaluations),
        first_training=_mean_rate(first),
        round_training=_mean_rate(later),
        generate=Rate(unit=mean([cost.times(1 / count) for count, cost, _ in rounds])),
        select=Rate(unit=mean([cost.times(1 / count) for count, _, cost in rounds])),
        decide=mean(_costs(view, tasks, "decide", "decide-r")),
        publish=mean(_costs(view, tasks, "publish", "publish")),
        num_samples=round(num_samples * _asked(recipe) / _asked(view.recipe)),
    )


def _asked(recipe: Recipe) -> int:
    return recipe.generate.prompts_per_round * recipe.generate.samples_per_prompt


def _is_whole(task: TaskView) -> bool:
    """Return True if one attempt did all of the task's work."""
    working_attempts = [attempt for attempt in task.attempts if not attempt.reused]
    return len(working_attempts) == 1 and bool(working_attempts[0].receipt)


def _cost(view: RunView, task: TaskView) -> Cost:
    """Return the cost of a task that was done."""
    attempt = task.worked
    receipt = view.receipts.get(attempt.receipt)
    objects = receipt.objects.values() if receipt is not None else ()
    return Cost(
        seconds=attempt.seconds,
        tokens_trained=attempt.costs.get("tokens_trained", 0.0),
        tokens_sampled=attempt.costs.get("tokens_generated", 0.0),
        stored_bytes=sum(ref.size for ref in objects),
    )


def _costs(
    view: RunView, tasks: Sequence[TaskView], step: str, name: str
) -> list[Cost]:
    """Return the costs of the tasks of a step whose name begins in a certain way."""
    return [
        _cost(view, task)
        for task in tasks
        if task.last.step == step and task.name.startswith(name)
    ]


def _training(view: RunView, task: TaskView) -> Rate:
    """Return the rate of a training by optimizer step."""
    cost = _cost(view, task)
    receipt = view.receipts.get(task.worked.receipt)
    # A training that is done has steps; one whose receipt is gone is taken as a single step.
    num_steps = read_summary(receipt, TrainSummary).steps if receipt is not None else 1
    compute_seconds = task.worked.costs.get("compute_seconds", cost.seconds)
    fixed = Cost(seconds=cost.seconds - compute_seconds, stored_bytes=cost.stored_bytes)
    unit = Cost(seconds=compute_seconds, tokens_trained=cost.tokens_trained)
    return Rate(fixed=fixed, unit=unit.times(1 / num_steps))


def _mean_rate(rates: Sequence[Rate]) -> Rate:
    return Rate(
        fixed=mean([rate.fixed for rate in rates]),
        unit=mean([rate.unit for rate in rates]),
    )


def _samplings(
    view: RunView, tasks: Sequence[TaskView]
) -> Iterator[tuple[int, Cost, Cost]]:
    """Yield (samples, cost of all shards of generate, cost of select) of each round."""
    for select in tasks:
        if select.last.step != "select":
            continue
        shards = [
            task
            for task in tasks
            if task.last.step == "generate" and task.last.round == select.last.round
        ]
        receipts = [view.receipts.get(task.worked.receipt) for task in shards]
        summaries = [
            read_summary(receipt, GenerateSummary)
            for receipt in receipts
            if receipt is not None
        ]
        if not summaries or len(summaries) != summaries[0].shards:
            continue
        begin = min(task.worked.started for task in shards)
        end = max(task.worked.started + task.worked.seconds for task in shards)
        cost = total([_cost(view, task) for task in shards])
        bought = cost.tokens_sampled if summaries[0].engine == "openai" else 0.0
        changes = {"seconds": end - begin, "tokens_bought": bought}
        num_samples = sum(_num_samples(summary) for summary in summaries)
        yield num_samples, cost.model_copy(update=changes), _cost(view, select)


def _num_samples(summary: GenerateSummary) -> int:
    hinted = summary.hinted.generated if summary.hinted is not None else 0
    written = summary.written.tried if summary.written is not None else 0
    return summary.generated + hinted + written


def _spread(seconds: Sequence[float]) -> float:
    """Return how far times of equal work are from their mean at most, as a share of it."""
    center = sum(seconds) / len(seconds)
    return max(abs(value - center) for value in seconds) / center if center else 0.0
