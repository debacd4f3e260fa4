"""Trainings for tests: tiny models in real processes, over a real store."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from components.contracts.recipe import LoraStructure, TrainSection
from components.contracts.rows import TrainingRow, write_rows
from components.train.process.job import Job, Stage
from tests.conftest import free_ports
from tests.unit.forked import start
from tests.unit.tiny import save_tiny

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONFAULTHANDLER": "1",
}
PATIENCE_SECONDS = 300.0


def reversal(count: int, seed: int) -> list[TrainingRow]:
    """Digits to reverse."""
    rng = random.Random(seed)
    texts = [
        "".join(rng.choice("0123456789") for _ in range(rng.randint(1, 6)))
        for _ in range(count)
    ]
    return [
        TrainingRow(
            id=str(index),
            prompt=f"{text}=",
            completion=text[::-1],
            source="labelled",
            round=0,
        )
        for index, text in enumerate(texts)
    ]


def paired(rows: list[TrainingRow]) -> list[TrainingRow]:
    """Rows of the model's own, right answers beside the digits in their old order."""
    return [
        row.model_copy(update={"source": "self", "worse": row.prompt[:-1]})
        for row in rows
        if row.prompt[:-1] != row.completion
    ]


def make_job(
    folder: Path,
    *,
    rows: list[TrainingRow] | None = None,
    dev: list[TrainingRow] | None = None,
    wrong: list[TrainingRow] | None = None,
    steps: int = 12,
    stages: tuple[Stage, ...] | None = None,
    architecture: str = "llama-nope",
    lora: LoraStructure | None = None,
    adapter: Path | None = None,
    base: Path | None = None,
    reference: Path | None = None,
    init: Path | None = None,
    key: str = "k" * 32,
    model: dict[str, Any] | None = None,
    **section: Any,
) -> Job:
    """A job in the new folder `folder`, with its checkpoints in `folder/../store`."""
    folder.mkdir()
    output = folder / "out"
    output.mkdir()
    write_rows(folder / "mix.jsonl", rows if rows is not None else reversal(200, 0))
    write_rows(folder / "dev.jsonl", dev if dev is not None else reversal(40, 1))
    if wrong is not None:
        write_rows(folder / "wrong.jsonl", wrong)
    settings = {
        "batch_size": 16,
        "micro_batch_size": 16,
        "evaluate_every": 4,
        "precision": "fp32",
        **section,
    }
    return Job(
        task="train-r0",
        run_id="run",
        key=key,
        store=f"file://{folder.parent}/store",
        init=init or save_tiny(folder / "base", architecture, **(model or {})),
        adapter=adapter,
        base=base,
        reference=reference,
        mix=folder / "mix.jsonl",
        wrong=None if wrong is None else folder / "wrong.jsonl",
        dev=folder / "dev.jsonl",
        output=output,
        system_prompt="",
        section=TrainSection.model_validate(settings),
        stages=stages or (Stage(name="sft", steps=steps, learning_rate=3e-3),),
        weight_decay=0.01,
        lora=lora,
        max_new_tokens=8,
        seed=7,
        threads=1,
    )


def command_of(job: Job) -> list[str]:
    """Return the command by which the step starts its processes."""
    spec = job.output / "job.json"
    spec.write_text(job.model_dump_json())
    processes = job.section.num_processes
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        if processes > 1
        else []
    )
    return [
        sys.executable,
        *launcher,
        "-m",
        "components.train.process.worker",
        str(spec),
    ]


def environment_of(job: Job, **more: str) -> dict[str, str]:
    """Return the variables of a training, with a cache of its own.

    Trainings side by side share nothing but the store.
    """
    return {
        **os.environ,
        **ENVIRONMENT,
        "RATCHET_CACHE": str(job.output.parent / "cache"),
        **more,
    }


def carry_out(job: Job, **environment: str) -> dict[str, Any]:
    """Train in real processes and return what they left.

    Tests of torchrun itself start it with `command_of`.

    Returns:
        Status, failure, losses, summary and output folder: see `outcome`.
    """
    status = _status_of_all(begin(job, **environment))
    stderr_text = said_by(job)
    assert status is not None, f"still running: {stderr_text[-3000:]}"
    return outcome(job, status, stderr_text)


def begin(job: Job, **environment: str) -> list[ForkServerProcess]:
    """Start the processes of a training; what they write is in `said_by`."""
    arguments = command_of(job)[-1:]
    path = _stderr_path(job)
    path.touch()
    return [
        start(
            "components.train.process.worker",
            arguments,
            environment_of(job, **environment, **rank_variables),
            stdout=path,
            stderr=path,
        )
        for rank_variables in _environments_of_ranks(job.section.num_processes)
    ]


def said_by(job: Job) -> str:
    """What the processes of a training have said so far."""
    return _stderr_path(job).read_text(errors="replace")


def _stderr_path(job: Job) -> Path:
    return job.output.parent / "said.txt"


def _environments_of_ranks(num_processes: int) -> list[dict[str, str]]:
    """Return what torchrun tells each process of a node; nothing where there is one process."""
    if num_processes == 1:
        return [{}]
    shared = {
        "WORLD_SIZE": str(num_processes),
        "LOCAL_WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_ports(1)[0]),
        # Processes of one run share a folder of checkpoints.
        "TORCHELASTIC_RUN_ID": "tests",
    }
    ranks = map(str, range(num_processes))
    return [{**shared, "RANK": rank, "LOCAL_RANK": rank} for rank in ranks]


def _status_of_all(processes: list[ForkServerProcess]) -> int | None:
    """Return the exit status of the first process that failed, 0 if none did, None if one runs on.

    The others are ended once one failed, as torchrun does: they wait for it in a collective.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    status: int | None = 0
    running: dict[Any, ForkServerProcess] = {
        process.sentinel: process for process in processes
    }
    while running and status == 0:
        ended = connection.wait(list(running), max(0.0, deadline - time.monotonic()))
        if not ended:
            status = None
        for sentinel in ended:
            process = running.pop(sentinel)
            process.join()
            status = status or process.exitcode
    for process in running.values():
        process.kill()
        process.join()
    return status


def outcome(job: Job, status: int, said: str) -> dict[str, Any]:
    """What a finished process left."""
    failure = (
        json.loads((job.output / "failure.json").read_text())
        if (job.output / "failure.json").exists()
        else {}
    )
    if not failure and status > 0:
        raise AssertionError(said[-12000:])
    log = job.output / "log.jsonl"
    entries = [json.loads(line) for line in log.open()] if log.exists() else []
    return {
        "failure": failure,
        "status": status,
        "said": said,
        "output": job.output,
        "folder": job.output / "model",
        "log": entries,
        "losses": [entry["loss"] for entry in entries],
        **(
            json.loads((job.output / "measured.json").read_text())["summary"]
            if log.exists()
            else {}
        ),
    }


def train(folder: Path, **settings: Any) -> dict[str, Any]:
    """`make_job` carried out."""
    return carry_out(make_job(folder, **settings))
