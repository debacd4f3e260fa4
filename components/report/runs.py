"""A run gathered from attempt records, receipts and the latest state.

Tolerant on purpose: this is read when something went wrong. Parts that are missing or damaged
become lines of `RunView.problems`, never an exception; only a store that cannot be reached raises.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from components.contracts.artifacts import (
    ACCEPTED,
    DROPPED,
    LOG,
    RECIPE,
    RESULTS,
    STATE,
    split_file,
)
from components.contracts.recipe import Recipe
from components.contracts.recipe_file import parse_recipe
from components.contracts.rows import Dropped, TrainingRow, read_rows
from components.contracts.state import RoundRecord, State
from components.contracts.summaries import (
    EvaluateSummary,
    GenerateSummary,
    LogEntry,
    PublishSummary,
    SelectSummary,
    StartSummary,
    Summary,
    TrainSummary,
)
from components.errors import Corrupt, Missing, OlderReceipt, UserError, one_line
from components.report.answers import SPLIT, ComparedAnswers, compared_answers, spread
from components.report.costs import totals_of
from components.report.views import (
    RoundView,
    RunView,
    Tasks,
    TaskView,
    first_failed_round,
    start_of_last,
)
from components.runtime.attempts import Attempt
from components.runtime.context import Context
from components.runtime.ledger import released_line
from components.runtime.receipts import Receipt, fetch, read_receipt, read_summary
from components.storage import keys

MAX_ROWS_READ = 20_000
"""Rows of a file that are read when a few are to be shown."""

Problems = list[str]
"""A line for everything that is missing or damaged."""
Receipts = dict[str, Receipt]
"""Ref → receipt."""
R = TypeVar("R", bound=BaseModel)
S = TypeVar("S", bound=Summary)
T = TypeVar("T")


def load_run(context: Context, run_id: str, *, examples: int = 0) -> RunView:
    """Return what is known of a run.

    Args:
        context: Store of the run.
        run_id: Its name.
        examples: Accepted and dropped rows to read of each round; 0 leaves out the training curves
            too.

    Raises:
        Transient: The store cannot be reached for now.
        UserError: The store cannot be used, or was written by an older version.
    """
    problems: Problems = []
    tasks = _tasks(context, run_id, problems)
    state, state_ref = _latest_state(context, tasks, problems)
    receipts: Receipts = {}
    for ref in dict.fromkeys(named_receipts(tasks, state)):
        receipt = _tolerate(problems, partial(read_receipt, context, ref))
        if receipt is not None:
            receipts[ref] = receipt
    recipe = None
    rounds: list[RoundView] = []
    if state is not None:
        # The start's own state names no start: its receipt is the one that holds it.
        start = receipts.get(state.start if state.start is not None else state_ref)
        if start is not None:
            recipe = _tolerate(problems, partial(_recipe, context, start))
            about_start = _summary(start, StartSummary, problems)
            if about_start is not None and about_start.teacher is not None:
                ref = about_start.teacher.receipt
                teacher = _tolerate(problems, partial(read_receipt, context, ref))
                if teacher is not None:
                    receipts[ref] = teacher
        for record in state.history:
            rounds.append(_round(context, record, receipts, examples, problems))
    if recipe is None:
        recipe = _tolerate(problems, partial(_recipe_of_run, context, run_id))
    attempts = [attempt for task in tasks for attempt in task.attempts]
    published = published_receipt(tasks, receipts)
    publication = _summary(published, PublishSummary, problems)
    release = None
    if published is not None and publication is not None and publication.needs_approval:
        look_up = partial(released_line, context, publication.name, published.ref)
        release = _tolerate(problems, look_up)
    return RunView(
        run_id=run_id,
        store=context.store.root,
        recipe=recipe,
        state=state,
        state_ref=state_ref,
        tasks=tasks,
        receipts=receipts,
        base_evaluation=_summary(
            _base_evaluation(state, receipts), EvaluateSummary, problems
        ),
        rounds=tuple(rounds),
        publication=publication,
        release=release,
        totals=totals_of(sorted(attempts, key=lambda attempt: attempt.order)),
        answers=_answers(context, state, receipts, examples, problems),
        # A damaged object is met by everyone who reads it, and told once.
        problems=tuple(dict.fromkeys(problems)),
    )


def run_id_of_job(context: Context, job_id: str) -> str | None:
    """Return the run that a pipeline job carried out; None if the job did not get to naming it."""
    # A file of another form is as good as none: the report is written all the same.
    try:
        document = json.loads(context.store.get_bytes(keys.job_key(job_id)))
        return str(document["run_id"])
    except (Missing, UserError, ValueError, KeyError, TypeError):
        return None


def latest_run_id(context: Context) -> str | None:
    """Return the run with the newest attempt; None in an empty store."""
    begun = begun_runs(context)
    return next(reversed(begun), None)


def begun_runs(context: Context) -> dict[str, float]:
    """Return run → begin of its newest attempt in seconds since the epoch, the newest run last."""
    now_seconds = context.clock()
    newest_by_run: dict[str, float] = {}
    all_attempts = keys.attempts_prefix("x").replace("x/", "")
    for key in context.store.list(all_attempts):
        if key.count("/") != 3:
            # Somebody else's file: `verify` names it.
            continue
        _, run_id, _, name = key.split("/")
        # Names begin with the start time, so no record has to be read.
        milliseconds, _, _ = name.partition("-")
        begin_seconds = int(milliseconds) / 1000 if milliseconds.isdigit() else 0.0
        newest_by_run[run_id] = max(newest_by_run.get(run_id, 0.0), begin_seconds)

    def order(run: tuple[str, float]) -> tuple[bool, float, str]:
        run_id, begin_seconds = run
        # A machine whose clock was ahead is not the newest for ever. Of two begins at the same
        # time, the name decides: listings have no order of their own.
        return begin_seconds <= now_seconds, begin_seconds, run_id

    return dict(sorted(newest_by_run.items(), key=order))


def named_receipts(tasks: Tasks, state: State | None) -> Iterator[str]:
    """Yield the refs of all receipts that a run's tasks and state name; some come twice."""
    for task in tasks:
        if task.last.receipt:
            yield task.last.receipt
    if state is not None:
        yield from state.receipts


def _tasks(context: Context, run_id: str, problems: Problems) -> Tasks:
    """Return the tasks of a run in the order in which they first began."""
    attempts: list[Attempt] = []
    for key in context.store.list(keys.attempts_prefix(run_id)):
        try:
            attempt = Attempt.from_bytes(context.store.get_bytes(key))
        except (ValidationError, Corrupt) as error:
            kind = type(error).__name__
            problems.append(f"{key}: not an attempt record, or a changed one ({kind})")
        else:
            attempts.append(attempt)
    attempts_by_task: dict[str, list[Attempt]] = {}
    for attempt in sorted(attempts, key=lambda attempt: attempt.order):
        attempts_by_task.setdefault(attempt.task, []).append(attempt)
    # Attempts are in the order of their begin, and so are the first ones of each task.
    return tuple(
        TaskView(name, tuple(task_attempts))
        for name, task_attempts in attempts_by_task.items()
    )


def _latest_state(
    context: Context, tasks: Tasks, problems: Problems
) -> tuple[State | None, str]:
    """Return (the newest state or None, its ref)."""
    attempts = [
        attempt
        for task in tasks
        for attempt in task.attempts
        if attempt.step in ("prepare", "champion", "decide") and attempt.receipt
    ]
    newest_first = sorted(attempts, key=lambda attempt: attempt.order, reverse=True)
    last_start = start_of_last(tasks)
    first_failed = first_failed_round(tasks)
    best: State | None = None
    best_ref = ""
    seen: set[str] = set()
    for attempt in newest_first:
        ref = attempt.receipt
        if ref in seen:
            continue
        seen.add(ref)
        state = _tolerate(problems, partial(_state, context, ref))
        if state is None:
            continue
        # Work that failed in the last start was not that of this state: it would have been reused.
        if attempt.order < last_start and first_failed <= state.next_round - 1:
            continue
        # A second start that was cut short finds the first rounds done again; the state that an
        # earlier start had reached goes on from there, and is the later one.
        if best is None or _continues(state, ref, best, best_ref):
            best = state
            best_ref = ref
    return best, best_ref


def _continues(state: State, ref: str, earlier: State, earlier_ref: str) -> bool:
    """Return True if a state is a later one of the same campaign.

    Args:
        state: The state.
        ref: Ref of its receipt.
        earlier: The state that it may continue.
        earlier_ref: Ref of the latter's receipt.
    """
    same_start = (earlier.start or earlier_ref) == (state.start or ref)
    same_history = state.history[: len(earlier.history)] == earlier.history
    return same_start and same_history and state.next_round > earlier.next_round


def _state(context: Context, ref: str) -> State:
    path = fetch(context, read_receipt(context, ref), STATE)
    return State.model_validate_json(path.read_bytes())


def _recipe(context: Context, start: Receipt) -> Recipe:
    path = fetch(context, start, RECIPE)
    return _as_stored(path.read_bytes())


def _recipe_of_run(context: Context, run_id: str) -> Recipe | None:
    """Return the recipe that prepare stored before its work; None without one."""
    try:
        document = context.store.get_bytes(keys.run_key(run_id, RECIPE))
    except Missing:
        return None
    return _as_stored(document)


def _as_stored(document: bytes) -> Recipe:
    """Return a stored recipe. Raises UserError, by its key, for what this version does not take."""
    return parse_recipe(
        json.loads(document), "the recipe of this run, as it was stored"
    )


def _round(
    context: Context,
    record: RoundRecord,
    receipts: Receipts,
    examples: int,
    problems: Problems,
) -> RoundView:
    """Return the view of a finished round; see `load_run` for the arguments."""
    train = receipts.get(record.receipts.get("train", ""))
    select = receipts.get(record.receipts.get("select", ""))
    evaluate = receipts.get(record.receipts.get("evaluate", ""))
    generate = receipts.get(record.receipts.get("generate-0", ""))
    view = RoundView(
        record=record,
        train=_summary(train, TrainSummary, problems),
        select=_summary(select, SelectSummary, problems),
        evaluate=_summary(evaluate, EvaluateSummary, problems),
        generate=_summary(generate, GenerateSummary, problems),
    )
    # The command line shows summaries alone, and need not load gigabytes of rows for them.
    if not examples:
        return view
    curve = _rows(context, train, LOG, LogEntry, problems)
    accepted = _rows(context, select, ACCEPTED, TrainingRow, problems)
    dropped = _rows(context, select, DROPPED, Dropped, problems)
    return dataclasses.replace(
        view,
        curve=tuple(curve),
        accepted=tuple(spread(accepted, examples)),
        dropped=tuple(_of_every_reason(dropped, examples)),
    )


def _base_evaluation(state: State | None, receipts: Receipts) -> Receipt | None:
    if state is None or state.base_evaluation is None:
        return None
    return receipts.get(state.base_evaluation)


def _answers(
    context: Context,
    state: State | None,
    receipts: Receipts,
    examples: int,
    problems: Problems,
) -> ComparedAnswers | None:
    """Return base and champion on the test prompts; None while the base is the champion."""
    if not examples or state is None or state.champion_round is None:
        return None
    names = (state.prepared, state.base_evaluation, state.champion_evaluation)
    prepared, base, champion = (receipts.get(name or "") for name in names)
    if prepared is None or base is None or champion is None:
        return None
    files = {RESULTS: (base, champion), split_file(SPLIT): (prepared,)}
    if any(
        name not in receipt.objects for name, own in files.items() for receipt in own
    ):
        return None
    record = state.champion_record
    assert record is not None, "a champion has a record"
    compare = partial(compared_answers, context, prepared, base, champion)
    return _tolerate(problems, partial(compare, record.metric, examples // 2))


def published_receipt(tasks: Tasks, receipts: Receipts) -> Receipt | None:
    """Return the publish receipt of the last start; None without one."""
    last_start = start_of_last(tasks)
    refs = [
        task.last.receipt
        for task in tasks
        if task.last.step == "publish" and task.last.order >= last_start
    ]
    return receipts.get(refs[-1]) if refs else None


def _summary(receipt: Receipt | None, kind: type[S], problems: Problems) -> S | None:
    """Return the summary of a receipt; None without one, or if it is not of this kind."""
    if receipt is None:
        return None
    return _tolerate(problems, partial(read_summary, receipt, kind))


def _rows(
    context: Context,
    receipt: Receipt | None,
    name: str,
    kind: type[R],
    problems: Problems,
) -> list[R]:
    """Return the first MAX_ROWS_READ rows of a file; none if there is no such file."""
    if receipt is None or name not in receipt.objects:
        return []

    def read() -> list[R]:
        rows = read_rows(fetch(context, receipt, name), kind)
        return list(itertools.islice(rows, MAX_ROWS_READ))

    return _tolerate(problems, read) or []


def _of_every_reason(rows: list[Dropped], count: int) -> list[Dropped]:
    """Return at most `count` rows, sorted by reason."""
    rows_by_reason: dict[str, list[Dropped]] = {}
    for row in rows:
        rows_by_reason.setdefault(row.reason, []).append(row)
    # Taken from the reasons in turn, so that rare reasons are shown too.
    turns = itertools.zip_longest(*rows_by_reason.values())
    in_turn = [row for turn in turns for row in turn if row is not None]
    return sorted(in_turn[:count], key=lambda row: row.reason)


def _tolerate(problems: Problems, read: Callable[[], T]) -> T | None:
    """Return the result of `read`, or None with a new problem if its data is missing or damaged.

    Raises:
        OlderReceipt: The data is of an older version.
    """
    try:
        return read()
    except OlderReceipt:
        # The rest of the store is as old: one error says it better than a line for each object.
        raise
    except (Corrupt, ValidationError, ValueError, UserError) as error:
        problems.append(one_line(error, 300))
        return None
