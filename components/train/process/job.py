"""The job file of a training, the same for every process and launcher."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from components.contracts.recipe import (
    Augmentation,
    LayerStructure,
    LoraStructure,
    TrainSection,
)
from components.contracts.summaries.train import TrainingOutcome
from components.errors import RatchetError


class OutOfMemory(RatchetError):
    """The device had too little memory for a micro-batch."""


class Stage(BaseModel):
    """One stretch of training with a learning-rate schedule of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Literal["pretrain", "sft"]
    steps: int
    learning_rate: float
    """Its peak, after the warm-up."""
    augmentation: Augmentation | None = None
    """Noise on its rows; None: none."""


class Costs(BaseModel):
    """Durations that one training process measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    compute_seconds: float
    """From the first step to the last, evaluations included."""
    startup_seconds: float
    """From the start of the training to the first step."""


class Measured(BaseModel):
    """The file `measured.json` that a training leaves beside the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    summary: TrainingOutcome
    costs: Costs


# A file, because torchrun starts the processes: they share no memory with the step.
class Job(BaseModel):
    """Everything one training process needs, as a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    task: str
    run_id: str
    key: str
    """Key of the step, under which checkpoints are stored."""
    store: str
    init: Path
    """Folder of the checkpoint to start from; with LoRA the frozen one: the base, or a champion that
    was trained in full."""
    adapter: Path | None = None
    """Folder of the adapter to go on from."""
    base: Path | None = None
    """Folder of the campaign's base model, where the loss or the export needs it."""
    reference: Path | None = None
    """Folder of the checkpoint that answers are compared with; None: the training starts from it,
    or compares with none."""
    mix: Path
    """Training rows."""
    wrong: Path | None = None
    """Wrong answers to learn from, where the objective takes them."""
    dev: Path
    """Dev rows, for early stopping; the file may be empty."""
    output: Path
    """Folder that gets `model/`, `adapter/`, `log.jsonl` and `measured.json`."""
    system_prompt: str
    section: TrainSection
    stages: tuple[Stage, ...]
    weight_decay: float
    """AdamW's, for matrices; norms and biases are not decayed."""
    lora: LoraStructure | None = None
    layers: LayerStructure | None = None
    base_layers: int | None = None
    """Decoder layers of the campaign's base model; None where the depth stays as it is."""
    max_new_tokens: int
    """Longest answer when the share of ended answers is measured."""
    seed: int
    threads: int
    """Cores of each process."""
