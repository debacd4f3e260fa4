"""Rows of a training: read, and encoded for each of its stages."""

from __future__ import annotations

from dataclasses import dataclass

from components.contracts.rows import Asked, TrainingRow, read_rows
from components.modeling.encoding import Codec, load_codec
from components.modeling.likelihood import EncodedRow
from components.train.process.job import Job, Stage
from components.train.process.micro_batches import Kind
from components.train.process.row_batches import (
    TooLong,
    TrainingSet,
    balanced,
    dev_set,
    is_of_stage,
    training_set,
)


@dataclass(frozen=True)
class Material:
    """The rows of a training, encoded."""

    codec: Codec
    stages: list[tuple[Stage, TrainingSet]]
    dev_rows: list[list[EncodedRow]]
    """Of each stage, those of the kind that it learns from."""
    prompts: list[Asked]
    """Prompts of the dev rows."""
    num_rows: int
    """Rows of the mix."""
    num_unused: int
    """Rows of the mix that belong to no stage."""
    num_too_long: int
    """Rows of the mix that are longer than `train.max_length`, and were left out or cut."""
    dev_too_long: list[TooLong]
    """Of each stage."""

    @property
    def kind(self) -> Kind:
        """How rows become sequences. Without a wrong answer there is nothing to compare."""
        rows = [row for _, stage_rows in self.stages for row in stage_rows.rows]
        if any(row.worse is not None for row in rows):
            return "pairs"
        if any(row.wrong for row in rows):
            return "unpaired"
        return "sampled" if any(row.sampled for row in rows) else "rows"


def load_material(job: Job) -> Material:
    """Return the rows of a job, encoded for its model.

    Raises UserError for a stage without rows, and for a row that is too long where the recipe says
    so.
    """
    codec = load_codec(job.init, job.system_prompt)
    section = job.section
    rows = list(read_rows(job.mix, TrainingRow))
    if job.wrong is not None:
        wrong_rows = list(read_rows(job.wrong, TrainingRow))
        rows += balanced(wrong_rows, rows)
    # Only a pretrain stage of this very training has the raw text to itself.
    has_pretrain = any(stage.name == "pretrain" for stage in job.stages)
    stages = []
    for stage in job.stages:
        stage_rows = training_set(
            rows,
            codec,
            stage.name,
            with_text=not has_pretrain,
            max_length=section.max_length,
            weighting=section.weighting,
            turns=section.turns,
            with_pairs=section.method in ("dpo", "rpo"),
            with_sampled=section.method == "raft",
            too_long=section.too_long,
            augmentation=stage.augmentation,
        )
        stages.append((stage, stage_rows))
    # A recipe without a dev split has an empty file for it.
    dev_split: list[TrainingRow] = []
    if job.dev.stat().st_size:
        dev_split = list(read_rows(job.dev, TrainingRow))
    dev_rows = []
    dev_too_long = []
    for stage in job.stages:
        # Labels that pretraining has not taught yet would end it, and raw text, which is far more
        # tokens, would end the supervised stage.
        of_stage = [
            row
            for row in dev_split
            if is_of_stage(row, stage.name, with_text=not has_pretrain)
        ]
        stage_rows_of_dev, long_rows = dev_set(
            of_stage, codec, section.max_length, section.turns, section.too_long
        )
        dev_rows.append(stage_rows_of_dev)
        dev_too_long.append(long_rows)
    used = {name for _, stage_rows in stages for name in stage_rows.names}
    long_names = {
        name for _, stage_rows in stages for name in stage_rows.too_long.names
    }
    return Material(
        codec=codec,
        stages=stages,
        dev_rows=dev_rows,
        prompts=[row.asked for row in dev_split if row.prompt],
        num_rows=len(rows),
        num_unused=len(rows) - len(used | long_names),
        num_too_long=len(long_names),
        dev_too_long=dev_too_long,
    )
