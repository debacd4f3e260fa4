"""The begin of a trial: its process, its folder, and what of the store it needs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import TypeAdapter

from components.cli.checker_code import send_checker_code
from components.cli.estimate.calibration import Calibration, Trial
from components.cli.estimate.failures import Failure, error_of
from components.cli.local.run import LOCAL_PARALLELISM
from components.cli.source_tree import SOURCE_TREE
from components.contracts.recipe import Recipe
from components.errors import RatchetError, one_line
from components.runtime.context import Context
from components.runtime.ledger import (
    RELEASE_SCHEME,
    fetch_release,
    receipt_of,
    release_in_force,
)

POLL_SECONDS = 0.5
"""Between two looks whether this process is asked to end."""

_RESULT: TypeAdapter[Calibration | Failure] = TypeAdapter(Calibration | Failure)


def try_out(
    context: Context,
    recipe: Recipe,
    recipe_path: Path,
    rounds: int,
    environment: Mapping[str, str],
) -> Calibration:
    """Return the costs of a recipe's tasks, from a trial that leaves nothing behind.

    Args:
        context: The user's store, for releases that the recipe begins from.
        recipe: The recipe.
        recipe_path: Its file, beside which code of the user's is looked for.
        rounds: Rounds that are unrolled; of 0 nothing of a round is tried out.
        environment: Variables of the processes.

    Raises:
        UserError: What the first steps of a run would raise.
    """
    with tempfile.TemporaryDirectory(prefix="ratchet-estimate-") as name:
        folder = Path(name)
        store = (folder / "store").as_uri()
        with_code = send_checker_code(recipe, recipe_path, store, environment)
        trial = Trial(
            recipe=_with_fetched_models(context, with_code, folder),
            rounds=rounds,
            store=store,
            folder=folder,
        )
        request = folder / "trial.json"
        request.write_text(trial.model_dump_json(), encoding="utf-8")
        return _result_of(
            request, folder / "log.txt", _environment(folder, recipe, environment)
        )


def _result_of(
    request: Path, log_path: Path, environment: Mapping[str, str]
) -> Calibration:
    """Return what the trial's process tells; raise what it met."""
    module = "components.cli.estimate.trial_process"
    command = [sys.executable, "-m", module, str(request), str(os.getpid())]
    with log_path.open("wb") as log, _sigterm_noted() as is_asked_to_end:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            # A group of its own, so that all that it has forked ends with it.
            start_new_session=True,
        )
        try:
            output = _output_of(child, is_asked_to_end)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if not output:
        lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        last_line = next((line for line in reversed(lines) if line.strip()), "(none)")
        raise RatchetError(
            f"the trial ended with status {child.returncode}; its last line: {one_line(last_line)}"
        )
    result = _RESULT.validate_json(output)
    if isinstance(result, Failure):
        raise error_of(result)
    return result


def _output_of(
    child: subprocess.Popen[bytes], is_asked_to_end: Callable[[], bool]
) -> bytes:
    """Return what a process prints until it ends; end this one if it is asked to."""
    while True:
        if is_asked_to_end():
            raise SystemExit(128 + signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            output, _ = child.communicate(timeout=POLL_SECONDS)
            return output


@contextmanager
def _sigterm_noted() -> Iterator[Callable[[], bool]]:
    """Note SIGTERM instead of dying from it, so that nothing is left behind; yield whether it came."""
    # No exception of the handler's: one that came as the child is started would leave it running.
    received = threading.Event()
    previous_handler = signal.signal(
        signal.SIGTERM, lambda number, frame: received.set()
    )
    try:
        yield received.is_set
    finally:
        signal.signal(signal.SIGTERM, previous_handler)


def _environment(
    folder: Path, recipe: Recipe, environment: Mapping[str, str]
) -> dict[str, str]:
    """Return the variables of a trial: those of a local run, with a cache of its own."""
    import_path = [str(SOURCE_TREE), environment.get("PYTHONPATH", "")]
    # A trial is no run: a tracking server hears nothing of it.
    kept_variables = {
        name: value
        for name, value in environment.items()
        if name != "MLFLOW_TRACKING_URI"
    }
    return {
        **kept_variables,
        "OMP_WAIT_POLICY": "PASSIVE",
        # No thread of a pool may exist when the process forks.
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, import_path)),
        "RATCHET_CACHE": str(folder / "cache"),
        "RATCHET_SIDE_BY_SIDE": str(min(LOCAL_PARALLELISM, recipe.generate.shards)),
    }


def _with_fetched_models(context: Context, recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe with releases of the user's store as folders: the trial's store has none."""
    model = recipe.model
    if model.source.startswith(RELEASE_SCHEME):
        source = _fetched_release(context, model.source, folder)
        model = model.model_copy(update={"source": source})
    generate = recipe.generate
    teacher = generate.teacher
    if teacher is not None and teacher.source.startswith(RELEASE_SCHEME):
        source = _fetched_release(context, teacher.source, folder)
        teacher = teacher.model_copy(update={"source": source})
        generate = generate.model_copy(update={"teacher": teacher})
    return recipe.model_copy(update={"model": model, "generate": generate})


def _fetched_release(context: Context, source: str, folder: Path) -> str:
    line = release_in_force(context, source)
    return str(fetch_release(context, receipt_of(context, line), folder))
