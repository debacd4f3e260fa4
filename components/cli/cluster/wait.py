"""The end of a run on a cluster: it is waited for, and a run that may succeed is begun again.

Exit status of `submit --wait`: 0 the run succeeded, 1 failed, 2 the time is up (or wrong usage), 3
cancelled, 4 the API did not answer. A goal that was not met is no failure of the run; its verdict
is in the summary. With `--require-release`, for whoever wants a status for it: 5 the run succeeded
and released nothing, 6 whether it did could not be read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from components.cli.cluster.kfp_api import Pipelines
from components.cli.cluster.kfp_calls import Gone
from components.cli.cluster.run_failures import (
    explained_by_logs,
    explained_by_store,
    failed_steps,
)
from components.cli.cluster.submit import Started, Submission, start, state_of
from components.errors import UserError
from components.retry import pauses

EXIT_CODES = {"SUCCEEDED": 0, "SKIPPED": 0, "FAILED": 1, "CANCELED": 3}
"""State of a run that has ended → exit status."""
TIME_IS_UP = 2
NOTHING_RELEASED = 5
"""With `--require-release`, of a run that succeeded; the next one likewise."""
NOT_KNOWN = 6
FIRST_POLL_SECONDS = 2.0
LONGEST_POLL_SECONDS = 30.0

# So long the API may be away while a run is waited for: an upgrade of it takes minutes.
POLL_GIVE_UP_SECONDS = 1800.0


@dataclass(frozen=True)
class Waiting:
    """Options of the wait for the end of a run."""

    timeout_seconds: float | None
    """In all, with its restarts; None: without end."""
    restarts: int
    """Limit of new beginnings of a run that failed for reasons that may pass."""
    on_state: Callable[[str], None]
    """Is called with each new state."""
    on_restart: Callable[[Started, int], None]
    """Is called with a failed run and the restart's number before it is begun again."""
    environment: Mapping[str, str]
    """May hold keys of the store, where the steps' own words are."""
    ui: str = ""


def follow(
    pipelines: Pipelines,
    started: Started,
    timeout_seconds: float | None,
    on_state: Callable[[str], None],
) -> tuple[Started, int]:
    """Wait until the run has ended; return it and the exit status.

    Args:
        pipelines: The API server. It may be away for half an hour meanwhile.
        started: The run.
        timeout_seconds: Wait no longer; None: without end.
        on_state: Is called with each new state.

    Raises:
        UserError: The run was deleted.
        Unreachable: The server was away for too long.
    """
    # Not the client's own wait_for_run_completion: it never returns for a cancelled run, and dies
    # on the first 5xx.
    patience = pipelines.patience
    pipelines.patience = dataclasses.replace(
        patience, give_up_seconds=max(POLL_GIVE_UP_SECONDS, patience.give_up_seconds)
    )
    deadline = None if timeout_seconds is None else patience.clock() + timeout_seconds
    state = ""
    # A run of days needs no look every two seconds.
    poll_pauses = pauses(FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS, factor=1.5)
    while True:
        try:
            run = pipelines.run(started.run_id)
        except Gone:
            raise UserError(
                f"run {started.run_id} was deleted while it was waited for"
            ) from None
        if state_of(run) != state:
            state = state_of(run)
            on_state(state)
        started = dataclasses.replace(started, state=state, run=run)
        if state in EXIT_CODES:
            return with_failures(pipelines, started), EXIT_CODES[state]
        pause_seconds = next(poll_pauses)
        if deadline is not None and patience.clock() + pause_seconds > deadline:
            return started, TIME_IS_UP
        patience.sleep(pause_seconds)


def follow_and_restart(
    pipelines: Pipelines,
    submission: Submission,
    started: Started,
    waiting: Waiting,
) -> tuple[Started, int]:
    """Wait until the run has ended, and begin it again where it failed for reasons that may pass.

    Nothing inside the cluster does: the stock controller tries only deleted pods again, and an
    eviction or a lost node ends the run. The new run finds the finished steps in the store.

    Returns:
        The last run, and the exit status as `follow` has it.

    Raises:
        UserError: The run was deleted.
        Unreachable: The server was away for too long.
    """
    clock = pipelines.patience.clock
    deadline = (
        None if waiting.timeout_seconds is None else clock() + waiting.timeout_seconds
    )
    num_restarts = 0
    while True:
        seconds_left = None if deadline is None else max(0.0, deadline - clock())
        started, status = follow(pipelines, started, seconds_left, waiting.on_state)
        failures = explained_by_store(
            started.failures,
            str(submission.parameters.get("store", "")),
            started.run_id,
            waiting.environment,
        )
        started = dataclasses.replace(started, failures=failures)
        if not started.may_pass or num_restarts == waiting.restarts:
            return started, status
        num_restarts += 1
        waiting.on_restart(started, num_restarts)
        started = start(pipelines, submission, again=True, ui=waiting.ui)


def with_failures(pipelines: Pipelines, started: Started) -> Started:
    """Return a run that failed together with its failed steps; any other as it is."""
    if started.state != "FAILED":
        return started
    try:
        workflow = pipelines.workflow(started.run_id)
    except (Gone, UserError):
        # A server without the API v1beta1, or a role without its right: the state alone is known.
        return started
    failures = explained_by_logs(
        pipelines, started.run_id, workflow, failed_steps(workflow)
    )
    return dataclasses.replace(started, failures=failures)
