"""The process that tries a recipe out.

`python -m components.cli.estimate.trial_process FILE PARENT`; without the process PARENT it ends.

It imports torch once and forks a copy of itself for each part, as the server of a local run's tasks
does: so a start costs what it costs there, and DeepSpeed, which a process can start only once, is
started in each.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from components.cli.estimate.calibration import Calibration, Cost, Trial
from components.cli.estimate.failures import Failure
from components.cli.local.parent_death import end_with_parent
from components.cli.local.task_server import warm_is_possible
from components.errors import RatchetError


def main() -> None:
    """Print the calibration, or the failure that prevented it, as one line of JSON."""
    request, parent_pid = sys.argv[1:]
    # A command that is killed cannot end the trial, which would go on for minutes.
    end_with_parent(int(parent_pid))
    # Libraries print to standard output too: the line goes to a copy of it.
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    trial = Trial.model_validate_json(Path(request).read_bytes())
    begin = time.monotonic()
    if warm_is_possible():
        from components.cli.local.task_monitor import preload

        preload()
    from components.cli.estimate.trial import calibrate

    start_seconds = time.monotonic() - begin
    result: Calibration | Failure
    try:
        result = calibrate(trial, Cost(seconds=start_seconds))
    except RatchetError as error:
        result = Failure(kind=type(error).__name__, message=str(error))
    output.write(result.model_dump_json())
    output.flush()
    # Libraries that are taken down must not hide the result.
    os._exit(0)


if __name__ == "__main__":
    main()
