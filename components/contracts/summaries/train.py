"""Summary of a training, and the lines of its log."""

from __future__ import annotations

from typing import ClassVar, Literal

from components.contracts.summaries.summary import Part, Summary


class LogEntry(Part):
    """One optimizer step: a line of `log.jsonl`."""

    step: int
    """From 1."""
    stage: Literal["pretrain", "sft"]
    # A loss that is not finite never reaches the weights: the step is skipped, and says so here.
    loss: float | None
    """Mean loss per token of the batch before the update, in nats; by `train.method` dpo, rpo, kto and
    raft the mean over rows of their objective. None if it is not finite."""
    learning_rate: float
    gradient_norm: float | None
    """Before clipping; None if it is not finite."""
    tokens: int
    """Tokens of the batch, prompts included."""
    # Computed and thrown away: what grouping by length and packing save.
    padding_share: float
    """Share of the computed positions that hold no token, 0 to 1."""
    dev_loss: float | None = None
    """Mean loss per token on the dev rows after the update, in nats; None if not measured."""
    # Nothing is skipped silently.
    dropped: tuple[str, ...] | None = None
    """Ids of rows without a finite loss, of a step that changed no weight; None for other steps."""


class TrainingLayout(Part):
    """Layout of the training in memory."""

    zero_stage: int
    """ZeRO stage, 0 to 3."""
    offload: bool
    """Weights and moments are in host memory."""
    micro_batch_size: int
    """Rows of one forward pass of one process."""
    precision: str
    """`fp32`, `autocast` or `bf16`."""
    state_bytes: int
    """Estimate of weights, gradients and moments in one process."""
    activation_bytes: int
    """Estimate of the activations of one micro-batch."""


class TrainingOutcome(Part):
    """Results of one training, as its process 0 measures them."""

    steps: int
    """Optimizer steps that were done."""
    # With early stopping that is not the last one.
    best_step: int
    """The step whose weights are exported."""
    # Stages have losses of other rows, which cannot be compared.
    first_loss: float
    """Loss of the last stage's first step, before its updates, in nats per token."""
    final_loss: float
    """Mean loss of the last tenth of that stage's steps."""
    first_dev_loss: float | None
    """Of the last stage's dev rows, in nats per token; None without any, like the next two."""
    best_dev_loss: float | None
    final_dev_loss: float | None
    stopped_early: bool
    """The dev loss did not improve for `train.early_stopping_patience` measurements."""
    tokens_trained: int
    """Tokens of all peers, prompts included."""
    rows_too_long: int = 0
    """Rows of the mix that were longer than `train.max_length`: left out, or cut (`train.too_long`).
    """
    dev_rows_too_long: int = 0
    """The same of the dev split."""
    skipped_steps: int
    """Steps that changed no weight because a gradient was not finite."""
    padding_share: float
    """Share of the computed positions that hold no token, 0 to 1."""
    num_processes: int
    end_of_text_share: float | None
    """Share of greedy answers to a few dev prompts that the model itself ends; None without any."""
    interpolation_share: float | None
    """Share of the trained model in the export; None if it was not interpolated with the base."""
    interpolation_losses: dict[str, float] | None
    """Share of the trained model → dev loss; None if it was not interpolated."""
    layout: TrainingLayout
    optimizer: str
    """Origin of the AdamW: `torch` or `deepspeed`."""


class TrainSummary(Summary, TrainingOutcome):
    """Results of the training of a round; of several peers, those of the first."""

    written_by: ClassVar[tuple[str, ...]] = ("train",)
    round: int
    init_from: Literal["base", "champion"]
