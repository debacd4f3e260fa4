"""Checks before the first step, so that a mistake costs seconds and not a night."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from components.contracts.rows import Asked
from components.errors import UserError
from components.modeling.encoding import Codec
from components.modeling.likelihood import CompletionLoss, EncodedRow, collate
from components.runtime.context import Context
from components.train.process.row_batches import TrainingSet
from components.train.process.sizing import Estimate, Model

CHECKED_ROWS = 16
"""Rows of the first loss, and prompts of the answers that a trained model ends by itself."""
BYTES_PER_PARAMETER = 16
"""Bytes of a checkpoint: weight, two moments, best weight so far, in float32."""


def check_rows(
    stage: str, rows: TrainingSet, codec: Codec, model: PreTrainedModel
) -> None:
    """Raise UserError if training on these rows could not teach what it should."""
    longest = max(row.longest for row in rows.rows)
    # Beyond it a model has no positions, or has never seen them in its own training.
    context_length = getattr(model.config, "max_position_embeddings", None)
    if context_length is not None and longest > context_length:
        raise UserError(
            f"{stage}: the longest row has {longest} tokens, the model sees {context_length}: "
            "lower train.max_length"
        )
    named_rows = list(zip(rows.names, rows.rows, strict=True))
    empty = [name for name, row in named_rows if row.num_targets == 0]
    if empty:
        raise UserError(
            f"{stage}: {len(empty)} of {len(rows.rows)} rows have no token that bears loss, first "
            f"{empty[0]}"
        )
    # A model that never sees the end inside the loss answers without end. Raw text (one masked
    # token) may be cut into windows, which end anywhere, and so may rows that the recipe has cut.
    cut_names = {*rows.too_long.names, *rows.going_on}
    unended = [
        name
        for name, row in named_rows
        if row.num_masked > 1
        and row.ids[-1] not in codec.end_ids
        and name not in cut_names
    ]
    if unended:
        raise UserError(
            f"{stage}: {len(unended)} rows do not end with the end token inside the loss, first "
            f"{unended[0]}"
        )


def masked_share(rows: Sequence[EncodedRow]) -> float:
    """Return the share of the tokens that bear no loss."""
    num_tokens = sum(len(row.ids) for row in rows)
    num_masked = num_tokens - sum(row.num_targets for row in rows)
    return num_masked / max(1, num_tokens)


def check_masks(stage: str, rows: TrainingSet) -> float:
    """Return the masked share.

    Raises UserError for supervised rows of which nothing is masked: their prompts are lost.
    """
    share = masked_share(rows.rows)
    if stage == "sft" and share == 0.0:
        raise UserError(
            "sft: no token is masked: the rows have no prompts; is this raw text, for "
            "train.pretrain?"
        )
    return share


def first_loss(
    model: PreTrainedModel, rows: TrainingSet, codec: Codec, clock: Callable[[], float]
) -> tuple[float, float]:
    """Return (mean loss per token, seconds per position) before training.

    Measured on CHECKED_ROWS rows of all lengths, by `clock`, which gives seconds. Raises UserError
    if the loss is not finite: then weights or data are broken already.
    """
    ordered = sorted(rows.rows, key=lambda row: len(row.ids))
    stride = max(1, len(ordered) // CHECKED_ROWS)
    checked_rows = ordered[::stride][:CHECKED_ROWS]
    begun = clock()
    batch = collate(checked_rows, codec.pad_id).to(model.device)
    with torch.inference_mode():
        total = float(CompletionLoss(model)(batch))
    loss = total / sum(row.num_targets for row in checked_rows)
    if not math.isfinite(loss):
        raise UserError(
            f"the loss is {loss} before the first step: the base model's weights, or a row among "
            f"{CHECKED_ROWS} of all lengths, are broken (infinite weights? an empty vocabulary "
            "entry?)"
        )
    return loss, (clock() - begun) / batch.num_positions


def check_disk(context: Context, model: Model) -> None:
    """Raise UserError unless the disk has room for the files of a training."""
    # A checkpoint on its way, one that is fetched, and the exported model with its copy.
    checkpoint_bytes = model.num_trained * BYTES_PER_PARAMETER
    needed_bytes = 2 * checkpoint_bytes + 8 * model.num_parameters
    context.scratch.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(context.scratch).free
    if free_bytes < needed_bytes:
        raise UserError(
            f"{context.scratch}: checkpoints and the exported model need "
            f"{needed_bytes / 2**30:.1f} GiB, {free_bytes / 2**30:.1f} GiB are free: set "
            "RATCHET_CACHE to a folder on a larger disk"
        )


def announce(
    context: Context,
    estimate: Estimate,
    loss: float,
    share: float,
    seconds_per_token: float,
    num_tokens: int,
) -> None:
    """Note the layout, the first loss, the masked share and the expected minutes."""
    context.progress.note(str(estimate))
    # Forward and backward cost about three times the forward pass alone.
    minutes = 3 * seconds_per_token * num_tokens / 60
    context.progress.note(
        f"first loss {loss:.3f} a token, {share:.0%} of the tokens masked; about {minutes:.1f} "
        "minutes of training"
    )


def end_of_text_share(
    folder: Path, system_prompt: str, prompts: Sequence[Asked], max_new_tokens: int
) -> float | None:
    """Return the share of greedy answers that the trained model ends by itself.

    Of answers to the first CHECKED_ROWS dev prompts; None without prompts.
    """
    if not prompts:
        return None
    # Read back from its files: this is the model that generate and evaluate will load.
    from components.modeling.inference.answers import load_for_answers
    from components.modeling.inference.sampler import Request, Sampling, sample

    model, codec = load_for_answers(folder, system_prompt)
    requests = []
    for prompt in prompts[:CHECKED_ROWS]:
        requests.append(Request(ids=tuple(codec.prompt_ids(prompt)), seeds=(0,)))
    greedy = Sampling(
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=max_new_tokens,
        batch_size=CHECKED_ROWS,
    )
    answers = list(sample(model, requests, greedy, codec.end_ids, codec.pad_id))
    return sum(answer.finished for answer in answers) / len(answers)
