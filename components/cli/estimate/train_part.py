"""The part of a trial that trains: a few steps on rows such as a training has."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from components.cli.estimate.calibration import Frozen, Trial
from components.cli.estimate.trial_campaign import (
    MAX_ROWS,
    campaign_in_rounds,
    context_of,
    evenly,
    fetched_checkpoint,
    labelled_rows,
    rows_in,
)
from components.contracts.artifacts import CHECKPOINT_CONFIG, split_file
from components.contracts.rows import TrainingRow, write_rows
from components.modeling.blocks import depth_of
from components.runtime.campaign import Campaign
from components.runtime.context import Context
from components.runtime.progress import Progress
from components.runtime.receipts import fetch
from components.train.process.job import Job, Measured, Stage
from components.train.process.row_batches import is_of_stage
from components.train.process.worker import train

MAX_DEV_ROWS = 64
WARM_UP_STEPS = 1
"""Steps behind the first one, of which nothing is known, that are slow too: memory is new to them."""

Phase = Literal["pretrain", "supervised", "round"]


class MeasuredTraining(Frozen):
    """A training of a few steps."""

    step_seconds: float
    """Median, without evaluation."""
    step_tokens: float
    dev_row_seconds: float
    """Evaluation, by row of the dev split."""
    fixed_seconds: float
    """Start and export."""


def train_part(
    trial: Trial, start: str, phase: Phase, batch_size: int, num_steps: int
) -> MeasuredTraining:
    """Train the base for a few steps on rows such as the phase has, by the code of the train step.

    Args:
        trial: The trial.
        start: URI of its start receipt.
        phase: Stage of round 0, or a later round.
        batch_size: Rows of a step.
        num_steps: Steps; at least four.
    """
    stopwatch = _Stopwatch()
    context = replace(context_of(trial), progress=stopwatch)
    stopwatch.context = context
    campaign = campaign_in_rounds(trial, start, max_new_tokens=None)
    section = campaign.recipe.train
    has_pretrain = phase != "round" and section.pretrain is not None
    stage_name: Literal["pretrain", "sft"] = (
        "pretrain" if phase == "pretrain" else "sft"
    )

    def is_learnt(row: TrainingRow) -> bool:
        return is_of_stage(row, stage_name, with_text=not has_pretrain)

    path = fetch(context, campaign.prepared, split_file("dev"))
    dev_rows = [row for row in rows_in(path) if is_learnt(row)]
    job_folder = Path(tempfile.mkdtemp(prefix="job-", dir=trial.folder))
    write_rows(job_folder / "dev.jsonl", evenly(dev_rows, MAX_DEV_ROWS))
    write_rows(
        job_folder / "mix.jsonl",
        [row for row in _mix(trial, context, campaign, phase) if is_learnt(row)],
    )
    (job_folder / "output").mkdir()
    num_dev_rows = min(len(dev_rows), MAX_DEV_ROWS)
    with fetched_checkpoint(context, campaign.prepared) as base:
        begin = context.clock()
        train(
            _job(campaign, trial, base, job_folder, stage_name, batch_size, num_steps),
            context,
        )
        seconds = context.clock() - begin
    measured = Measured.model_validate_json(
        (job_folder / "output/measured.json").read_bytes()
    )
    shutil.rmtree(job_folder)
    step_seconds = statistics.median(stopwatch.step_seconds[WARM_UP_STEPS:-1])
    # The dev rows are evaluated after the last step, and count to it.
    dev_seconds = max(0.0, stopwatch.step_seconds[-1] - step_seconds)
    return MeasuredTraining(
        step_seconds=step_seconds,
        step_tokens=measured.summary.tokens_trained / measured.summary.steps,
        dev_row_seconds=dev_seconds / num_dev_rows if num_dev_rows else 0.0,
        fixed_seconds=seconds - measured.costs.compute_seconds,
    )


@dataclass
class _Stopwatch(Progress):
    """A progress that takes the time of every optimizer step and prints nothing."""

    context: Context | None = None
    step_seconds: list[float] = field(default_factory=list)
    _updated_at: float = 0.0

    def update(
        self, num_done: int, total: int, tokens_per_second: float = 0.0, text: str = ""
    ) -> None:
        """Note the time since the last step; of the first step nothing is known."""
        assert self.context is not None
        now_seconds = self.context.clock()
        if self._updated_at:
            self.step_seconds.append(now_seconds - self._updated_at)
        self._updated_at = now_seconds


def _job(
    campaign: Campaign,
    trial: Trial,
    base: Path,
    folder: Path,
    stage_name: Literal["pretrain", "sft"],
    batch_size: int,
    num_steps: int,
) -> Job:
    """Return a training of one stage that the train step would carry out, but for its length."""
    section = campaign.recipe.train
    plan = campaign.state.plan
    side_by_side = min(section.num_peers, context_of(trial).threads)
    needs_base = bool(section.kl_beta or section.interpolate)
    # Measured alone, without the processes that would share its work and its checkpoints.
    changes = {
        "batch_size": batch_size,
        "num_processes": 1,
        "num_nodes": 1,
        "evaluate_every": num_steps,
        "early_stopping_patience": num_steps,
    }
    return Job(
        task="trial",
        run_id="trial",
        key=uuid.uuid4().hex,
        store=trial.store,
        init=base,
        base=base if needs_base else None,
        mix=folder / "mix.jsonl",
        dev=folder / "dev.jsonl",
        output=folder / "output",
        system_prompt=campaign.recipe.model.system_prompt,
        section=section.model_copy(update=changes),
        stages=(
            Stage(name=stage_name, steps=num_steps, learning_rate=plan.learning_rate),
        ),
        weight_decay=plan.weight_decay,
        lora=plan.lora,
        layers=plan.layers,
        base_layers=None if plan.layers is None else depth_of(base / CHECKPOINT_CONFIG),
        max_new_tokens=campaign.recipe.generate.max_new_tokens,
        seed=0,
        threads=max(1, context_of(trial).threads // side_by_side),
    )


def _mix(
    trial: Trial, context: Context, campaign: Campaign, phase: Phase
) -> list[TrainingRow]:
    """Return rows such as a phase trains on; of a later round its share of labelled rows too."""
    labelled = evenly(list(labelled_rows(context, campaign)), MAX_ROWS)
    generated = [
        row for path in sorted(trial.folder.glob("rows-*")) for row in rows_in(path)
    ]
    if phase != "round" or not generated:
        return labelled
    share = campaign.recipe.select.labelled_share if labelled else 0.0
    num_labelled = round(len(generated) * share / max(1e-9, 1 - share))
    if num_labelled > len(labelled):
        generated = evenly(
            generated, max(1, round(len(labelled) * (1 - share) / share))
        )
    return evenly(labelled, num_labelled) + generated
